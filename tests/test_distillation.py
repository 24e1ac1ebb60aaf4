"""Recovery by distillation: every term by hand, places that match although widths differ, answers asked for once."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from nets import Known, known, named
from torch import nn

from evaluators import schedules
from evaluators.compose import compose
from evaluators.compression import CompressionEvaluator, StepOptions
from evaluators.data import Splits, limited, split
from evaluators.datasets import digits
from evaluators.distillation import (
    Match,
    TeacherAnswers,
    attention_loss,
    between,
    feature_loss,
    matches,
    outputs_of,
)
from evaluators.models.small import digits_cnn
from evaluators.probe import masked
from evaluators.recovery import Budget, classify, tune
from search_spaces.plan import CompressionPlan, Width

CPU = torch.device("cpu")
TAP = Match("block", (0, 2), 3)


def splits() -> Splits:
    return split(limited(digits(), 300, 100), 60, 0)


def halved() -> CompressionPlan:
    net = named("digits_cnn")
    return CompressionPlan(widths=tuple(Width(g.name, g.size // 2, "l1") for g in net.network.groups))


def student() -> nn.Module:
    net = named("digits_cnn")
    return compose(net.model, net.trace, net.ranking, halved())


def test_the_feature_term_by_hand() -> None:
    """Kept channels 0 and 2 of the teacher: differences 1, 0, 0, -2 over squares 1, 4, 1, 9."""
    teacher = torch.tensor([[[[1.0, 2.0]], [[7.0, 7.0]], [[1.0, 3.0]]]])
    ours = torch.tensor([[[[2.0, 2.0]], [[1.0, 1.0]]]])
    assert float(feature_loss(ours, teacher, TAP)) == pytest.approx(0.5 * (1 + 4) / (1 + 4 + 1 + 9))
    tokens = teacher.flatten(2).transpose(1, 2)
    assert float(feature_loss(ours.flatten(2).transpose(1, 2), tokens, TAP)) == pytest.approx(1 / 6)


def test_the_attention_term_by_hand() -> None:
    """Maps (3, 4) and (0, 5) of squares have the directions (0.6, 0.8) and (0, 1); a width of its own changes nothing."""
    teacher = torch.tensor([[[[3.0, 4.0]], [[0.0, 0.0]], [[0.0, 0.0]]]]).sqrt()
    ours = torch.tensor([[[[0.0, 2.0]], [[0.0, 3.0]]]]).sqrt()
    assert float(attention_loss(ours, teacher, TAP)) == pytest.approx(0.5 * (0.36 + 0.04), rel=1e-5)
    assert float(attention_loss(teacher * 9, teacher, TAP)) == pytest.approx(0.0, abs=1e-6)


def test_terms_are_weighted_and_averaged_over_places() -> None:
    torch.manual_seed(0)
    teacher, ours = {n: torch.rand(2, 3, 4, 4) for n in "ab"}, {n: torch.rand(2, 2, 4, 4) for n in "ab"}
    places = [Match(name, (0, 2), 3) for name in "ab"]
    expected = sum(
        2 * feature_loss(ours[p.module], teacher[p.module], p)
        + 0.5 * attention_loss(ours[p.module], teacher[p.module], p)
        for p in places
    )
    found = between({"features": 2.0, "attention": 0.5}, ours, teacher, places)
    assert float(found) == pytest.approx(float(expected) / 2)


def test_a_place_whose_channels_are_unknown_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"block must give 3 channels .*but got shape=\(1, 5, 2, 2\); "):
        feature_loss(torch.zeros(1, 2, 2, 2), torch.zeros(1, 5, 2, 2), TAP)


def test_places_tell_which_channels_of_the_teacher_the_student_kept() -> None:
    """The student's features are those of the whole network that ignores the cut channels, at the channels of the match."""
    net, plan = named("digits_cnn"), halved()
    places = matches(net.trace, net.ranking, plan)
    kept = {w.group: net.ranking.keep(w.group, w.criterion, w.kept) for w in plan.widths}
    whole, cut = masked(net.model, net.trace, kept), student().eval()
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    names = [place.module for place in places]
    with outputs_of(whole, names) as wanted, outputs_of(cut, names) as found, torch.no_grad():
        whole(images), cut(images)
    assert len(places) >= 2
    for place in places:
        assert len(place.channels) < place.of
        expected = wanted[place.module][:, list(place.channels)]
        torch.testing.assert_close(found[place.module], expected, rtol=1e-4, atol=1e-5)


def tuned(budget: Budget, places: tuple[Match, ...]) -> nn.Module:
    model = student()
    tune(model, named("digits_cnn").model, splits(), budget, 3, CPU, places=places)
    return model


def test_a_term_of_weight_zero_changes_nothing() -> None:
    net = named("digits_cnn")
    places, budget = matches(net.trace, net.ranking, halved()), Budget(epochs=0.3, batch=32)
    plain, with_zero = tuned(budget, ()).state_dict(), tuned(budget, places).state_dict()
    assert all(torch.equal(value, with_zero[name]) for name, value in plain.items())
    other = tuned(replace(budget, attention=1.0), places).state_dict()
    assert not torch.equal(plain["head.weight"], other["head.weight"])


@cache
def trained() -> Known:
    torch.manual_seed(0)
    model = digits_cnn()
    tune(model, None, splits(), Budget(epochs=6, batch=32, lr=0.1), 0, CPU)
    return known(model, (1, 8, 8))


