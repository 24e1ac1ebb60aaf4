"""TAS: expected costs, interpolation, the mixture of widths and depths, learning in turns, and the search around it."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import Known, named
from small_run import settings
from test_cars import StopHere, StopsAfter, rows

from evaluators.data import Splits, limited, split
from evaluators.datasets import digits
from evaluators.supernets.architecture import ADAM, DEPTH, WIDTH, Architecture, ArchitectureRule, Drawn
from evaluators.supernets.elastic import ElasticSupernet
from evaluators.supernets.expected import expected_macs
from evaluators.supernets.interpolation import MixedNorm, interpolated
from evaluators.supernets.schedule import Schedule
from evaluators.supernets.trainer import SupernetTrainer
from evaluators.supernets.transformable import BilevelSteps, TransformableSupernet, halves
from evaluators.supernets.weights import WeightStore
from evo import api
from evo.algorithms.tas import TAS
from evo.config.schema import Config, validate
from evo.problem import Objective, Problem
from evo.randomness import stream
from evo.storage.folder import Folder
from evo.studies import of_classifier
from search_spaces.costs import costs
from search_spaces.genes import WidthGene
from search_spaces.options import SpaceOptions, build_space
from search_spaces.phenotype import of_plan
from search_spaces.plan import CompressionPlan, Skip, Width
from search_spaces.space import CompressionSpace
from search_spaces.stages import Stage, stages

CPU = torch.device("cpu")
OPTIONS = SpaceOptions(
    widths=(0.25, 0.5, 1.0), multiple=1, criteria=("l1",), weight_bits=(), activation_bits=(), factors=()
)
INNER = {"digits_cnn": ("stem", "block2.conv1"), "resnet20": ("layer1.1.conv1", "layer3.2.conv1")}


def space(known: Known) -> CompressionSpace:
    return build_space(known.network, OPTIONS)


def architecture(name: str, rule: ArchitectureRule = ArchitectureRule(), spread: float = 0.0) -> Architecture:  # noqa: B008
    """Over two groups and all stages; with `spread`, as if something had been learned."""
    made = Architecture(space(named(name)), INNER[name], rule, seed=0)
    with torch.no_grad():
        for number, logits in enumerate(made.logits.values()):
            logits.add_(torch.tensor(np.random.default_rng(number).normal(0, spread, len(logits)), dtype=torch.float32))
    return made


def supernet(name: str, rule: ArchitectureRule = ArchitectureRule()) -> TransformableSupernet:  # noqa: B008
    known = named(name)
    widths = {gene.group: gene.kept for gene in space(known).genes if isinstance(gene, WidthGene)}
    elastic = ElasticSupernet(known.model, known.trace, known.ranking, "l1", private_norms=widths)
    return TransformableSupernet(elastic, architecture(name, rule, 0.5), "l1")


def macs(known: Known, plan: CompressionPlan) -> float:
    return float(costs(known.network, of_plan(known.network, plan))["macs"][0])


def batch(known: Known, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, *known.example.shape[1:], generator=generator), torch.randint(
        0, 10, (8,), generator=generator
    )


@pytest.mark.parametrize("name", INNER)
def test_expected_multiplications_are_those_of_all_networks_by_their_probabilities(name: str) -> None:
    known, made = named(name), architecture(name, spread=1.0)
    chances = {key: F.softmax(logits.detach().double(), 0).tolist() for key, logits in made.logits.items()}
    options = {WIDTH + group: [Width(group, kept) for kept in widths] for group, widths in made.widths.items()}
    depths = {DEPTH + key: [[Skip(b) for b in s.blocks[d:]] for d in s.depths] for key, s in made.stages.items()}
    expected, total = 0.0, 0.0
    for picks in product(*(range(len(p)) for p in chances.values())):
        at = dict(zip(chances, picks, strict=True))
        plan = CompressionPlan(
            tuple(options[key][at[key]] for key in options),
            skips=tuple(s for key in depths for s in depths[key][at[key]]),
        )
        share = float(np.prod([chances[key][pick] for key, pick in at.items()]))
        expected, total = expected + share * macs(known, plan), total + share
    assert total == pytest.approx(1.0) and len(made.stages) == {"digits_cnn": 2, "resnet20": 3}[name]
    assert float(expected_macs(known.network, made.distribution()).detach()) == pytest.approx(expected, rel=1e-5)


def test_a_certain_architecture_costs_what_its_plan_costs() -> None:
    made = architecture("resnet20", spread=1.0)
    for logits in made.logits.values():
        logits.data *= 1000
    expected = float(expected_macs(named("resnet20").network, made.distribution()).detach())
    assert expected == pytest.approx(macs(named("resnet20"), made.likeliest()), rel=1e-5)


def test_stages_have_the_depths_of_the_paper() -> None:
    found = stages(named("resnet20").network, [block.name for block in named("resnet20").network.blocks])
    assert [stage.blocks for stage in found] == [tuple(f"layer{n}.{i}" for i in range(n > 1, 3)) for n in (1, 2, 3)]
    assert [stage.depths for stage in found] == [(1, 2, 3), (0, 1, 2), (0, 1, 2)]  # with the block before: 1, 2, 3
    assert Stage(tuple("abcdefghi")).depths == (1, 3, 5, 7, 9) and Stage(tuple("abcdefgh")).depths == (0, 2, 4, 6, 8)
    assert Stage(("a",)).depths == (0, 1)


@pytest.mark.parametrize(("before", "after"), [(3, 8), (7, 16), (8, 3), (5, 5), (1, 4)])
def test_interpolation_of_channels_is_adaptive_pooling_over_them(before: int, after: int) -> None:
    x = torch.randn(2, before, 3, 4, generator=torch.Generator().manual_seed(0))
    pooled = F.adaptive_avg_pool3d(x.unsqueeze(1), (after, 3, 4)).squeeze(1)
    torch.testing.assert_close(interpolated(x, after), pooled)
    for i in range(after):
        window = x[:, i * before // after : -(-(i + 1) * before // after)]
        torch.testing.assert_close(interpolated(x, after)[:, i], window.mean(1))


def test_a_mixed_norm_adds_up_what_each_width_makes_of_its_first_channels() -> None:
    x, shares = torch.randn(6, 8, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.7])
    affines = [(torch.rand(5), torch.randn(5)), (torch.rand(8), torch.randn(8))]
    expected = torch.zeros_like(x)
    for share, (scale, shift) in zip(shares, affines, strict=True):
        part = x[:, : len(scale)]
        mean, variance = part.mean((0, 2, 3), keepdim=True), part.var((0, 2, 3), unbiased=False, keepdim=True)
        normal = (part - mean) / (variance + 1e-5).sqrt() * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
        expected += share * F.adaptive_avg_pool3d(normal.unsqueeze(1), (8, 2, 2)).squeeze(1)
    torch.testing.assert_close(MixedNorm(affines, shares, 1e-5)(x), expected)


def test_a_mixture_of_one_choice_is_that_choice() -> None:
    net, known = supernet("resnet20"), named("resnet20")
    images, _ = batch(known)
    sure = torch.tensor([0.0, 1.0])
    widths = {group: (kept[1:], sure) for group, kept in net.architecture.widths.items()}
    depths = {name: torch.eye(len(s.depths))[at] for at, (name, s) in enumerate(net.architecture.stages.items())}
    skips = [Skip(b) for at, s in enumerate(net.architecture.stages.values()) for b in s.blocks[s.depths[at] :]]
    alone = net.view(CompressionPlan(skips=tuple(skips))).train()
    with torch.no_grad():
        torch.testing.assert_close(net.mixture(Drawn(widths, depths))(images), alone(images), rtol=1e-4, atol=1e-4)


def test_two_widths_are_drawn_without_replacement_in_proportion_to_the_gumbel_softmax() -> None:
    made = architecture("digits_cnn", spread=1.0)
    counts, kept = dict.fromkeys([(0, 1), (0, 2), (1, 2)], 0), made.widths["stem"]
    for number in range(3000):
        pair, shares = made.draw(stream(0, "draw", number), 1e6).widths["stem"]
        counts[kept.index(pair[0]), kept.index(pair[1])] += 1
        assert float(shares.sum().detach()) == pytest.approx(1.0)
    assert [n / 3000 for n in counts.values()] == pytest.approx([1 / 3] * 3, abs=0.03)  # so warm that all are equal
    p = F.softmax(made.logits[WIDTH + "stem"].detach().double(), 0).numpy()
    best = [int(made.draw(stream(1, "draw", i), 1e-4).widths["stem"][1].argmax()) for i in range(50)]
    assert set(best) == {0, 1}  # and so cold that one of the two has everything, without an error
    drawn = [made.draw(stream(2, "draw", i), 1e-4).widths["stem"] for i in range(3000)]
    winners = [kept.index(pair[int(shares.argmax())]) for pair, shares in drawn]
    assert [winners.count(i) / 3000 for i in range(3)] == pytest.approx(p.tolist(), abs=0.03)


@pytest.mark.parametrize(("target", "direction"), [(0.05, -1), (0.99, 1)])
def test_outside_the_band_the_expected_multiplications_move_towards_it(target: float, direction: int) -> None:
    made = architecture("digits_cnn", ArchitectureRule(target=target, lr=0.05, weight_decay=0.0, tolerance=0.02), 0.3)
    network = named("digits_cnn").network
    values = []
    for _ in range(5):
        values.append(float(expected_macs(network, made.distribution()).detach()))
        made.step(sum(logits.sum() * 0 for logits in made.logits.values()) + torch.zeros(()))
    assert all(direction * (b - a) > 0 for a, b in pairwise(values))


def test_inside_the_band_multiplications_cost_nothing() -> None:
    made, known = architecture("digits_cnn", spread=0.3), named("digits_cnn")
    share = macs(known, made.likeliest()) / macs(known, CompressionPlan())
    inside = architecture("digits_cnn", ArchitectureRule(target=share + 0.01, tolerance=0.02), 0.3)
    assert float(inside.cost()) == 0 and not inside.cost().requires_grad
    assert ArchitectureRule(target=0.5, tolerance=0.05).band(100) == pytest.approx((45, 50))
    assert ArchitectureRule(target=0.5, tolerance=0.05, around=True).band(100) == pytest.approx((47.5, 52.5))
    rule = ArchitectureRule()
    assert [rule.temperature(done) for done in (0, 0.5, 1, 2)] == pytest.approx([5.0, 2.55, 0.1, 0.1])


def test_weights_and_logits_learn_in_turns() -> None:
    net, (images, labels) = supernet("digits_cnn"), batch(named("digits_cnn"))
    drawn = net.architecture.draw(stream(0, "draw"), 1.0)
    before = {name: tensor.clone() for name, tensor in net.state().items()}
    net.weight_step(drawn, images, labels, 0.1)
    middle = {name: tensor.clone() for name, tensor in net.state().items()}
    changed = {name for name in before if not torch.equal(before[name], middle[name])}
    assert changed and all(name.startswith(("weight:", "momentum:")) for name in changed)
    widths = {group: kept for group, (kept, _) in drawn.widths.items()}
    for name, module in net.elastic.network.named_modules():
        if name in net.elastic.norms("stem"):
            switched = {n.partition("@")[2] for n in changed if n.startswith(f"weight:{name}.weight")}
            assert switched == {"" if k == len(module.weight) else str(k) for k in widths["stem"]}
    net.architecture_step(net.architecture.draw(stream(0, "draw"), 1.0), images, labels)
    learned = {name for name, tensor in net.state().items() if not torch.equal(middle[name], tensor)}
    assert {f"logits:{name}" for name in net.architecture.logits} <= learned
    assert all(name.startswith(("logits:", *(f"{key}:" for key in ADAM))) for name in learned)


def test_preferences_are_probabilities_of_alleles_and_their_mode_is_the_likeliest_network() -> None:
    known, made = named("resnet20"), architecture("resnet20", spread=1.0)
    problem = Problem(space(known), (Objective("error"),), reference=(1.0,))
    algorithm, found = TAS(problem, population=200), made.preferences()
    batch, state = algorithm.ask(algorithm.init(0))
    genomes = [c.genome for c in algorithm.follow(state, batch, found).candidates]
    assert macs(known, problem.space.decode(genomes[0])) == macs(known, made.likeliest())
    assert algorithm.follow(state, batch, found) == algorithm.follow(state, batch, found)
    at = {name: i for i, name in enumerate(problem.space.names)}
    for preference in found:
        assert sum(preference.probabilities) == pytest.approx(1.0, abs=1e-5)
        # alleles of skipped layers are reset, so widths are looked at where nothing is skipped
        mine = [tuple(g[at[gene]] for gene in preference.genes) for g in genomes[1:]]
        if preference.genes[0].startswith("skip"):
            shares = [mine.count(alleles) / len(mine) for alleles in preference.alleles]
            assert shares == pytest.approx(list(preference.probabilities), abs=0.12)


class Stops(BilevelSteps):
    left = 10**9

    def take(self, *arguments: Any) -> None:
        type(self).left -= 1
        if type(self).left < 0:
            raise StopHere
        super().take(*arguments)


def trainer(folder: Path, stop_after: int = 10**9) -> SupernetTrainer:
    known, schedule = named("digits_cnn"), Schedule(warm_up=0, epochs=1, horizon=2, batch=20)
    splits: Splits = split(limited(digits(), 240, 20), 40, 0)
    weights, others = halves(splits, 0)
    assert len(weights.train) == len(others.train) == 100
    net, Stops.left = supernet("digits_cnn"), stop_after
    steps = Stops(net, weights, others, schedule, 5, CPU)
    store = WeightStore(Folder.at(str(folder)))
    return SupernetTrainer(net, space(known), weights, schedule, store, 5, CPU, pause_s=0, steps=steps)


def test_training_that_was_stopped_in_a_version_ends_as_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    for version in (1, 2):
        whole.train(version, [space(named("digits_cnn")).full])
    for stop in (3, 4):  # within the first version, then within the second
        made = trainer(tmp_path / "cut", stop)
        with pytest.raises(StopHere):
            for version in (1, 2):
                made.train(version, [space(named("digits_cnn")).full])
    again = trainer(tmp_path / "cut")
    for version in (1, 2):
        again.train(version, [space(named("digits_cnn")).full])
    ends = [made.store.read(2) for made in (whole, again)]
    assert ends[0] is not None and ends[1] is not None and ends[0].step == ends[1].step == 10
    assert all(torch.equal(ends[1].state[name], tensor) for name, tensor in ends[0].state.items())


def config(**changes: Any) -> Config:
    values = settings(None)
    values["space"] = {
        "widths": [0.25, 0.5, 1.0],
        "multiple": 2,
        "weight_bits": [],
        "activation_bits": [],
        "factors": [],
    }
    values["objectives"] = [{"measure": "top1_error", "reference": 1.0}]
    values["constraints"] = [{"measure": "macs", "upper": "0.5x"}]
    values["supernet"] = {"kind": "transformable", "warm_up": 0, "epochs": 1, "horizon": 3, "batch": 20}
    values["supernet"]["architecture"] = {"lr": 0.1}
    values["algorithm"] = {"name": "tas", "params": {"population": 3}}
    values["budget"] = {"generations": 3}
    return validate({**values, **changes})


def test_a_search_that_was_stopped_ends_as_the_uninterrupted_one(tmp_path: Path, monkeypatch: Any) -> None:
    whole = api.run_config(config(), str(tmp_path / "whole"))
    assert [e.weights_version for e in whole.evaluations] == [1] * 3 + [2] * 3 + [3] * 3
    assert max(e.measures["macs"] for e in whole.evaluations) <= 0.5 * whole.baseline["macs"]
    keepers = of_classifier.keepers
    monkeypatch.setattr(of_classifier, "keepers", lambda *given: (*keepers(*given), StopsAfter(4)))
    with pytest.raises(StopHere):
        api.run_config(config(), str(tmp_path / "cut"))
    monkeypatch.undo()
    assert rows(api.resume(tmp_path / "cut").evaluations) == rows(whole.evaluations)


def test_following_needs_weights_that_prefer() -> None:
    with pytest.raises(
        ValueError, match=r"'tas' follows weights that learn preferences, but got supernet.kind=elastic"
    ):
        api.check_names(config(supernet={"kind": "elastic"}))
    with pytest.raises(ValueError, match="'tas' needs shared weights, but got no section supernet"):
        api.check_names(config(supernet=None))
