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
TOP = ("evo/api.py", "evo/cli/", "evo/studies/")
TOP_MODULES = ("evo.api", "evo.cli", "evo.studies")
HANDS_OVER_TO_TOP = {"evo/__init__.py", "evo/result.py"}

ENGINE = {"search_spaces", "evo", "numpy", "pyarrow", "moocore"}
TORCH = {"torch", "torchvision", "safetensors", "filelock", "sklearn", "PIL"}
FLOORS = {
    "search_spaces": {"search_spaces", "numpy"},
    "evo": ENGINE,
    "evaluators": ENGINE | TORCH | {"evaluators", "onnx", "onnxscript", "onnxruntime", "openvino", "torch_fidelity"},
    "cluster": ENGINE | TORCH | {"evaluators", "cluster", "ray"},
}
# Above their floor these libraries are used in these files and packages of evo only.
ADAPTERS: dict[str, tuple[str, ...]] = {
    "deap": ("evo/selection/survival.py",),
    "optuna": ("evo/algorithms/optuna_sampler.py",),
    "mlflow": ("evo/tracking/mlflow_runs.py",),
    "plotly": ("evo/views/", "evo/studies/report.py"),
    "matplotlib": ("evo/views/",),
    "pydantic": ("evo/config/",),
    "yaml": ("evo/config/", "evo/views/doctor_display.py"),
    "rich": ("evo/views/", "evo/front.py", "evo/result.py", *TOP),
    "typer": ("evo/cli/",),
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
    if library in sys.stdlib_module_names or file.startswith(ADAPTERS.get(library, ())):
        return True
    if file.startswith(TOP):
        return library in FLOORS["evaluators"] | {"cluster"}
    if any(imported == top or imported.startswith(f"{top}.") for top in TOP_MODULES):
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
        ("evo/loop/generations.py", "torch"),
        ("evo/loop/generations.py", "evo.studies.classifier"),
        ("evo/loop/generations.py", "deap.tools"),
        ("evo/api.py", "mlflow"),
        ("evo/tracking/tracker.py", "mlflow"),
        ("evo/studies/classifier.py", "ray"),
        ("evaluators/compose.py", "cluster.local"),
        ("evaluators/compose.py", "evo.api"),
        ("cluster/local.py", "evo.cli"),
        ("cluster/local.py", ".messages"),
    ],
)
def test_the_rule_refuses(file: str, imported: str) -> None:
    assert not is_permitted(file, imported)


def test_engine_and_command_line_load_nothing_heavy() -> None:
    engine = [file for file in sources() if file.startswith(("search_spaces/", "evo/"))]
    names = [module_name(file) for file in engine if not file.startswith(("evo/api.py", "evo/studies/"))]
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
