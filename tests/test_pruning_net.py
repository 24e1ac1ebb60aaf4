"""MetaPruning: generated weights, structures drawn evenly, evolution under a hard limit, and picks trained from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from analytic import SPACE, Grid, cost, measure, run
from nets import Known, named
from small_run import settings
from test_cars import StopHere, rows, stop_after, stop_in_step

from evaluators.compose import compose, recalibrate
from evaluators.count import parameters
from evaluators.fresh import reinitialise
from evaluators.supernets.pruning_net import PARTS, PruningNet, codes
from evaluators.supernets.schedule import Schedule
from evo import api
from evo.algorithms.metapruning import MetaPruning
from evo.candidates import Batch, Evaluation, Status
from evo.config.schema import Config, validate
from evo.problem import Constraint, Objective, Problem
from evo.result import Result
from search_spaces.costs import costs
from search_spaces.genome import Genome
from search_spaces.options import SpaceOptions, build_space
from search_spaces.phenotype import of_plan
from search_spaces.plan import Bits, CompressionPlan, Skip, Width
from search_spaces.space import CompressionSpace

NETS = ["digits_cnn", "resnet8", "mobilenet_v2"]


@cache
def made(name: str) -> PruningNet:
    return PruningNet(named(name).model, named(name).trace, seed=0, hidden=3)


def widths(net: PruningNet, known: Known, share: float) -> CompressionPlan:
    elastic = [g for g in known.network.groups if g.name not in net.refused]
    return CompressionPlan(tuple(Width(g.name, max(1, round(share * g.size))) for g in elastic))


@pytest.mark.parametrize("name", NETS)
def test_every_width_gives_weights_of_the_size_that_the_plan_costs(name: str) -> None:
    net, known = made(name), named(name)
    for share in (0.1, 0.37, 0.5, 0.9, 1.0):
        plan = widths(net, known, share)
        assert parameters(net.view(plan)) == costs(known.network, of_plan(known.network, plan))["params"][0]
    for group in (g for g in known.network.groups if g.name not in net.refused and name != "mobilenet_v2"):
        for kept in range(1, group.size + 1):
            cut = compose(known.model, known.trace, known.ranking, CompressionPlan((Width(group.name, kept),)))
            shapes = {n: p.shape for n, p in cut.named_parameters()}
            assert all(net.weight(n, {group.name: kept}).shape == shapes[n] for n in net.codes)


@pytest.mark.parametrize("name", NETS)
def test_what_is_taken_out_computes_what_the_view_does(name: str) -> None:
    net, known = made(name), named(name)
    images = torch.randn(4, *known.example.shape[1:], generator=torch.Generator().manual_seed(0))
    for share in (0.3, 0.7):
        plan = widths(net, known, share)
        pair = net.view(plan), net.extract(plan)
        for module in pair:
            recalibrate(module, [images], ranges=False)
        with torch.no_grad():
            torch.testing.assert_close(pair[0](images), pair[1](images), rtol=1e-5, atol=2e-5)


def test_a_weight_is_what_two_layers_make_of_the_widths_around_it_cropped() -> None:
    net, kept = made("digits_cnn"), {"stem": 9, "down": 20}
    name = "down.weight"
    assert net.codes[name] == ("stem", "down")
    first, first_bias, second, second_bias = (net.state()[f"weight:{name}@{part}"] for part in PARTS)
    hidden = (first @ torch.tensor([9 / 24, 20 / 48]) + first_bias).clamp_min(0)
    whole = (second.flatten(0, 3) @ hidden + second_bias.flatten()).view(48, 24, 3, 3)
    torch.testing.assert_close(net.weight(name, kept), whole[:20, :9])


def test_a_weight_sees_the_widths_of_its_residual_block_or_its_own() -> None:
    network = named("mobilenet_v2").network
    found = codes(network, {})
    inside = [found[f"features.3.conv.{layer}"] for layer in ("0.0", "1.0", "2")]
    assert len({frozenset(groups) for groups in inside}) == 1 and len(inside[0]) == 2
    assert len(found["features.2.conv.0.0"]) == 2 and len(found["features.2.conv.1.0"]) == 1  # no shortcut


def test_a_step_moves_what_its_structure_uses_and_nothing_else() -> None:
    known = named("digits_cnn")
    net = PruningNet(known.model, known.trace, seed=0, hidden=3)
    images = torch.randn(8, *known.example.shape[1:], generator=torch.Generator().manual_seed(0))
    labels, plan = torch.arange(8), CompressionPlan((Width("down", 20),), skips=(Skip("block1"),))
    net.train_step([CompressionPlan()], images, labels, 0.1)  # so that there is momentum to be carried on
    before = {name: tensor.clone() for name, tensor in net.state().items()}
    net.train_step([plan], images, labels, 0.1)
    moved = {name: tensor != before[name] for name, tensor in net.state().items() if name.startswith("weight:")}
    generated = moved[f"weight:down.weight@{PARTS[2]}"]
    assert generated[:20].any() and not generated[20:].any()
    assert moved["weight:head.weight"][:, :20].any() and not moved["weight:head.weight"][:, 20:].any()
    assert not any(changed.any() for name, changed in moved.items() if name.startswith("weight:block1."))
    assert not any("bn" in name for name in moved)


def test_labels_are_smoothed_as_torch_does_it() -> None:
    known = named("digits_cnn")
    images, labels = torch.randn(8, *known.example.shape[1:]), torch.arange(8)
    net = PruningNet(known.model, known.trace, seed=1, hidden=3, label_smoothing=0.1)
    expected = F.cross_entropy(net.extract(CompressionPlan()).train()(images), labels, label_smoothing=0.1)
    assert net.train_step([CompressionPlan()], images, labels, 0.0) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_a_pruning_net_refuses_bits() -> None:
    with pytest.raises(ValueError, match="makes float weights, but got bits for stem"):
        made("digits_cnn").view(CompressionPlan(bits=(Bits("stem", 4),)))


def digit_space() -> CompressionSpace:
    options = SpaceOptions(
        widths=(0.25, 0.5, 0.75, 1.0), multiple=1, criteria=("l1",), weight_bits=(), activation_bits=()
    )
    return build_space(
        named("digits_cnn").network, SpaceOptions(**{**vars(options), "factors": (), "skip_blocks": False})
    )


def test_structures_are_drawn_evenly_and_gene_by_gene() -> None:
    schedule, space = Schedule(subnets=1, sandwich=False, evenly=True), digit_space()
    plans = [schedule.plans(space, (), 0, step)[0] for step in range(600)]
    kept = np.array([[{w.group: w.kept for w in plan.widths}.get("stem", 24) for plan in plans],
                     [{w.group: w.kept for w in plan.widths}.get("down", 48) for plan in plans]])  # fmt: skip
    assert [np.mean(kept[0] == size) for size in (6, 12, 18, 24)] == pytest.approx([0.25] * 4, abs=0.06)
    assert abs(np.corrcoef(kept)[0, 1]) < 0.12  # around levels it is 0.6


def test_weights_drawn_anew_are_those_that_layers_of_this_size_begin_with() -> None:
    known = named("digits_cnn")
    one, two = (compose(known.model, known.trace, known.ranking, CompressionPlan((Width("down", 12),))) for _ in "ab")
    reinitialise(one, 3), reinitialise(two, 3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    bound = 1 / (12 * 9) ** 0.5  # of torch's default for 12 inputs of 3 x 3
    weight = one.block2.conv1.weight  # type: ignore[union-attr]
    assert 0.95 * bound < float(weight.detach().abs().max()) <= bound  # type: ignore[union-attr, operator]
    assert torch.equal(one.bn.weight, torch.ones(24))  # type: ignore[union-attr, arg-type]


class WithParameter(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))


def test_a_parameter_that_nobody_can_draw_is_refused() -> None:
    with pytest.raises(ValueError, match=r"modules with reset_parameters\(\), but got 0 \(WithParameter\)"):
        reinitialise(torch.nn.Sequential(WithParameter()), 0)


class Capped:
    """The analytic space below a cost; its repair lowers every gene until the rest fits."""

    space, upper = SPACE, 0.35
    names, cardinalities, ordinal, digest = SPACE.names, SPACE.cardinalities, SPACE.ordinal, "capped"

    def within(self, genome: Genome) -> bool:
        return cost(genome) <= self.upper

    def repair(self, genome: Sequence[int]) -> Genome:
        found = SPACE.repair(genome)
        while not self.within(found):
            found = SPACE.repair([max(0, code - 1) for code in found])
        return found

    def sample(self, rng: np.random.Generator) -> Genome:
        return self.repair(SPACE.sample(rng))

    def anchors(self) -> tuple[Genome, ...]:
        return tuple(self.repair(genome) for genome in SPACE.anchors())

    def validate(self, genome: Sequence[int]) -> None:
        SPACE.validate(genome)

    def decode(self, genome: Genome) -> CompressionPlan:
        return CompressionPlan()


def test_evolution_under_a_limit_draws_again_instead_of_repairing() -> None:
    problem = Problem(Capped(), (Objective("error"),), (Constraint("cost", Capped.upper),), reference=(1.0,))
    history = run(MetaPruning(problem, population=20, parents=5), 8)
    candidates = [c for batch, _, _ in history for c in batch.candidates]
    assert all(cost(c.genome) <= Capped.upper for c in candidates) and len({c.genome for c in candidates}) == 160
    assert max(cost(c.genome) for c in candidates) > 0.9 * Capped.upper  # what is repaired here falls far below
    best = [min(measure(c).measures["error"] for c in batch.candidates) for batch, _, _ in history]
    assert min(best[4:]) < best[0]


def test_a_generation_is_half_mutants_half_crossovers_of_the_best_so_far() -> None:
    one = Problem(Grid((9,) * 20), (Objective("error"),), reference=(1.0,))

    def far(genome: Genome) -> float:
        return float(sum(abs(code - 4.4 - at % 3) for at, code in enumerate(genome)))

    def told(batch: Batch) -> list[Evaluation]:
        return [Evaluation(c, Status.COMPLETED, {"error": far(c.genome)}) for c in batch.candidates]

    history = run(MetaPruning(one, population=40, parents=10), 5, evaluate=told)
    genomes = {c.id: c.genome for batch, _, _ in history for c in batch.candidates}
    for (_, _, state), (batch, _, _) in pairwise(history):
        known = sorted(far(g) for i, g in genomes.items() if i < f"{batch.candidates[0].generation:04d}")
        assert sorted(far(e.candidate.genome) for e in state.population) == known[:10]
        counts = [len(c.parents) for c in batch.candidates]
        assert counts == [1] * 20 + [2] * 20
        for c in batch.candidates[20:]:
            pair = [genomes[p] for p in c.parents]
            assert all(code in {parent[at] for parent in pair} for at, code in enumerate(c.genome[:-1]))
        changed = [np.mean(np.array(c.genome) != genomes[c.parents[0]]) for c in batch.candidates[:20]]
        assert 0.03 < np.mean(changed) < 0.25  # a tenth, and those that nothing happened to are drawn again


def config(**changes: Any) -> Config:
    values = settings(None)
    values["space"] = {
        "widths": [0.25, 0.5, 0.75, 1.0], "multiple": 2, "weight_bits": [], "activation_bits": [], "factors": [],
        "skip_blocks": False,
    }  # fmt: skip
    values["objectives"] = [{"measure": "top1_error", "reference": 1.0}]
    values["constraints"] = [{"measure": "macs", "upper": "0.4x"}]
    values["supernet"] = {
        "kind": "pruning_net", "hidden": 4, "warm_up": 1, "epochs": 0, "horizon": 1, "batch": 40, "subnets": 1, "sandwich": False,
        "in_place_distillation": False, "sampling": "evenly",
    }  # fmt: skip
    values["algorithm"] = {"name": "metapruning", "params": {"population": 6, "parents": 3}}
    values["evaluation"]["final"] |= {
        "picks": ["knee"],
        "from_scratch": True,
        "tune": {"epochs": 1, "alpha": 0, "batch": 20},
    }
    values["budget"] = {"generations": 3}
    return validate({**values, **changes})


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return api.run_config(config(), str(tmp_path_factory.mktemp("whole") / "run"))


def test_no_candidate_above_the_limit_is_measured_and_picks_begin_anew(uninterrupted: Result) -> None:
    found = uninterrupted
    limit = 0.4 * found.baseline["macs"]
    macs = [e.measures["macs"] for e in found.evaluations if e.candidate.step == "step2"]
    assert len(macs) == 18 and max(macs) <= limit and {e.weights_version for e in found.evaluations} == {1}
    ((picked, final),) = found.finals.items()
    inherited = found.evaluation(picked, "step2")
    assert final["macs"] <= limit and "test_top1_error" in final
    assert inherited is not None and final["cross_entropy"] != inherited.measures["cross_entropy"]


@pytest.mark.parametrize("stop", [lambda patch: stop_in_step(patch, 2), lambda patch: stop_after(patch, 8)])
def test_a_search_that_was_stopped_ends_as_the_uninterrupted_one(
    stop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Result
) -> None:
    with monkeypatch.context() as patch, pytest.raises(StopHere):
        stop(patch)
        api.run_config(config(), str(tmp_path / "cut"))
    again = api.resume(tmp_path / "cut")
    assert rows(again.evaluations) == rows(uninterrupted.evaluations) and again.finals == uninterrupted.finals


def test_what_cannot_be_generated_or_begun_anew_is_refused() -> None:
    space = {"widths": [0.5, 1.0], "weight_bits": [8, 32], "activation_bits": [], "factors": []}
    with pytest.raises(ValueError, match=r"supernet.kind=pruning_net serves float weights, but got space.weight_bits"):
        api.check_names(config(space=space))
    with pytest.raises(ValueError, match=r"got space.weight_bits=\[8, 32\] with evaluation.final.from_scratch=true"):
        api.check_names(config(space=space, supernet=None))
    with pytest.raises(ValueError, match=r"supernet.kind must be one of .*, but got name=.pruning."):
        api.check_names(config(supernet={"kind": "pruning"}))
