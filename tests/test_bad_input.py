"""What a user gets wrong is told in one sentence on standard error, exit code 2, and harms nothing."""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from small_run import Answer, evo, set_options, settings, write_config

from evaluators.models.small import digits_cnn
from evo.storage.rows import from_parquet, from_table, to_parquet, to_table
from evo.storage.run_directory import RunDirectory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds weights.safetensors, config.yaml, and run: a finished search of one final pick."""
    folder = tmp_path_factory.mktemp("bad-input")
    torch.manual_seed(0)
    save_file(digits_cnn(width=8).state_dict(), folder / "weights.safetensors")
    write_config(folder / "config.yaml", settings(folder / "weights.safetensors"))
    (folder / "own_models.py").write_text(
        "import torch\n"
        "def confused(): return torch.zeros(2) + None\n"
        "def broken(): raise KeyError('layers')\n"
        "def listing(): return [1]\n"
        "def flat(): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(99, 10))\n"
    )
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    from evo import api
    from evo.config.schema import load

    api.run_config(load(folder / "config.yaml"), str(folder / "run"))
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def is_one_sentence(answer: Answer, *parts: str) -> None:
    lines = answer.err.splitlines()
    assert answer.code == 2, answer
    assert len(lines) == 1 and lines[0].startswith("error: ") and ", but " in lines[0] and "; " in lines[0], lines
    assert not [part for part in parts if part not in lines[0]], lines[0]


CONFIGURATIONS = {
    "unknown key": (["budget.generation=3"], ["budget.generation=3", "did you mean 'generations'?"]),
    "unknown section": (["objektives=[]"], ["did you mean 'objectives'?"]),
    "wrong type": (["budget.generations=many"], ["budget.generations must be a valid integer", "'many'"]),
    "out of range": (["budget.generations=0"], ["budget.generations", "greater than or equal to 1"]),
    "unknown algorithm": (["algorithm.inner.name=nsga4"], ["algorithm.inner.name", "did you mean 'nsga3'?"]),
    "unknown parameter": (["algorithm.inner.params={populaton: 8}"], ["nsga2", "did you mean 'population'?"]),
    "parameter of another kind": (["algorithm.inner.params={population: lots}"], ["params.population", "'lots'"]),
    "parameter out of range": (["algorithm.inner.params={population: -8}"], ["population=-8", "at least 1"]),
    "unknown operator": (["algorithm.inner.params={crossover: two_pint}"], ["did you mean 'two_point'?"]),
    "inner of no wrapper": (["algorithm.name=nsga2", "algorithm.params={}"], ["inner must be given to a wrapper only"]),
    "unknown objective": (["objectives=[{measure: topp1_error}]"], ["objectives.0", "did you mean 'top1_error'?"]),
    "test split as objective": (["objectives=[{measure: test_top1_error}]"], ["objectives.0", "'test_top1_error'"]),
    "objective twice": (["objectives=[{measure: macs}, {measure: macs}]"], ["a measure twice"]),
    "unknown constraint": (["constraints=[{measure: mac, upper: 3}]"], ["constraints.0", "did you mean 'macs'?"]),
    "constraint of no number": (["constraints=[{measure: macs, upper: half}]"], ["upper='half' for macs"]),
    "constraint out of reach": (
        ["constraints=[{measure: macs, upper: 0.01x}]"],
        ["macs<=1", "the smallest reachable is", "raise the limit"],
    ),
    "bits": (["space.weight_bits=[0, 8]"], ["space.weight_bits", "1..8", "but got 0"]),
    "codebook": (["space.codebooks=[kmean]"], ["space.codebooks", "did you mean 'kmeans'?"]),
    "codebook without these bits": (["space.codebooks=[ternary]"], ["space.codebooks", "4 bits"]),
    "group": (["space.groups=[channel, 1]"], ["space.groups", "above 1"]),
    "sparsity": (["space.sparsity=['4:2']"], ["a sparsity must be", "'4:2'"]),
    "mask criterion": (["space.mask_criterion=gramm"], ["space.mask_criterion", "did you mean 'gram'?"]),
    "output of a model with one": (["model.output=logits"], ["model.output must be one of [], but got 'logits'"]),
    "rank rule": (["space.rank_rules=[energy]"], ["space.rank_rules", "'energy'"]),
    "no range": (["space.ranges=[]"], ["space.ranges must name at least one of"]),
    "widths": (["space.widths=[0.5, 1.5]"], ["space.widths", "but got 1.5"]),
    "unknown criterion": (["space.criteria=[fischer]"], ["did you mean 'fisher'?"]),
    "no criterion": (["space.criteria=[]"], ["space.criteria must name how channels are chosen"]),
    "unknown factorisation": (["space.factors=[svdd]"], ["space.factors", "did you mean 'svd'?"]),
    "keep of no layer": (["space.keep=[hed]"], ["'hed'", "stem, block1.conv1", "head"]),
    "nothing to choose": (
        ["space.widths=[]", "space.weight_bits=[]", "space.activation_bits=[]", "space.skip_blocks=false"],
        ["no gene with two alleles"],
    ),
    "missing weights": (["model.weights={folder}/none.pt"], ["model.weights", "none.pt", "download it"]),
    "weights and training": (["model.pretrain={epochs: 1}"], ["either weights or pretrain"]),
    "unknown model": (["model.factory=digitscnn"], ["did you mean 'digits_cnn'?"]),
    "unknown argument of the model": (["model.kwargs={klasses: 5}"], ["model.kwargs", "'klasses': 5"]),
    "too few classes": (["model.kwargs={classes: 5}", "model.weights=null"], ["10 classes", "(1, 5)"]),
    "model for other images": (["model.factory=resnet8", "model.kwargs={}", "model.weights=null"], ["(1, 1, 8, 8)"]),
    "own model for other images": (["model.factory=own_models:flat"], ["(1, 1, 8, 8)", "cannot be multiplied"]),
    "own model not importable": (["model.factory=no_such_module:net"], ["'no_such_module:net'", "install"]),
    "own model without the function": (["model.factory=own_models:net"], ["no attribute 'net'"]),
    "own model raising TypeError": (["model.factory=own_models:confused"], ["model.kwargs", "unsupported operand"]),
    "own model raising": (["model.factory=own_models:broken"], ["KeyError: 'layers'", "own_models.py, line 3"]),
    "own model that is none": (["model.factory=own_models:listing"], ["torch.nn.Module", "got list"]),
    "missing data root": (
        ["data.factory=cifar10", "data.kwargs={root: '{folder}/none'}"],
        ["data.kwargs.root", "CIFAR10", "missing or empty", "download=true"],
    ),
    "empty data root": (
        ["data.factory=image_folder", "data.kwargs={root: '{folder}/empty'}"],
        ["data.kwargs.root", "one sub-folder of images per class", "missing or empty"],
    ),
    "another data root": (["data.factory=cifar10", "data.kwargs={root: '{folder}'}"], ["CIFAR10", "download=true"]),
    "data without a root": (["data.factory=cifar10"], ["data.kwargs", "'root'"]),
    "validation too large": (["data.validation=5000"], ["0 < validation < 200", "validation=5000"]),
    "no limit": (["budget.generations=null"], ["a search must end", "set one of them"]),
    "no override": (["budget.generations"], ["KEY=VALUE", "'budget.generations'"]),
    "broken override": (["budget.generations=["], ["--set", "YAML"]),
    "unknown pick": (["evaluation.final.picks=[kneee]"], ["'kneee'", "knee"]),
    "pick of no measure": (["evaluation.final.picks=['mac<=0.5x']"], ["did you mean 'macs'?"]),
    "unknown device": (["execution.device=gpu"], ["execution.device", "'cuda'"]),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_configurations(
    case: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)
    (folder / "empty").mkdir(exist_ok=True)
    overrides, parts = CONFIGURATIONS[case]
    if "own_models" in overrides[0]:
        overrides = [*overrides, "model.kwargs={}", "model.weights=null"]
    options = set_options([o.replace("{folder}", str(folder)) for o in overrides])
    found = evo(capsys, "doctor", folder / "config.yaml", *options)
    is_one_sentence(found, *parts)
    answer = evo(capsys, "search", folder / "config.yaml", "--run-dir", tmp_path / "run", "--quiet", *options)
    is_one_sentence(answer, *parts, "evo doctor")
    assert answer.err.startswith(found.err.strip()), "the doctor finds what a search would refuse"
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_device(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--run-dir", tmp_path / "run", "-q", "--set", "execution.device=cuda")
    is_one_sentence(evo(capsys, "search", folder / "config.yaml", *options), "execution.device=cuda", "auto or cpu")
    assert not (tmp_path / "run").exists()


class Malicious:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.trace),)


def _weights(kind: str, folder: Path) -> Path:
    file = folder / ("weights.safetensors" if kind == "cut off" else "weights.pt")
    if kind == "another network":
        torch.save({"stem.weight": torch.zeros(8, 1, 3, 3), "fc.weight": torch.zeros(3)}, file)
    elif kind == "another width":
        torch.save(digits_cnn(width=12).state_dict(), file)
    elif kind == "code saved by torch":
        torch.save({"weights": Malicious(folder / "executed")}, file)
    elif kind == "code":
        file.write_bytes(pickle.dumps(Malicious(folder / "executed")))
    elif kind == "whole module":
        torch.save(digits_cnn(), file)
    elif kind == "no tensors":
        torch.save([1, 2], file)
    else:
        file.write_bytes({"junk": b"junk", "empty": b"", "cut off": b"\x10\x00"}[kind])
    return file


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("another network", ["keys missing: block1", "and ", " more", "keys unexpected: fc.weight"]),
        ("another width", ["keys of another shape: ", "use the weights of this architecture"]),
        ("code saved by torch", ["not run", "model.state_dict()"]),
        ("code", ["not run", "model.state_dict()"]),
        ("whole module", ["more than tensors", "model.state_dict()"]),
        ("no tensors", ["tensors by name", "got list"]),
        ("junk", ["safetensors or a plain state_dict"]),
        ("empty", ["empty or cut off"]),
        ("cut off", ["safetensors or a plain state_dict"]),
    ],
)
def test_weights_files(
    kind: str, parts: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _weights(kind, tmp_path)
    options = ("--run-dir", tmp_path / "run", "-q", "--set", f"model.weights={file}")
    is_one_sentence(evo(capsys, "search", folder / "config.yaml", *options), "model.weights", file.name, *parts)
    assert not (tmp_path / "executed").exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"model: [1,\nbudget: {", ["valid YAML", "line 2"]),
        (b"- a", ["sections such as model and data", "list"]),
        (b"", ["sections such as model and data"]),
        (b"\xff\xfe\x00", ["UTF-8"]),
        (b"name: a", ["must have the key model"]),
        (None, ["CONFIG must name a YAML file", "configs/"]),
    ],
)
def test_configuration_files(
    content: bytes | None, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    if content is not None:
        file.write_bytes(content)
    is_one_sentence(evo(capsys, "search", file, "--run-dir", tmp_path / "run"), "config.yaml", *parts)


def test_run_directory_in_use(folder: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _contents(run)
    answer = evo(capsys, "search", folder / "config.yaml", "--run-dir", run, "-q")
    is_one_sentence(answer, "empty run directory", f"evo resume {run}")
    assert _contents(run) == before


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["export", "RUN", "--out", "NEW", "--pick", "kneee"], ["'kneee'", "ids of this front are 000"]),
        (["export", "RUN", "--out", "NEW", "--pick", "9999-0000"], ["'9999-0000'", "ids of this front are 000"]),
        (["export", "RUN", "--out", "NEW", "--pick", "macs<=0.01x"], ["macs<=1", "the nearest is 000", "macs="]),
        (["export", "RUN", "--out", "NEW", "--pick", "mac<=0.5"], ["'mac'", "macs"]),
        (["export", "RUN", "--out", "NEW", "--format", "tflite"], ["'tflite'", "onnx"]),
        (["export", "RUN", "--out", "NEW.pt2", "--format", "onnx"], ["NEW.pt2 for onnx"]),
        (["export", "RUN", "--out", "TAKEN.onnx"], ["must not overwrite", "TAKEN.onnx"]),
        (["export", "RUN", "--out", "RUN"], ["must not overwrite"]),
        (["front", "RUN", "--plot", "NEW.pdf"], ["must end in .html or .png", "NEW.pdf"]),
        (["front", "NEW"], ["a run directory must hold a run.json", "NEW"]),
        (["resume", "NEW"], ["a run directory must hold a run.json", "NEW"]),
        (["export", "NEW", "--out", "EXPORTED"], ["a run directory must hold a run.json", "NEW"]),
        (["front", "TAKEN.onnx"], ["Not a directory", "TAKEN.onnx"]),
        (["resume", "RUN", "--set", "space.widths=[0.25, 1.0]"], ["space.widths=[0.5, 1.0]", "space.widths=[0.25"]),
        (["resume", "RUN", "--set", "seed=5"], ["(seed=0)", "seed=5"]),
        (["resume", "RUN", "--set", "objectives=[{measure: top1_error, reference: 1}]"], ["macs", "no objectives.1"]),
        (["resume", "RUN", "--set", "evaluation.step2.validation=9"], ["evaluation.step2.validation=60"]),
        (["resume", "RUN", "--set", "algorithm.name=nsga3", "--set", "algorithm.params={}"], ["wrapper only"]),
        (["resume", "RUN", "--set", "model.kwargs.width=16"], ["model.kwargs.width=8", "model.kwargs.width=16"]),
        (["list", "algoritms"], ["did you mean 'algorithms'?"]),
    ],
    ids=lambda value: "-".join(value[:1] + value[2:]) if value[0] in ("export", "front", "resume", "list") else "",
)
def test_commands_on_a_run(
    arguments: list[str], parts: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "TAKEN.onnx").write_text("precious")
    before = _contents(tmp_path)
    names = {"RUN": "run", "EXPORTED": "exported"}
    paths = [str(tmp_path / names.get(a, a)) if a.isupper() or a[:3] in ("NEW", "TAK") else a for a in arguments]
    is_one_sentence(evo(capsys, *paths), *parts)
    assert _contents(tmp_path) == before


# What follows is damage: nothing that was committed may be lost, and nothing wrong may be used in silence.


def extended(capsys: pytest.CaptureFixture[str], run: Path) -> tuple[Answer, str]:
    """Resume for one more generation; the answer and what was warned of on the way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answer = evo(capsys, "resume", run, "-q", "--json", "--set", "budget.generations=3")
    return answer, " ".join(str(w.message) for w in caught if issubclass(w.category, RuntimeWarning))


