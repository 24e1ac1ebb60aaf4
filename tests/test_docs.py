"""Every command and code block of README and docs is executed, in the order of its page, with searches made small.

Fenced blocks that begin with "# NAME.py" or "# NAME.yaml" are files; a test_*.py file is run. Commands that need a cluster are
only parsed; make targets must exist.
"""

from __future__ import annotations

import glob
import importlib
import importlib.util
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from small_run import evo
from test_init import photos
from torch.utils.data import TensorDataset
from torchvision.models import resnet18

from evaluators.models.small import digits_cnn
from evo import api
from evo.cli import app
from evo.config.schema import Config, parse, validate
from evo.studies.classifier import check_names

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
WITHOUT_CODE = {
    "docs/architecture.md",
    "docs/concepts.md",
    "docs/methods.md",
    "docs/migration.md",
    "docs/model_coverage.md",
}
NEED_A_CLUSTER = {"submit", "status", "logs", "stop"}
NOT_OURS = {
    "source",
    "mlflow",
    "pip",
    "git",
    "ray",
    "docker",
    "kubectl",
    "ssh",
    "cd",
    "export",
    "helm",
    "cluster/manifests/ray-start.sh",
}
SMALL = (
    "execution.backend=local",
    "tracking.tracker=none",
    "budget={generations: 1}",
    "algorithm={params: {promote: 5}, inner: {name: nsga2, params: {population: 16}}}",
    "evaluation={step1: {images: 8}, step2: {recalibration: 8, validation: 8}}",
    "space.widths=[0.5, 1.0]",
    "space.weight_bits=[8, 32]",
    "space.factors=[]",
)
SMALL_PAIR = (
    "execution.backend=local",
    "tracking.tracker=none",
    "budget={generations: 1}",
    "algorithm.params.population=2",
    "constraints=[]",
    "model.kwargs={channels: 1, width: 2, blocks: 1}",
    "gan.epochs=0.02",
    "evaluation.step2.validation=4",
    "evaluation.final.picks=[]",
)


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """(language, text) of every fenced block, and ("sh", line) of every line of an indented one, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
    indented = re.compile(r"(?<=\n\n)((?:    .+\n)+)")
    found = [(m.start(), m[1], m[2]) for m in fence.finditer(text)]
    bare = fence.sub(lambda m: "\n" * len(m[0]), text)
    found += [(m.start(), "sh", line.strip()) for m in indented.finditer(bare) for line in m[1].splitlines()]
    yield from ((language, block) for _, language, block in sorted(found, key=lambda entry: entry[0]))


@pytest.fixture
def small_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    run_config = api.run_config

    def small(config: Config, *arguments: Any, **options: Any) -> Any:
        if config.gan is not None:
            return run_config(parse(config.to_yaml(), SMALL_PAIR), *arguments, **options)
        smaller = parse(config.to_yaml(), SMALL)
        held_out = smaller.data.model_copy(update={"validation": min(8, smaller.data.validation)})
        pretrain = smaller.model.pretrain and smaller.model.pretrain.model_copy(update={"batch": 4, "epochs": 2})
        model = smaller.model.model_copy(update={"pretrain": pretrain})
        return run_config(smaller.model_copy(update={"data": held_out, "model": model}), *arguments, **options)

    monkeypatch.setattr(api, "run_config", small)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("small_searches")
@pytest.mark.filterwarnings("ignore")
def test_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _workplace(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    done = 0
    for language, text in blocks(page):
        done += 1
        if language == "sh":
            _command(text, capsys)
        elif language == "python":
            _python(text, tmp_path, monkeypatch)
        elif language == "yaml":
            _configuration(text, tmp_path)
    assert done or page in WITHOUT_CODE


def _workplace(page: str, folder: Path) -> None:
    """What the pages say the reader has: images in folders, weights of a torchvision network."""
    (folder / "configs").symlink_to(ROOT / "configs")
    photos(folder / "photos", train=255 if page == "README.md" else 10)  # README holds 500 images out
    if page == "README.md":
        torch.manual_seed(0)
        from safetensors.torch import save_file

        save_file(resnet18(num_classes=10).state_dict(), folder / "resnet18.safetensors")


def _command(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line, comments=True)
    if not words or words[0] in NOT_OURS:
        return
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(words[1:2]) <= set(targets), line
        if words[1:] == ["demo"]:
            _demo(capsys)
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None, line
    elif words[0] == "evo" and (words[1] in NEED_A_CLUSTER or "--address" in words):
        _parse(words[1:])
    elif words[0] == "evo":
        if words[1] == "compare" and not Path(words[3]).exists():
            shutil.copytree(words[2], words[3])
        answer = evo(capsys, *(path for word in words[1:] for path in sorted(glob.glob(word)) or [word]))
        assert answer.code == 0, f"{line}: {answer.err}"
    else:
        pytest.fail(f"nobody knows how to try {line!r}")


def _demo(capsys: pytest.CaptureFixture[str]) -> None:
    """What the Makefile runs, made small; its dates become a word."""
    recipe = re.search(r"^demo:.*\n\t\$\(BIN\)/(evo .*)$", (ROOT / "Makefile").read_text(), re.M)
    assert recipe is not None
    config, run_dir = shlex.split(recipe[1])[2], "runs/demo-today"
    answer = evo(capsys, "search", ROOT / config, "--run-dir", run_dir, "--set", "model.pretrain.epochs=0.2")
    assert recipe[1] == f"evo search {config} --run-dir runs/demo-$$(date +%Y%m%d-%H%M%S)" and answer.code == 0


def _parse(words: list[str]) -> None:
    """Options and arguments as the command takes them; "..." stands for the address."""
    address = "http://127.0.0.1:8265"
    filled = (
        " ".join(words).replace("--address ...", "--address X").replace(" ...", " --address X").replace("X", address)
    )
    command = typer.main.get_command(app)
    name, *arguments = filled.split()
    command.commands[name].make_context(name, arguments).close()  # type: ignore[attr-defined]


def _python(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = re.match(r"# (\w+)\.py\n", text)
    if name is None:
        inside = folder / "python"
        inside.mkdir(exist_ok=True)
        if not (inside / "photos").exists():
            (inside / "photos").symlink_to(folder / "photos")
        with monkeypatch.context() as patch:
            patch.chdir(inside)
            exec(compile(text, "docs", "exec"), _given())
        return
    (folder / f"{name[1]}.py").write_text(text, encoding="utf-8")
    if name[1].startswith("test_"):
        importlib.invalidate_caches()
        specification = importlib.util.spec_from_file_location(f"docs_{name[1]}", folder / f"{name[1]}.py")
        assert specification is not None and specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        tests = [value for key, value in vars(module).items() if key.startswith("test_")]
        assert tests, f"{name[1]}.py holds no test"
        for test in tests:
            test()


def _given() -> dict[str, Any]:
    """The names that README takes for granted."""
    torch.manual_seed(0)
    images, labels = torch.rand(24, 1, 8, 8), torch.arange(24) % 10
    data = TensorDataset(images, labels)
    return {"__name__": "docs", "my_trained_module": digits_cnn(width=8), "train_dataset": data, "test_dataset": data}


def _configuration(text: str, folder: Path) -> None:
    values = yaml.safe_load(text)
    name = re.match(r"# (\w+\.yaml)\n", text)
    if name is not None:
        (folder / name[1]).write_text(text, encoding="utf-8")
    if name is not None or set(values) & set(Config.model_fields):
        check_names(validate({"model": {"factory": "digits_cnn"}, "data": {"factory": "digits"}, **values}))
