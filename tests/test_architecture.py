"""The floors of the architecture: who may import whom, what stays light, and what never enters the repository."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("search_spaces", "evo", "evaluators", "cluster")
# The top floor joins names to objects; below it nothing imports it, but for the two that hand over to it when called.
TOP = {
    "evo/cli.py",
    "evo/cli_jobs.py",
    "evo/cli_looking.py",
    "evo/cli_starting.py",
    "evo/api.py",
    "evo/build.py",
    "evo/cell_study.py",
    "evo/doctor.py",
    "evo/explain.py",
    "evo/report.py",
    "evo/inputs.py",
    "evo/pair_outputs.py",
    "evo/studies.py",
    "evo/supernets.py",
    "evo/timing.py",
    "evo/tracked.py",
    "evo/translation.py",
    "evo/workers.py",
}
HANDS_OVER_TO_TOP = {"evo/__init__.py", "evo/result.py"}

ENGINE = {"search_spaces", "evo", "numpy", "pyarrow", "moocore"}
TORCH = {"torch", "torchvision", "safetensors", "filelock", "sklearn", "PIL"}
FLOORS = {
    "search_spaces": {"search_spaces", "numpy"},
    "evo": ENGINE,
    "evaluators": ENGINE | TORCH | {"evaluators", "onnx", "onnxscript", "onnxruntime", "openvino"},
    "cluster": ENGINE | TORCH | {"evaluators", "cluster", "ray"},
}
# Above their floor these libraries are used in these files of evo only.
ADAPTERS = {
    "deap": {"evo/selection.py"},
    "optuna": {"evo/algorithms/optuna_sampler.py"},
    "mlflow": {"evo/mlflow_runs.py"},
    "plotly": {"evo/figures.py", "evo/explain_figures.py", "evo/compare_figures.py", "evo/pages.py", "evo/report.py"},
    "matplotlib": {"evo/image_sheet.py", "evo/figures.py", "evo/explain_figures.py", "evo/compare_figures.py"},
    "pydantic": {
        "evo/config.py",
        "evo/config_faults.py",
        "evo/config_steps.py",
        "evo/space_file.py",
        "evo/init_config.py",
    },
    "yaml": {"evo/config.py", "evo/config_text.py", "evo/doctor_display.py", "evo/init_config.py"},
    "rich": {
        "evo/front.py",
        "evo/display.py",
        "evo/summary.py",
        "evo/result.py",
        "evo/doctor_display.py",
        "evo/explain_display.py",
        "evo/cli_options.py",
        *TOP,
    },
    "typer": {"evo/completion.py", *(name for name in TOP if "cli" in name), "evo/cli_options.py"},
}
HEAVY = ("torch", "ray", "mlflow")
MACHINE = re.compile(
    r"(?<![\w.\-/])/(?:work|root|Users)/\w|file://\w|[A-Z]:\\Users"
    r"|://(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d"
)


def sources() -> dict[str, Path]:
    paths = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {path.relative_to(ROOT).as_posix(): path for path in paths}


def module_name(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported_modules(path: Path) -> Iterator[str]:
    """Everything a file imports, also inside functions; `from a import b` counts as a and as a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = "." * node.level + (node.module or "")
            yield package
            yield from (f"{package}.{alias.name}" for alias in node.names)


def is_permitted(file: str, imported: str) -> bool:
    library = imported.partition(".")[0]
    if library in sys.stdlib_module_names or file in ADAPTERS.get(library, ()):
        return True
    if file in TOP:
        return library in FLOORS["evaluators"] | {"cluster"}
    if any(imported == top or imported.startswith(f"{top}.") for top in map(module_name, TOP)):
        return file in HANDS_OVER_TO_TOP
    return library in FLOORS[file.partition("/")[0]]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("file", sources())
def test_no_file_imports_from_above_its_floor(file: str) -> None:
    assert not sorted({name for name in imported_modules(ROOT / file) if not is_permitted(file, name)})


@pytest.mark.parametrize(
    ("file", "imported"),
    [
        ("search_spaces/plan.py", "evo.candidates"),
        ("evo/loop.py", "torch"),
        ("evo/loop.py", "evo.build"),
        ("evo/loop.py", "deap.tools"),
        ("evo/api.py", "mlflow"),
        ("evo/tracking.py", "mlflow"),
        ("evo/build.py", "ray"),
        ("evaluators/compose.py", "cluster.local"),
        ("evaluators/compose.py", "evo.api"),
        ("cluster/local.py", "evo.cli"),
        ("cluster/local.py", ".messages"),
    ],
)
def test_the_rule_refuses(file: str, imported: str) -> None:
    assert not is_permitted(file, imported)


def test_engine_and_command_line_load_nothing_heavy() -> None:
    light = [module_name(file) for file in sources() if file.startswith(("search_spaces/", "evo/"))]
    names = [name for name in light if name not in set(map(module_name, {name for name in TOP if "cli" not in name}))]
    code = f"import sys, importlib\nfor name in {names}: importlib.import_module(name)\n"
    assert run(f"{code}print([name for name in {HEAVY} if name in sys.modules])").strip() == "[]"


def test_all_but_ray_and_mlflow_parts_work_where_neither_is_installed() -> None:
    names = [module_name(file) for file in sources() if not file.startswith("cluster/ray")]
    code = "import sys, importlib\nsys.modules['ray'] = sys.modules['mlflow'] = None\n"
    run(f"{code}for name in {names}: importlib.import_module(name)")


def test_no_file_names_a_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], capture_output=True, text=True, cwd=ROOT
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    found = {}
    for name in filter(None, listed.stdout.splitlines()):
        path = ROOT / name
        if path.is_file() and b"\0" not in path.read_bytes()[:1000]:
            found[name] = MACHINE.findall(path.read_text(encoding="utf-8"))
    assert {name: hits for name, hits in found.items() if hits} == {}