def rows(run: Path) -> list[tuple[object, ...]]:
    evaluations = RunDirectory.open(str(run)).evaluations()
    return sorted((e.candidate.key, e.candidate.genome, tuple(e.measures.items())) for e in evaluations)


@pytest.fixture(scope="module")
def reference(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    """The evaluations of the search extended to three generations without any damage."""
    from evo import api

    run = shutil.copytree(finished, tmp_path_factory.mktemp("reference") / "run")
    api.resume(str(run), ["budget.generations=3"])
    return rows(Path(run))


def test_an_undamaged_run_is_extended(
    run: Path, reference: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows(run)
    answer, warned = extended(capsys, run)
    assert answer.code == 0 and not warned
    assert rows(run) == reference and set(before) < set(reference)


@pytest.mark.parametrize("damage", ["truncated", "manifest"])
def test_resume_falls_back_to_the_last_whole_commit(
    damage: str, run: Path, reference: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    name = "evaluations/round-000004.parquet" if damage == "truncated" else "manifest-000004.json"
    file = run / name
    file.write_bytes(file.read_bytes()[:-20])
    answer, warned = extended(capsys, run)
    assert answer.code == 0 and name in warned and "falling back to the commit of round 3" in warned
    assert rows(run) == reference


def test_resume_is_refused_where_no_commit_is_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "evaluations/round-000001.parquet").write_bytes(b"")
    before = _contents(run)
    answer, _ = extended(capsys, run)
    is_one_sentence(answer, "evaluations/round-000001.parquet has 0 bytes", "restore that file from a copy")
    assert _contents(run) == before


def _uncommit_last_round(run: Path) -> Path:
    """As if the search had been killed before the last commit: the round's rows are pending in the journal."""
    (run / "manifest-000004.json").unlink()
    return (run / "evaluations/round-000004.parquet").rename(run / "evaluations/pending-000004-0.parquet")


@pytest.mark.parametrize("edit", ["allele out of range", "negative allele", "a gene less"])
def test_an_illegal_genome_in_the_journal_is_left_out(
    edit: str, run: Path, reference: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    file = _uncommit_last_round(run)
    first, *others = from_table(from_parquet(file.read_bytes()))
    genome = first.candidate.genome
    changed = {
        "allele out of range": (99, *genome[1:]),
        "negative allele": (-1, *genome[1:]),
        "a gene less": genome[1:],
    }
    edited = replace(first, candidate=replace(first.candidate, genome=changed[edit]), measures={"top1_error": 0.0})
    file.write_bytes(to_parquet(to_table((edited, *others), 4)))
    with pytest.warns(RuntimeWarning, match=f"legal .* got 1 .* candidate {first.candidate.id}; .* left out"):
        assert evo(capsys, "front", run, "--json").code == 0
    answer, warned = extended(capsys, run)
    assert answer.code == 0 and first.candidate.id in warned and "left out" in warned
    assert rows(run) == reference


def test_an_edited_space_is_refused_by_readers_and_mended_by_resume(
    run: Path, reference: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "space.json"
    written = file.read_text()
    for content in (written.replace('"kept": [4, 8]', '"kept": [3, 8]'), "{}", written[:-10], "[]"):
        assert content != written
        file.write_text(content)
        is_one_sentence(evo(capsys, "front", run), "space.json", "restore it from a copy")
    file.unlink()
    is_one_sentence(evo(capsys, "front", run), "space.json")
    answer, _ = extended(capsys, run)
    assert answer.code == 0 and file.read_text() == written and rows(run) == reference


@pytest.mark.parametrize("content", ["{", "{}", "[1]"])
def test_a_broken_run_file_is_refused(content: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "run.json").write_text(content)
    is_one_sentence(evo(capsys, "front", run), "run.json must be intact")


def test_a_journal_file_of_other_columns_is_left_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = from_parquet((run / "evaluations/round-000001.parquet").read_bytes())
    pq.write_table(table.drop_columns(["genome"]), run / "evaluations/pending-000005-0.parquet")
    with pytest.warns(RuntimeWarning, match="pending-000005-0.parquet .* left out"):
        assert evo(capsys, "front", run, "--json").code == 0


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
