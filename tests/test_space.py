"""Laws of the joint space: what algorithms may rely on, whatever code they make."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import known, named
from torch import nn

from evaluators.describe import trace
from evo.config.space_file import space_from_json, space_to_json
from search_spaces.codebooks import CHANNEL
from search_spaces.costs import costs
from search_spaces.genes import FactorGene
from search_spaces.network import Network
from search_spaces.options import SpaceOptions, build_space, legal_widths
from search_spaces.phenotype import full, of_plan
from search_spaces.plan import Bits, CompressionPlan, Factor, Mask, Skip, Sparse, Width
from search_spaces.space import CompressionSpace
from search_spaces.sparsity import Pattern

OPTIONS = SpaceOptions(
    criteria=("l1", "fpgm"),
    weight_bits=(1, 2, 4, 7, 32),
    activation_bits=(4, 8, 32),
    factors=("svd", "tucker2", "spatial", "cp", "tt2", "tt3"),
    codebooks=("ternary", "symmetric", "kmeans", "affine"),
    groups=(CHANNEL, 40),
    ranges=("percentile", "mse"),
    sparsity=(Pattern(2, 4), Pattern(300, 1000, False)),
)
SPACE = build_space(named("resnet20").network, OPTIONS)
CODES = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).integers(-2, 12, len(SPACE.genes)))
SEEDS = st.integers(0, 2**32 - 1)


def one(network: Network, plan: CompressionPlan) -> dict[str, np.ndarray]:
    return costs(network, of_plan(network, plan), peak=True)


@given(CODES)
def test_repair_is_total_idempotent_and_keeps_the_meaning(codes: np.ndarray) -> None:
    repaired = SPACE.repair(codes.tolist())
    SPACE.validate(repaired)
    assert SPACE.repair(repaired) == repaired
    clipped = tuple(int(c) for c in np.clip(codes, 0, np.array(SPACE.cardinalities) - 1))
    before, after = SPACE.decode(clipped), SPACE.decode(repaired)
    assert one(SPACE.network, before).items() == one(SPACE.network, after).items()
    named_in = {(w.group, w.kept, w.criterion) for w in after.widths}
    assert named_in <= {(w.group, w.kept, w.criterion) for w in before.widths}


@given(SEEDS)
def test_samples_are_legal_and_canonical(seed: int) -> None:
    genome = SPACE.sample(np.random.default_rng(seed))
    SPACE.validate(genome)
    assert SPACE.repair(genome) == genome


@given(CODES, SEEDS)
def test_plans_survive_json_and_equal_plans_have_equal_digests(codes: np.ndarray, seed: int) -> None:
    plan = SPACE.decode(SPACE.repair(codes.tolist()))
    again = CompressionPlan.from_json(plan.to_json())
    assert again == plan and again.digest == plan.digest
    other = SPACE.decode(SPACE.sample(np.random.default_rng(seed)))
    assert (other.digest == plan.digest) == (other == plan)


def test_equal_plans_have_equal_genomes() -> None:
    rng = np.random.default_rng(0)
    raw = [rng.integers(0, SPACE.cardinalities) for _ in range(30)]
    by_plan: dict[CompressionPlan, set[tuple[int, ...]]] = {}
    for codes in raw:
        for change in range(0, len(codes), 7):  # neighbours of one genome often mean the same
            near = codes.copy()
            near[change] = rng.integers(0, SPACE.cardinalities[change])
            genome = SPACE.repair(near.tolist())
            by_plan.setdefault(SPACE.decode(genome), set()).add(genome)
    assert {len(genomes) for genomes in by_plan.values()} == {1}


@pytest.mark.parametrize("name", ["resnet20", "densenet121", "mobilenet_v2"])
def test_a_population_costs_what_its_plans_cost(name: str) -> None:
    space = build_space(named(name).network, OPTIONS)
    rng = np.random.default_rng(1)
    codes = np.array([space.sample(rng) for _ in range(12)])
    together = costs(space.network, space.phenotypes(codes), peak=True)
    apart = [one(space.network, space.decode(tuple(int(c) for c in row))) for row in codes]
    for measure, values in together.items():
        np.testing.assert_array_equal(values, [costs_of[measure][0] for costs_of in apart], err_msg=measure)


def test_the_first_anchor_is_the_uncompressed_network_and_costs_most() -> None:
    first, *others = SPACE.anchors()
    assert SPACE.decode(first) == CompressionPlan()
    population = costs(SPACE.network, SPACE.phenotypes(np.array([first, *others])))
    for measure in ("params", "macs", "bops", "size_bytes"):
        assert population[measure].argmax() == 0
        assert population[measure].min() < 0.5 * population[measure][0]


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
@given(seed=SEEDS)
def test_no_factorisation_costs_more_than_the_dense_layer(name: str, seed: int) -> None:
    space = build_space(named(name).network, OPTIONS)
    factors = [i for i, gene in enumerate(space.genes) if isinstance(gene, FactorGene)]
    codes = np.random.default_rng(seed).integers(0, space.cardinalities)
    codes[[name.startswith("skip") for name in space.names]] = 0
    plain = codes.copy()
    plain[factors] = 0
    singles = np.tile(plain, (len(factors), 1))
    singles[range(len(factors)), factors] = codes[factors]
    phenotypes = space.phenotypes(np.array([plain, *singles]))
    found, used = costs(space.network, phenotypes), phenotypes.method.any(axis=1)[1:]
    assert used.any()
    for measure in ("params", "macs"):
        dense, cost = found[measure][0], found[measure][1:]
        assert (cost[used] < dense).all() and (cost[~used] == dense).all()


def test_costs_counted_by_hand() -> None:
    """conv 3->8 (3x3, bias) on 6x6, bn 8, conv 8->4 (1x1), linear 4*36->2; 4 of 8 channels kept, 3 and 8 bits."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1, bias=False),
        nn.Flatten(),
        nn.Linear(144, 2),
    )
    network = trace(net, torch.zeros(1, 3, 6, 6)).network
    plan = CompressionPlan(widths=(Width("0", 5),), bits=(Bits("0", 3, 8), Bits("5", weight=8)))
    first, middle, last = 5 * 27, 4 * 5, 2 * 144
    found = {name: value[0] for name, value in one(network, plan).items()}
    assert found["params"] == first + 5 + 2 * 5 + middle + last + 2
    assert found["macs"] == 36 * first + 36 * middle + last
    assert found["bops"] == 36 * first * 3 * 8 + 36 * middle * 32 * 32 + last * 8 * 32
    packed = 51 + 4 * 5 + 8  # 405 bits, five steps, one input quantiser
    assert found["size_bytes"] == packed + 4 * 5 + 4 * 4 * 5 + 4 * middle + (last + 4 * 2) + 4 * 2