@pytest.mark.parametrize("term", ["features", "attention"])
def test_a_term_brings_the_student_nearer_than_labels_alone(term: str) -> None:
    net, data = trained(), splits()
    places = matches(net.trace, net.ranking, halved())
    names = [place.module for place in places]
    images = data.prepare(data.validation.images, CPU)

    def recovered(weight: float) -> tuple[float, float]:
        model = compose(net.model, net.trace, net.ranking, halved())
        before = classify(model, data, data.train, CPU)[1]
        budget = Budget(epochs=2, batch=32, lr=0.02, alpha=0, **{term: weight})  # type: ignore[arg-type]
        tune(model, net.model, data, budget, 3, CPU, places=places)
        assert classify(model, data, data.train, CPU)[1] < 0.5 * before
        with outputs_of(net.model, names) as wanted, outputs_of(model, names) as found, torch.no_grad():
            net.model(images), model(images)
        return float(between({"features": 1.0}, found, wanted, places)), float(
            between({"attention": 1.0}, found, wanted, places)
        )

    near, far = recovered(20.0), recovered(0.0)
    at = ["features", "attention"].index(term)
    assert near[at] < 0.8 * far[at]


def test_the_teacher_answers_every_way_once_and_always_alike() -> None:
    data, net = splits(), named("digits_cnn")
    teacher = copy.deepcopy(net.model)
    asked = []
    teacher.register_forward_hook(lambda _, inputs, __: asked.append(len(inputs[0])))
    answers, late = (TeacherAnswers(teacher, data, CPU) for _ in range(2))
    batches = list(data.training_batches(32, 3, 5, CPU, ways=2))
    found = [answers.logits(batch) for batch in batches]
    assert sum(asked) == 2 * len(data.train)
    assert {batch.way for batch in batches} == {0, 1}
    torch.testing.assert_close(found[0], net.model(batches[0].images).detach())
    assert torch.equal(late.logits(batches[-1]), found[-1]), "whatever was asked before"


def test_an_evaluator_asks_once_for_all_plans_and_compares_where_it_is_told() -> None:
    net, data = trained(), splits()
    teacher, asked = copy.deepcopy(net.model), []
    short = Budget(epochs=0.5, batch=32, lr=0.02, ways=1)
    evaluator = CompressionEvaluator(teacher, net.trace, net.ranking, data, {"s": StepOptions(64, 60, short)}, CPU)
    teacher.register_forward_hook(lambda _, inputs, __: asked.append(len(inputs[0])))
    first = evaluator.evaluate(halved(), "s", 1)
    assert asked.count(len(data.train)) == 1
    assert replace(evaluator, progress=print).evaluate(halved(), "s", 1) == first
    assert asked.count(len(data.train)) == 1, "known already"
    compared = replace(evaluator, steps={"s": StepOptions(64, 60, replace(short, attention=1.0))})
    assert compared.evaluate(halved(), "s", 1)["cross_entropy"] != first["cross_entropy"]


def test_the_first_steps_compute_in_mixed_precision_and_the_teacher_never_does() -> None:
    net, data = trained(), splits()
    teacher, model = copy.deepcopy(net.model), compose(net.model, net.trace, net.ranking, halved())
    kinds: dict[str, list[torch.dtype]] = {"student": [], "teacher": []}
    for name, network in (("student", model), ("teacher", teacher)):
        conv = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
        conv.register_forward_hook(lambda _, __, output, to=kinds[name]: to.append(output.dtype))
    before = classify(model, data, data.train, CPU)[1]
    kinds["student"].clear()
    tune(model, teacher, data, Budget(epochs=4, batch=32, lr=0.02, bfloat16=0.75), 3, CPU)
    steps = 4 * (len(data.train) // 32)
    halved_steps = math.ceil(0.75 * steps)
    assert kinds["student"] == [torch.bfloat16] * halved_steps + [torch.float32] * (steps - halved_steps)
    assert set(kinds["teacher"]) == {torch.float32}
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float32}
    assert classify(model, data, data.train, CPU)[1] < 0.5 * before


def test_ways_repeat_over_epochs_and_seeds() -> None:
    data = splits()

    def pictures(seed: int) -> list[dict[int, bytes]]:
        seen: list[dict[int, bytes]] = [{}, {}, {}]
        for number, batch in enumerate(data.training_batches(24, 3, seed, CPU, ways=2)):
            shown = zip(batch.which.tolist(), batch.images, strict=True)
            seen[number // 10].update({i: image.numpy().tobytes() for i, image in shown})
        return seen

    first, second, third = pictures(1)
    assert first == third == pictures(2)[0] and first.keys() == second.keys() and first != second


def test_schedules_by_hand() -> None:
    steps = [schedules.rate(step, 10, 0.2, schedules.cosine) for step in range(10)]
    assert steps[:3] == [0.5, 1.0, 1.0] and steps[6] == pytest.approx(0.5) and min(steps) == steps[9] > 0
    assert [schedules.drops(at) for at in (0.0, 0.49, 0.5, 0.75)] == pytest.approx([1, 1, 0.1, 0.01])
    assert [schedules.linear(at) for at in (0.0, 0.25)] == [1.0, 0.75] and schedules.constant(0.9) == 1.0
