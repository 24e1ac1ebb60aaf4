"""The laws of shared weights: what a subnet uses, what it leaves alone, and that taking it out changes nothing."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import Known, named
from torch import Tensor, nn

from evaluators.compose import recalibrate
from evaluators.count import parameters
from evaluators.supernets.elastic import ElasticSupernet
from evaluators.supernets.optimiser import ActiveSGD, StepRule
from search_spaces.costs import costs
from search_spaces.elastic import largest, narrowest, without_widths
from search_spaces.genes import WidthGene
from search_spaces.options import SpaceOptions, build_space
from search_spaces.phenotype import of_plan
from search_spaces.plan import Bits, CompressionPlan, Factor, Mask, Width
from search_spaces.space import CompressionSpace

OPTIONS = SpaceOptions(
    widths=(0.25, 0.5, 0.75, 1.0),
    multiple=2,
    criteria=("l1",),
    weight_bits=(3, 8, 32),
    activation_bits=(8, 32),
    factors=(),
)


def supernet(known: Known, private: bool = False, clip: float = 5.0) -> ElasticSupernet:
    return ElasticSupernet(
        known.model,
        known.trace,
        known.ranking,
        "l1",
        StepRule(clip=clip),
        private_norms=widths(known) if private else None,
    )


def widths(known: Known) -> dict[str, tuple[int, ...]]:
    return {gene.group: gene.kept for gene in space(known).genes if isinstance(gene, WidthGene)}


@cache
def _space(name: str) -> CompressionSpace:
    known = named(name)
    return without_widths(build_space(known.network, OPTIONS), tuple(supernet(known).refused))


def space(known: Known) -> CompressionSpace:
    return _space(next(name for name in ("digits_cnn", "resnet8") if named(name) is known))


def plans(known: Known, count: int, seed: int = 0) -> list[CompressionPlan]:
    rng = np.random.default_rng(seed)
    return [space(known).decode(space(known).sample(rng)) for _ in range(count)]


def narrow(known: Known) -> CompressionPlan:
    return space(known).decode(narrowest(space(known)))


def batch(known: Known, count: int = 8, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *known.example.shape[1:], generator=generator), torch.randint(
        10, (count,), generator=generator
    )


@pytest.mark.parametrize("name", ["digits_cnn", "resnet8", "mobilenet_v2"])
def test_sorting_the_channels_changes_no_output(name: str) -> None:
    known = named(name)
    made = supernet(known)
    assert len(made.refused) < len(known.network.groups)
    with torch.no_grad():
        torch.testing.assert_close(made.network.eval()(known.example), known.model(known.example), rtol=1e-4, atol=1e-4)
    moved = [not torch.equal(a, b) for a, b in zip(made.network.parameters(), known.model.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 4


@pytest.mark.parametrize("name", ["digits_cnn", "resnet8"])
def test_a_view_shares_storage_and_costs_what_the_plan_costs(name: str) -> None:
    known = named(name)
    made = supernet(known)
    storages = {p.untyped_storage().data_ptr() for p in made.network.parameters()}
    for plan in (CompressionPlan(), narrow(known)):
        view = made.view(plan)
        assert all(p.untyped_storage().data_ptr() in storages for p in view.parameters())
        assert parameters(view) == costs(known.network, of_plan(known.network, plan))["params"][0]


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("name", ["digits_cnn", "resnet8"])
def test_an_extracted_network_computes_what_the_view_does(name: str, private: bool) -> None:
    known = named(name)
    made, (images, labels) = supernet(known, private), batch(known)
    made.train_step([CompressionPlan(), narrow(known)], images, labels, 0.1)
    for plan in plans(known, 4):
        pair = made.view(plan), made.extract(plan)
        for module in pair:
            recalibrate(module, [images], ranges=True)
        with torch.no_grad():
            torch.testing.assert_close(pair[0](images), pair[1](images), rtol=1e-6, atol=1e-6)
        own = {p.untyped_storage().data_ptr() for p in made.network.parameters()}
        assert not own & {p.untyped_storage().data_ptr() for p in pair[1].parameters()}


@pytest.mark.parametrize("private", [False, True])
def test_weights_that_no_plan_uses_keep_every_bit(private: bool) -> None:
    known = named("digits_cnn")
    made, (images, labels) = supernet(known, private), batch(known)
    made.train_step([CompressionPlan()], images, labels, 0.1)  # so that there is momentum to be carried on
    before = {name: tensor.clone() for name, tensor in made.state().items()}
    small = [narrow(known), plans(known, 1)[0]]
    for _ in range(2):
        made.train_step(small, images, labels, 0.1)
    active, changed = made.active(small), 0
    for name, tensor in made.state().items():
        kind, _, parameter = name.partition(":")
        outside = torch.ones_like(tensor, dtype=torch.bool)
        for box in active.get(parameter, []):
            outside[tuple(slice(size) for size in box)] = False
        assert torch.equal(tensor[outside], before[name][outside]), name
        changed += int((tensor != before[name]).sum()) if kind == "weight" else 0
    assert changed > 1000


def test_gradients_of_shared_weights_are_those_of_the_network_taken_out() -> None:
    known = named("resnet8")
    made, (images, labels), plan = supernet(known), batch(known), narrow(known)
    alone = made.extract(plan).train()
    F.cross_entropy(alone(images), labels).backward()
    F.cross_entropy(made.view(plan).train()(images), labels).backward()
    expected = dict(alone.named_parameters())
    for name, parameter in made.network.named_parameters():
        whole = torch.zeros_like(parameter)
        whole[tuple(slice(size) for size in expected[name].shape)] = expected[name].grad
        torch.testing.assert_close(parameter.grad, whole, rtol=1e-4, atol=1e-6)


def test_the_narrower_plans_learn_from_the_detached_answers_of_the_first() -> None:
    known = named("digits_cnn")
    made, (images, labels) = supernet(known, clip=1e9), batch(known)
    teacher, student = made.extract(CompressionPlan()).train(), made.extract(narrow(known)).train()
    logits = teacher(images)
    F.cross_entropy(logits, labels).backward()
    F.cross_entropy(student(images), logits.detach().softmax(1)).backward()
    made.train_step([CompressionPlan(), narrow(known)], images, labels, 0.0)
    parts = dict(student.named_parameters())
    for (name, parameter), own in zip(made.network.named_parameters(), teacher.parameters(), strict=True):
        expected = own.grad.clone()
        expected[tuple(slice(size) for size in parts[name].shape)] += parts[name].grad
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-5)


def test_the_first_plan_learns_from_the_uncompressed_network_where_there_is_one() -> None:
    known = named("digits_cnn")
    images, labels = batch(known)
    made = ElasticSupernet(
        copy.deepcopy(known.model), known.trace, known.ranking, "l1", StepRule(clip=1e9), teacher=known.model
    )
    alone = made.extract(CompressionPlan()).train()
    with torch.no_grad():
        answers = known.model(images).softmax(1)
    F.cross_entropy(alone(images), answers).backward()
    made.train_step([CompressionPlan()], images, labels, 0.0)
    for parameter, expected in zip(made.network.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-3, atol=1e-5)


def test_with_everything_active_the_optimiser_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours = nn.Linear(5, 3)
    theirs = copy.deepcopy(ours)
    rule = StepRule(momentum=0.9, weight_decay=0.1, clip=1e9)
    sgd = ActiveSGD(dict(ours.named_parameters()), rule)
    groups = [{"params": [theirs.weight], "weight_decay": 0.1}, {"params": [theirs.bias], "weight_decay": 0.0}]
    reference = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    for step in range(5):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        for model in (ours, theirs):
            model.zero_grad()
            model(x).square().sum().backward()
        sgd.step({"weight": [(3, 5)], "bias": [(3,)]}, 0.1)
        reference.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


def test_a_width_with_norms_of_its_own_leaves_those_of_others_alone() -> None:
    known = named("digits_cnn")
    made, (images, labels) = supernet(known, private=True), batch(known)
    before = made.network.bn.weight.clone()  # type: ignore[union-attr]
    made.train_step([narrow(known)], images, labels, 0.1)
    assert torch.equal(made.network.bn.weight, before)  # type: ignore[arg-type]
    assert not torch.equal(made.network.stem.weight, supernet(known).network.stem.weight)  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize("private", [False, True])
def test_a_state_put_back_trains_on_equally(private: bool) -> None:
    known = named("digits_cnn")
    first, second = supernet(known, private), supernet(known, private)
    pairs = [(plans(known, 2, seed), batch(known, seed=seed)) for seed in range(4)]
    for wanted, (images, labels) in pairs[:2]:
        first.train_step(wanted, images, labels, 0.05)
    second.load({name: tensor.clone() for name, tensor in first.state().items()})
    for made in (first, second):
        for wanted, (images, labels) in pairs[2:]:
            made.train_step(wanted, images, labels, 0.05)
    assert all(torch.equal(a, b) for a, b in zip(first.state().values(), second.state().values(), strict=True))


def test_what_shared_weights_cannot_serve_is_refused_with_a_reason() -> None:
    known = named("resnet8")
    made = supernet(known)
    (group,) = made.refused
    elastic = next(g for g in known.network.groups if g.name not in made.refused)
    wrong = {
        f"must be elastic, but got {group}: its channels lie between others in": CompressionPlan(
            widths=(Width(group, 4),)
        ),
        r"must choose channels by what sorted them \(l1\), but got criterion=l2": CompressionPlan(
            widths=(Width(elastic.name, 4, "l2"),)
        ),
        "must consist of widths, skips, bits, but got masks": CompressionPlan(masks=(Mask(elastic.name, (0, 1)),)),
        "must consist of widths, skips, bits, but got factors": CompressionPlan(
            factors=(Factor("layer1.0.conv1", "svd", (4,)),)
        ),
        "rounded to the nearest, but got rounding=gptq": CompressionPlan(
            bits=(Bits("layer1.0.conv1", 4, rounding="gptq"),)
        ),
    }
    for message, plan in wrong.items():
        for take in (made.view, made.extract):
            with pytest.raises(ValueError, match=message):
                take(plan)
    assert largest(space(known)) == space(known).anchors()[0]