def test_a_skipped_block_costs_nothing_and_its_genes_are_idle() -> None:
    space = build_space(named("digits_cnn").network, OPTIONS)
    skip = space.names.index("skip:block1")
    codes = np.random.default_rng(3).integers(0, space.cardinalities)
    codes[[name.startswith("skip") for name in space.names]] = 0
    codes[skip] = 1
    plan = space.decode(space.repair(codes.tolist()))
    assert plan.skips[0] == Skip("block1")
    inside = [r.layer for r in (*plan.bits, *plan.factors)] + [w.group for w in plan.widths]
    assert not [name for name in inside if name.startswith("block1.")]
    whole, without = (
        one(space.network, p)["params"][0] for p in (CompressionPlan(), CompressionPlan(skips=plan.skips))
    )
    assert whole - without == 2 * 24 * 24 * 9 + 4 * 24


def test_the_digest_changes_with_what_a_genome_means() -> None:
    network = named("digits_cnn").network
    changes = [
        {},
        {"widths": (0.5, 1.0)},
        {"multiple": 8},
        {"criteria": ("l1",)},
        {"weight_bits": (2, 3, 4, 32)},
        {"activation_bits": (6, 32)},
        {"codebooks": ("symmetric",)},
        {"groups": (CHANNEL,)},
        {"roundings": ("nearest", "gptq")},
        {"ranges": ("mse",)},
        {"factors": ("svd",)},
        {"factor_shares": (0.3, 0.5, 0.6)},
        {"factor_metric": "inputs"},
        {"sparsity": ()},
        {"compensate": True},
        {"skip_blocks": False},
        {"keep": ("stem",)},
    ]
    digests = [build_space(network, replace(OPTIONS, **change)).digest for change in changes]  # type: ignore[arg-type]
    wider = build_space(known(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)), (1, 8, 8)).network, OPTIONS)
    assert len({*digests, wider.digest}) == len(changes) + 1
    assert build_space(network, OPTIONS).digest == digests[0]


def test_a_space_survives_json() -> None:
    again = space_from_json(space_to_json(SPACE))
    assert again == SPACE and again.digest == SPACE.digest
    with pytest.raises(ValueError, match="as it was written"):
        space_from_json(space_to_json(SPACE).replace('"kept": [4, 8, 12, 16]', '"kept": [4, 8, 12, 15]', 1))
    with pytest.raises(ValueError, match="must hold a search space"):
        space_from_json(space_to_json(SPACE)[:-40])
    with pytest.raises(ValueError, match="open the run with the version that wrote it"):
        space_from_json(space_to_json(SPACE).replace('"kept": [', '"keeps": [', 1))


