"""Costs by look-up are the costs of the formulas, to the last digit, whatever shares channels with whatever."""

import numpy as np
import pytest
from nets import named

from search_spaces import cost_tables
from search_spaces.cost_tables import CostTables
from search_spaces.costs import costs
from search_spaces.options import SpaceOptions, build_space
from search_spaces.tables import combinations, summed

OPTIONS = SpaceOptions(criteria=("l1", "fisher"), activation_bits=(4, 8, 32))


def test_combinations_count_like_an_odometer() -> None:
    assert combinations((2, 3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert combinations((1,) * 100).tolist() == [[0] * 100], "genes without a choice do not count"


def check(name: str) -> CostTables:
    space = build_space(named(name).network, OPTIONS)
    tables = CostTables(space)
    codes = np.random.default_rng(0).integers(0, space.cardinalities, (60, len(space.genes)))
    codes[0] = space.anchors()[0]
    expected = costs(space.network, space.phenotypes(codes))
    found = tables.costs(codes)
    assert list(found) == list(expected)
    for measure, values in expected.items():
        np.testing.assert_array_equal(found[measure], values, err_msg=measure)
    if not tables._large:
        apart = np.stack(list(found.values()), axis=1) - summed(tables.tables, codes, len(found))
        np.testing.assert_array_equal(apart, np.tile(apart[0], (60, 1)), err_msg="tables hold all but a constant")
    return tables


@pytest.mark.parametrize("name", ["digits_cnn", "resnet20", "mobilenet_v2", "shufflenet"])
def test_look_ups_equal_the_formulas(name: str) -> None:
    assert check(name)._tables


def test_layers_that_depend_on_too_much_are_worked_out_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_tables, "MOST_ENTRIES", 100)
    tables = check("resnet20")
    assert tables._large and tables._tables
    codes = np.tile(np.array(tables.space.full), (2, 1))
    codes[1, tables.space.names.index("width:layer1.0.conv1")] -= 1
    step = np.subtract(*summed(tables.tables, codes, len(tables.measures)))
    exact = np.subtract(*np.stack(list(tables.costs(codes).values()), axis=1))
    np.testing.assert_allclose(step, exact, err_msg="linear around the uncompressed network")
