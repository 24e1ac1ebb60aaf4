"""What a plan is worth: a function of (plan, step, seed), measured without a look at the test split."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from nets import Known, known
from torch import nn

from cluster.worker import answer
from evaluators import compression
from evaluators.compose import compose, recalibrate
from evaluators.compression import CompressionEvaluator, StepOptions, frozen_teacher
from evaluators.data import Images, Splits, limited, split
from evaluators.datasets import digits
from evaluators.models.small import digits_cnn
from evaluators.quantise import activation_quantisers, bake
from evaluators.recovery import Budget, classify, distillation_loss, tune
from evo.candidates import Request, Status
from search_spaces.plan import Bits, CompressionPlan, Factor, Skip, Sparse, Width

CPU = torch.device("cpu")
STEPS = {
    "quick": StepOptions(recalibration=64, validation=64),
    "step2": StepOptions(recalibration=64, validation=0, tune=Budget(epochs=1, batch=32, lr=0.02)),
    "final": StepOptions(recalibration=0, validation=0, tune=Budget(epochs=2, batch=32, lr=0.02), test=True, save=True),
}
SMALL = CompressionPlan(
    widths=(Width("stem", 9, compensate=True), Width("block1.conv1", 5)),
    sparse=(Sparse("block1.conv1", 2, 4),),
    skips=(Skip("block2"),),
    factors=(Factor("down", "svd", (8,), "inputs"),),
    bits=(
        Bits("stem", 5, 32),
        Bits("block1.conv2", 4, 8, "affine", 40, "gptq", "mse"),
        Bits("down", 3, 4),
        Bits("head", 6, 8),
    ),
)
PLANS = (CompressionPlan(), SMALL, CompressionPlan(widths=(Width("block2.conv1", 10),)))


@cache
def study() -> tuple[Known, Splits]:
    """A small network, trained for a moment on some of the digits, in three splits."""
    splits = split(limited(digits(), 512, 128), 128, 0)
    torch.manual_seed(0)
    model = digits_cnn(width=12)
    tune(model, None, splits, Budget(epochs=6, batch=32, lr=0.1), 0, CPU)
    return known(frozen_teacher(model, CPU), (1, 8, 8)), splits


def evaluator(artifacts: Path | None = None, **changes: object) -> CompressionEvaluator:
    net, splits = study()
    return replace(
        CompressionEvaluator(net.model, net.trace, net.ranking, splits, STEPS, CPU, artifacts),
        **changes,  # type: ignore[arg-type]
    )


def composed(plan: CompressionPlan) -> nn.Module:
    net, _ = study()
    return compose(net.model, net.trace, net.ranking, plan)


def test_measures_depend_on_plan_step_and_seed_alone() -> None:
    before = {name: tensor.clone() for name, tensor in study()[0].model.state_dict().items()}
    asked = [(plan, step, seed) for plan in PLANS for step, seed in (("quick", 0), ("step2", 0), ("step2", 1))]
    first = {at: evaluator().evaluate(*at) for at in asked}
    one = evaluator()
    torch.manual_seed(99)
    assert {at: one.evaluate(*at) for at in reversed(asked)} == first
    assert first[SMALL, "step2", 0] != first[SMALL, "step2", 1]
    teacher = study()[0].model
    torch.testing.assert_close(dict(teacher.state_dict()), before, rtol=0, atol=0)
    assert not teacher.training and not any(p.requires_grad or p.grad is not None for p in teacher.parameters())


def test_the_uncompressed_network_is_worth_what_the_baseline_says() -> None:
    step = {"as it is": StepOptions(recalibration=384, validation=0)}
    whole = evaluator(steps=step)
    found, baseline = whole.evaluate(CompressionPlan(), "as it is", 0), whole.baseline("as it is")
    assert found["top1_error"] == pytest.approx(baseline["top1_error"], abs=0.05) and baseline["top1_error"] < 0.3
    assert {name: found[name] for name in ("params", "macs", "bops", "size_bytes", "peak_activation_bytes")} == {
        name: baseline[name] for name in ("params", "macs", "bops", "size_bytes", "peak_activation_bytes")
    }
    worse = evaluator().evaluate(
        CompressionPlan(bits=tuple(Bits(n, 2, 32) for n in ("stem", "down", "head"))), "quick", 0
    )
    assert worse["cross_entropy"] > baseline["cross_entropy"] and worse["macs"] == baseline["macs"]


def test_tuning_changes_every_weight_and_lowers_the_loss() -> None:
    net, splits = study()
    plain = replace(SMALL, widths=PLANS[2].widths, factors=(Factor("down", "svd", (8,)),))
    model = composed(replace(plain, bits=(Bits("stem", 5, 32), Bits("block1.conv2", 4, 8, "affine", 40))))
    recalibrate(model, [splits.prepare(splits.train.images[:64], CPU)], ranges=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _, loss = classify(model, splits, splits.train, CPU)
    tune(model, net.model, splits, Budget(epochs=2, batch=32, lr=0.02), 0, CPU)
    assert not model.training
    assert [name for name, p in model.named_parameters() if torch.equal(p, before[name])] == []
    assert classify(model, splits, splits.train, CPU)[1] < loss


def test_distillation_loss_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    budget = Budget(alpha=0.25, temperature=2.0)
    p, q = (teacher / 2).softmax(1), (student / 2).softmax(1)
    expected = 0.75 * -student.log_softmax(1)[0, 1] + 0.25 * 4 * (p * (p / q).log()).sum()
    found = distillation_loss(student, torch.tensor([1]), teacher, budget)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert float(distillation_loss(student, torch.tensor([1]), None, budget)) == pytest.approx(1.3133, rel=1e-4)


def test_recalibration_is_the_plain_average_over_batches() -> None:
    splits = study()[1]
    model = composed(PLANS[2])
    momentum = model.bn.momentum
    batches = [splits.prepare(splits.train.images[at : at + 40], CPU) for at in (0, 40, 80)]
    recalibrate(model, batches, ranges=False)
    seen = [model.stem(batch).detach().transpose(0, 1).flatten(1) for batch in batches]
    torch.testing.assert_close(model.bn.running_mean, torch.stack([x.mean(1) for x in seen]).mean(0))
    torch.testing.assert_close(model.bn.running_var, torch.stack([x.var(1) for x in seen]).mean(0))
    assert not model.bn.training and model.bn.momentum == momentum


def test_ranges_are_those_of_the_float_activations() -> None:
    splits = study()[1]
    model = composed(CompressionPlan(bits=(Bits("stem", 32, 8), Bits("head", 32, 8))))
    batch = splits.prepare(splits.train.images[:64], CPU)
    recalibrate(model, [batch, batch * 0.5], ranges=True)
    first, _ = activation_quantisers(model)
    assert float(first.scale) == pytest.approx(float(batch.max() - batch.min()) / 255, rel=1e-5)
    again = float(first.scale)
    recalibrate(model, [batch * 9], ranges=False)
    assert float(first.scale) == again


@pytest.mark.parametrize(
    "poison",
    [Images(torch.full((8, 1, 8, 8), torch.nan), torch.zeros(8).long()), Images(torch.zeros(3), torch.zeros(3))],
)
def test_only_a_step_that_tests_touches_the_test_split(poison: Images) -> None:
    splits = study()[1]
    poisoned = evaluator(splits=replace(splits, test=poison, form=replace(splits.form, test=poison)))
    for step in ("quick", "step2"):
        assert poisoned.evaluate(SMALL, step, 0) == evaluator().evaluate(SMALL, step, 0)
    with pytest.raises((RuntimeError, FloatingPointError)):
        poisoned.evaluate(SMALL, "final", 0)


def test_the_test_split_is_measured_at_the_last_step() -> None:
    whole = evaluator()
    found = whole.evaluate(SMALL, "final", 0)
    module = bake(whole.realise(SMALL, "final", 0))
    with torch.no_grad():
        images, labels = next(whole.splits.batches(whole.splits.test, 128, CPU))
        expected = F.cross_entropy(module(images), labels)
    assert found["test_cross_entropy"] == pytest.approx(float(expected), rel=1e-5)
    assert "test_top1_error" not in whole.evaluate(SMALL, "step2", 0)


def test_kept_weights_stand_for_tuning_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = study()[1]
    first = evaluator(tmp_path)
    measured = first.evaluate(SMALL, "final", 3)
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]
    made_again = evaluator().realise(SMALL, "final", 3)

    def refuse(*_: object) -> None:
        raise AssertionError("tuned again")

    monkeypatch.setattr(compression, "tune", refuse)
    loaded = evaluator(tmp_path).realise(SMALL, "final", 3)
    images = splits.prepare(splits.validation.images, CPU)
    with torch.no_grad():
        assert torch.equal(loaded(images), made_again(images))
        assert torch.equal(bake(copy.deepcopy(loaded))(images), loaded(images))
    assert evaluator(tmp_path).evaluate(SMALL, "final", 3) == measured
    longer = replace(STEPS["final"], tune=replace(STEPS["final"].tune, epochs=3))
    wider = replace(STEPS["final"], validation=10)  # which weights do not depend on
    evaluator(tmp_path, steps={**STEPS, "final": wider}).realise(SMALL, "final", 3)
    for other, seed in ((STEPS["final"], 4), (longer, 3)):
        with pytest.raises(AssertionError, match="tuned again"):
            evaluator(tmp_path, steps={**STEPS, "final": other}).realise(SMALL, "final", seed)


@pytest.mark.parametrize("epochs", [1, 0.05])
def test_a_diverging_network_is_a_failed_evaluation(epochs: float) -> None:
    """Also where the very last step of tuning breaks it: no loss is computed after that one."""
    wild = StepOptions(recalibration=64, validation=64, tune=Budget(epochs=epochs, batch=32, lr=1e38))
    outcome = answer(evaluator(steps={"step2": wild}), Request("1", SMALL, "step2", 0), 1, "here")
    assert outcome.status is Status.FAILED and outcome.measures == {}
    assert outcome.reason.startswith("FloatingPointError: ") and "must stay finite" in outcome.reason


def test_a_data_aware_plan_needs_the_moments_of_its_inputs() -> None:
    with pytest.raises(ValueError, match=r"must come with the moments of its layers' inputs, but got none for "):
        composed(SMALL)


def test_a_plan_of_another_network_is_a_failed_evaluation() -> None:
    for plan in (CompressionPlan(widths=(Width("layer1", 3),)), CompressionPlan(widths=(Width("stem", 3, "fisher"),))):
        outcome = answer(evaluator(), Request("1", plan, "quick", 0), 1, "here")
        assert outcome.status is Status.FAILED and outcome.reason.startswith("ValueError: ")