@given(st.integers(1, 300), st.lists(st.floats(0.01, 1.0), min_size=1), st.integers(1, 32))
def test_widths_are_legal_for_the_hardware(size: int, shares: list[float], multiple: int) -> None:
    widths = legal_widths(size, shares, multiple)
    assert list(widths) == sorted(set(widths))
    assert all(1 <= w <= size and (w % multiple == 0 or w == size) for w in widths)


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (CompressionPlan(widths=(Width("nowhere", 3),)), "channel group"),
        (CompressionPlan(widths=(Width("layer1.0.conv1", 17),)), "1 <= kept <= 16"),
        (CompressionPlan(masks=(Mask("layer1.0.conv1", ()),)), "1 <= kept <= 16"),
        (CompressionPlan(skips=(Skip("layer9"),)), "residual block"),
        (CompressionPlan(factors=(Factor("nowhere", "svd", (2,)),)), "layer"),
        (CompressionPlan(factors=(Factor("layer1.0.conv1", "qr", (2,)),)), "svd"),
        (CompressionPlan(factors=(Factor("layer1.0.conv1", "tt2", (2,)),)), "must suit its layer"),
        (CompressionPlan(factors=(Factor("linear", "tt2", (2,), "outputs"),)), "a metric must be"),
        (CompressionPlan(masks=(Mask("layer1.0.conv1", (3, 3)),)), "distinct"),
        (CompressionPlan(masks=(Mask("layer1.0.conv1", (3, 16)),)), "distinct"),
        (CompressionPlan(bits=(Bits("layer1.0.conv1", 0, 8),)), "1..8"),
        (CompressionPlan(bits=(Bits("layer1.0.conv1", 8, 1),)), "2..8"),
        (CompressionPlan(sparse=(Sparse("layer1.0.conv1", 4, 4),)), "kept < of"),
        (
            CompressionPlan(factors=(Factor("layer1.0.conv1", "svd", (2,)),), sparse=(Sparse("layer1.0.conv1", 2, 4),)),
            "either decomposed or masked",
        ),
        (CompressionPlan(bits=(Bits("layer1.0.conv1", 3, 8, "ternary"),)), "2..2"),
        (CompressionPlan(bits=(Bits("layer1.0.conv1", 3, 8, "fourier"),)), "a codebook must be"),
        (CompressionPlan(bits=(Bits("layer1.0.conv1", 3, 8, "kmeans"),)), "one table per tensor"),
        (CompressionPlan(bits=(Bits("layer1.0.conv1", 3, 8, group=-2),)), "a group must be"),
        (CompressionPlan(bits=(Bits("layer1.0.conv1", 3, 8, rounding="up"),)), "a rounding must be"),
        (CompressionPlan(bits=(Bits("layer1.0.conv1", 3, 8, range="all"),)), "a range must be"),
    ],
)
def test_a_plan_that_does_not_fit_gets_one_sentence(plan: CompressionPlan, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        of_plan(SPACE.network, plan)


def test_genomes_from_elsewhere_and_empty_spaces_are_refused() -> None:
    first = SPACE.anchors()[0]
    with pytest.raises(ValueError, match="must have"):
        SPACE.validate(first[:-1])
    with pytest.raises(ValueError, match="0 <= allele"):
        SPACE.validate((99, *first[1:]))
    nothing = SpaceOptions(widths=(), weight_bits=(), activation_bits=(), factors=(), skip_blocks=False)
    with pytest.raises(ValueError, match="something to choose"):
        build_space(SPACE.network, nothing)
    with pytest.raises(ValueError, match="every bit-width of"):
        build_space(SPACE.network, replace(OPTIONS, codebooks=("ternary",)))


def test_populations_cover_the_range_of_costs() -> None:
    rng = np.random.default_rng(0)
    space = build_space(SPACE.network, SpaceOptions())
    population = np.array([space.sample(rng) for _ in range(400)])
    found = costs(SPACE.network, space.phenotypes(population))
    dense = costs(SPACE.network, full(SPACE.network, 1))
    for measure in ("macs", "size_bytes"):
        share = found[measure] / dense[measure]
        assert share.min() < 0.1 and share.max() > 0.6


def test_space_is_a_value() -> None:
    assert CompressionSpace(SPACE.network, SPACE.genes) == SPACE
