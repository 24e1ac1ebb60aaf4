"""Cell spaces: every genome that any operator makes is legal, and they hold as many networks as is published."""

from __future__ import annotations

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


def check(space: DartsSpace | NasBench201Space, genome: tuple[int, ...]) -> None:
    """As the published search spaces say, read off the plan and not off the codes."""
    space.validate(genome)
    plan = space.decode(genome)
    assert len(cells_of(plan)) == (2 if isinstance(space, DartsSpace) else 1)
    for cell in cells_of(plan):
        for number, node in enumerate(cell):
            sources = [edge.source for edge in node]
            if isinstance(space, DartsSpace):
                assert len(set(sources)) == 2 and max(sources) < number + 2, "vega's 'illegal alpha'"
            else:
                assert sources == list(range(number + 1))


@pytest.mark.parametrize("name", [*CROSSOVERS, *MUTATIONS, "cars"])
@every_space
def test_what_an_operator_makes_is_legal(space: DartsSpace | NasBench201Space, name: str) -> None:
    rng, first, second = np.random.default_rng(1), codes(space, MANY // 10), codes(space, MANY // 10, 1)
    if name in CROSSOVERS:
        made = np.concatenate(resolve("crossovers", name)(rng, first, second))
    elif name in MUTATIONS:
        made = resolve("mutations", name)(rng, first, np.array(space.cardinalities), np.array(space.ordinal), 0.3)
    else:
        pairs = zip(first.tolist(), second.tolist(), strict=True)
        made = np.array([mixed(rng, tuple(a), tuple(b), space.blocks, 0.5) for a, b in pairs])
    assert ((made >= 0) & (made < space.cardinalities)).all()
    for row in made[:: len(made) // 400].tolist():
        check(space, space.repair(row))


@every_space
def test_any_code_within_the_limits_is_a_legal_genome(space: DartsSpace | NasBench201Space) -> None:
    """The operators stay within the limits; so all of their 10^5 genomes are legal if these are."""
    everything = codes(space, MANY)
    for row in everything[::20].tolist():
        space.validate(row)
        check(space, tuple(row))
    repaired = [space.repair(row) for row in everything[: MANY // 4].tolist()]
    table = np.array(repaired)
    assert ((table >= 0) & (table < space.cardinalities)).all()
    assert all(space.repair(genome) == genome for genome in repaired[::50])
    for genome in repaired[::5]:
        check(space, genome)


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
