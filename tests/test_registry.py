"""Names resolve to objects, and unknown ones answer with what is known."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from analytic import SPACE

from evo.registry import ALGORITHMS, MEASURES, TABLES, resolve

UNITS = (", count", ", bytes", ", nats per sample", ", milliseconds", ", squared scores")
UNITS += tuple(f", 0 to {most}" for most in (1, 2, 4, 8))
ENGINE = ("algorithms", "wrappers", "crossovers", "mutations", "selections", "calibrations")
OTHERS = [table for table in TABLES if table not in (*ENGINE, "measures")]


@pytest.mark.parametrize(("table", "name"), [(t, n) for t in ENGINE for n in TABLES[t]])
def test_every_engine_entry_resolves_to_something_callable(table, name):
    assert callable(resolve(table, name)) and resolve(TABLES[table], name) is resolve(table, name)


@pytest.mark.parametrize(
    ("table", "name"), [(t, n) for t in TABLES if t not in (*ENGINE, "measures") for n in TABLES[t]]
)
def test_every_other_entry_names_something_that_exists(table, name):
    """Read, not imported: Ray, torch and MLflow take seconds."""
    module, _, attribute = TABLES[table][name].partition(":")
    body = ast.parse(Path(importlib.util.find_spec(module).origin).read_text()).body
    defined = {node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assigned = {ast.unparse(target) for node in body if isinstance(node, ast.Assign) for target in node.targets}
    assert attribute in defined | assigned


def test_a_dotted_name_of_the_users_own_resolves():
    assert resolve("mutations", "analytic:SPACE") is SPACE


def test_an_unknown_name_answers_with_the_closest():
    with pytest.raises(
        ValueError, match=r"algorithms must be one of \[.*'nsga2'.*\], but got name='nsga-2'; did you mean"
    ):
        resolve("algorithms", "nsga-2")
    with pytest.raises(ValueError, match="choose one of these"):
        resolve(ALGORITHMS, "zzzzzz")


@pytest.mark.parametrize("name", ["no_such_package.nets:build", "evo.pareto:no_such_function", ":x", "evo.pareto:"])
def test_what_cannot_be_imported_says_so_in_one_sentence(name):
    with pytest.raises(ValueError, match=f"models must be importable, but got name='{name}'"):
        resolve("models", name)


def test_measures_say_their_unit():
    assert all(text.rstrip().endswith(UNITS) for text in MEASURES.values())


def test_the_tables_import_nothing_heavy():
    code = "import sys, evo.registry; print({'numpy', 'torch', 'ray', 'optuna', 'deap'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
