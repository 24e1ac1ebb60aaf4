"""Cell spaces: every genome that any operator makes is legal, and they hold as many networks as is published."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from evo.algorithms.cars import mixed
from evo.registry import CROSSOVERS, MUTATIONS, resolve
from search_spaces.cells import (
    NODES,
    NONE,
    CellSpace,
    DartsSpace,
    NasBench201Space,
    cells_of,
    darts_space,
    nasbench201_space,
    topology,
)
from search_spaces.plan import CompressionPlan

SPACES = {"darts": darts_space(), "nasbench201": nasbench201_space()}
MANY = 100_000
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def codes(space: CellSpace, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, space.cardinalities, (count, len(space.genes)))


# cell, node and source of every edge, in order: in NAS-Bench-201 there is one way, in DARTS two different inputs a node
NASBENCH201_PLACES = np.array([(0, node, source) for node in range(3) for source in range(node + 1)])
DARTS_PLACES = np.array([(cell, node) for cell in range(2) for node in range(4) for _ in range(2)])


def check(space: DartsSpace | NasBench201Space, genomes: Sequence[tuple[int, ...]]) -> None:
    """As the published search spaces say, read off the plans and not off the codes."""
    plans = [space.decode(genome) for genome in genomes]
    assert all(len(plan.edges) == len(plans[0].edges) for plan in plans)
    places = np.array([[(e.cell, e.node, e.source) for e in plan.edges] for plan in plans])
    if not isinstance(space, DartsSpace):
        assert (places == NASBENCH201_PLACES).all()
        return
    assert (places[:, :, :2] == DARTS_PLACES).all()
    sources = places[:, :, 2].reshape(len(plans), -1, 2)
    assert (sources[:, :, 0] != sources[:, :, 1]).all(), "vega's 'illegal alpha'"
    assert (sources >= 0).all() and (sources.max(2) < DARTS_PLACES[::2, 1] + 2).all()


@pytest.mark.parametrize("name", [*CROSSOVERS, *MUTATIONS, "cars"])
@every_space
def test_what_an_operator_makes_is_legal(space: DartsSpace | NasBench201Space, name: str) -> None:
    count = MANY // (len(CROSSOVERS) + len(MUTATIONS) + 1)  # 100,000 over all operators
    rng, first, second = np.random.default_rng(1), codes(space, count), codes(space, count, 1)
    if name in CROSSOVERS:
        made = np.concatenate(resolve("crossovers", name)(rng, first, second))
    elif name in MUTATIONS:
        made = resolve("mutations", name)(rng, first, np.array(space.cardinalities), np.array(space.ordinal), 0.3)
    else:
        pairs = zip(first.tolist(), second.tolist(), strict=True)
        made = np.array([mixed(rng, tuple(a), tuple(b), space.blocks, 0.5) for a, b in pairs])
    assert ((made >= 0) & (made < space.cardinalities)).all() and len(made) >= count
    repaired = [space.repair(row) for row in made.tolist()]
    check(space, repaired)
    for genome in repaired[:20]:
        space.validate(genome)


@every_space
def test_any_code_within_the_limits_is_a_legal_genome(space: DartsSpace | NasBench201Space) -> None:
    everything = [tuple(row) for row in codes(space, MANY // 5).tolist()]
    check(space, everything)
    repaired = [space.repair(genome) for genome in everything]
    check(space, repaired)
    assert ((np.array(repaired) >= 0) & (np.array(repaired) < space.cardinalities)).all()
    assert all(space.repair(genome) == genome for genome in repaired[::50])
    for genome in everything[::50]:
        space.validate(genome)


@every_space
def test_a_plan_has_a_form_to_be_stored(space: DartsSpace | NasBench201Space) -> None:
    genomes = [space.sample(np.random.default_rng(i)) for i in range(50)]
    plans = [space.decode(genome) for genome in (*space.anchors(), *genomes)]
    assert all(CompressionPlan.from_json(plan.to_json()) == plan for plan in plans)
    assert len({plan.digest for plan in plans}) == len({*space.anchors(), *genomes})
    assert sorted(at for block in space.blocks for at in block) == list(range(len(space.genes)))


def test_inputs_without_operation_are_all_one_genome() -> None:
    space = SPACES["darts"]
    genome = list(space.anchors()[0])  # type: ignore[attr-defined]
    last = 3 * (NODES - 1)
    pairs = space.genes[last].alleles
    made = set()
    for other in (0, 1, 2, 4):  # input 3 is used, the other one has no operation
        changed = genome[:]
        pair = tuple(sorted((3, other)))
        changed[last] = pairs.index(pair)
        changed[last + 1 : last + 3] = [4, 0] if pair[0] == 3 else [0, 4]
        made.add(space.repair(changed))
    assert len(made) == 1
    edges = cells_of(space.decode(made.pop()))[0][-1]  # type: ignore[attr-defined]
    assert {(edge.source, edge.operation) for edge in edges} == {(0, NONE), (3, "sep_conv_3x3")}


def test_nasbench201_holds_the_published_number_of_networks() -> None:
    space = nasbench201_space()
    everything = [space.decode(genome) for genome in product(range(5), repeat=6)]
    assert len({plan.digest for plan in everything}) == 15_625
    assert len({topology(plan) for plan in everything}) == 6_466
