"""A whole search of a pair of generators, tiny: through the configuration, stopped in either turn, exported, and looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from toy import rows

from evaluators.count import parameters
from evaluators.gan.evaluator import TranslationEvaluator
from evaluators.gan.fitness import FLOOR, Weights, code_fitness, paper_fitness
from evaluators.gan.networks import A_TO_B, B_TO_A, DIRECTIONS
from evaluators.quantise import bake
from evo import api
from evo.candidates import FINAL, STEP2, Candidate, Evaluation, Status
from evo.config.schema import Config, validate
from evo.studies.classifier import check_names
from evo.studies.doctor import examine
from evo.studies.inputs import Given
from evo.studies.of_generators import Generators
from evo.studies.translation import TranslationStudy, build_translation, make_translator, translation_kit
from search_spaces.plan import CompressionPlan

POPULATION, TURNS = 4, 4


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": {"factory": "resnet_generator", "kwargs": {"channels": 1, "width": 2, "blocks": 1}},
        "gan": {
            "baseline": str(folder / "baseline"),
            "epochs": 0.5,
            "batch": 4,
            "discriminator": {"kwargs": {"channels": 1, "width": 4, "layers": 1}},
        },
        "data": {"factory": "tilted_digits", "kwargs": {"size": 12, "train": 80}, "validation": 8, "test_limit": 20},
        "space": {
            "channel_codes": True,
            "shared_codes": ["a_to_b.blocks.*", "b_to_a.blocks.*"],
            "weight_bits": [4, 32],
            "activation_bits": [],
            "factors": [],
            "skip_blocks": False,
        },
        "objectives": [{"measure": m} for m in ("discriminator_distance", "cycle_l1", "size_bytes")],
        "algorithm": {"name": "coevolution", "params": {"population": POPULATION, "fitness_measure": "code_fitness"}},
        "evaluation": {
            "step2": {"validation": 8, "tune": {"epochs": 0}},
            "final": {"picks": ["knee"], "tune": {"epochs": 0.3}},
        },
        "execution": {"backend": "local"},
        "budget": {"generations": TURNS // 2},
        "tracking": {"tracker": "none"},
        **changes,
    }


def study_of(config: Config) -> TranslationStudy:
    return build_translation(config, None, Given())


def stopped_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """The user presses Ctrl-C in the middle of an evaluation."""
    evaluate, left = TranslationEvaluator.evaluate, [calls]

    def counted(self: TranslationEvaluator, plan: CompressionPlan, step: str, seed: int) -> dict[str, float]:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return evaluate(self, plan, step, seed)

    monkeypatch.setattr(TranslationEvaluator, "evaluate", counted)


def test_a_search_stopped_in_both_turns_is_exported_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = validate(settings(tmp_path))
    whole = api.run_config(config, str(tmp_path / "whole"))
    for at, calls in enumerate((2, 4, 4)):  # within the turns of a_to_b, b_to_a and a_to_b again
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stopped_after(patch, calls)
            if at:
                api.resume(tmp_path / "stopped")
            else:
                api.run_config(config, str(tmp_path / "stopped"))
    stopped = api.resume(tmp_path / "stopped")
    assert rows(stopped.evaluations) == rows(whole.evaluations)
    assert [e.candidate.role for e in whole.evaluations if e.candidate.step == STEP2] == [
        role for _ in range(TURNS // 2) for role in DIRECTIONS for _ in range(POPULATION)
    ]
    assert (tmp_path / "whole" / "figures" / "translations.png").stat().st_size > 10_000
    exported_equal(whole, tmp_path)


def exported_equal(result: api.Result, folder: Path) -> None:
    """Both generators give what the finished pair gives; docs/ccg.md, which a test executes, exports them in the other format."""
    choice = result.pick("knee")
    subject = Generators(build_translation(result.config, Path(result.run_dir), Given()))
    (final,) = [e for e in result.evaluations if e.candidate.step == FINAL]
    assert {"test_ssim", "test_psnr_a_to_b", "test_l1", "test_discriminator_distance"} <= final.measures.keys()
    choice.export(folder / "onnx", "onnx")
    pair = bake(subject.realised(final)).eval()
    images = torch.rand(2, 1, 12, 12) * 2 - 1
    for direction in DIRECTIONS:
        with torch.no_grad():
            expected = pair.get_submodule(direction)(images).numpy()
        session = onnxruntime.InferenceSession(str(folder / "onnx" / direction / "model.onnx"))
        (made,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        np.testing.assert_allclose(made, expected, atol=1e-4)
        assert (folder / "onnx" / direction / "card.json").is_file()


def test_the_doctor_knows_both_generators(tmp_path: Path) -> None:
    values = settings(tmp_path)
    report = examine(validate(values))
    assert report["genes"] == 2 * (2 + 4 + 8 + 4 + 2) + 2 * 8  # codes of both, and bits of 8 layers each
    assert not (tmp_path / "baseline").exists(), "nothing is trained for it"
    limits = [{"measure": "params", "upper": 1.0}]
    with pytest.raises(ValueError, match="some genome must meet every constraint, but got params<=1"):
        examine(validate({**values, "constraints": limits}))


def test_the_fitness_is_that_of_both_formulas() -> None:
    weights = Weights(gamma=2.0, cycle=10.0, removal=0.5)
    assert paper_fitness(0.25, 0.1, 0.03, weights) == pytest.approx(1 / (0.25 + 2 * (0.1 + 10 * 0.03)))
    assert code_fitness(0.6, 0.1, 0.03, weights) == pytest.approx(1 / (0.1 + 10 * 0.03) + 0.5 * 0.6)
    assert code_fitness(0.0, 0.0, 0.0, weights) == 1 / FLOOR


def test_measures_are_counted_and_computed_by_hand_on_the_built_pair(tmp_path: Path) -> None:
    study = study_of(validate(settings(tmp_path)))
    evaluator, space = study.evaluator, study.space
    code = np.array(space.anchors()[0])
    rng = np.random.default_rng(0)
    bits = [i for i, name in enumerate(space.names) if name.startswith("mask:")]
    code[bits] = rng.random(len(bits)) < 0.7
    plan = space.decode(space.repair(code.tolist()))
    measures = evaluator.evaluate(plan, STEP2, 0)
    pair = bake(evaluator.realise(plan, STEP2, 0)).eval()
    a = study.splits.prepare(study.splits.a.validation.images, torch.device("cpu"))
    with torch.no_grad():
        made = pair.a_to_b(a)
        judged = (evaluator.judges.b(made) - evaluator.judges.b(study.teacher.a_to_b(a))).square().mean()
        again = pair.b_to_a(made)
    assert measures["discriminator_distance_a_to_b"] == pytest.approx(float(judged), rel=1e-4)
    assert measures["cycle_l1_a_to_b"] == pytest.approx(float((again - a).abs().mean()), rel=1e-4)
    assert measures["cycle_l2_a_to_b"] == pytest.approx(float((again - a).square().mean()), rel=1e-4)
    assert measures["params_b_to_a"] == parameters(pair.b_to_a)
    assert sum(measures[f"macs_{d}"] for d in DIRECTIONS) == measures["macs"]
    share = parameters(pair.a_to_b) / parameters(study.teacher.a_to_b)
    expected = paper_fitness(
        share, measures["discriminator_distance_a_to_b"], measures["cycle_l2_a_to_b"], evaluator.weights
    )
    assert measures["paper_fitness_a_to_b"] == pytest.approx(expected)
    both = [1 / measures[f"paper_fitness_{direction}"] for direction in DIRECTIONS]
    assert all(measures[f"joint_fitness_{direction}"] == pytest.approx(1 / sum(both)) for direction in DIRECTIONS)
    removed = 1 - np.mean([code[i] for i in bits if "a_to_b" in space.names[i]])
    code_form = code_fitness(
        removed, measures["discriminator_distance_a_to_b"], measures["cycle_l1_a_to_b"], evaluator.weights
    )
    assert measures["code_fitness_a_to_b"] == pytest.approx(code_form), "every bit counted once"


def test_the_uncompressed_pair_is_nowhere_away_from_itself(tmp_path: Path) -> None:
    baseline = study_of(validate(settings(tmp_path))).baseline
    assert baseline["discriminator_distance"] == 0.0 and baseline["cycle_l1"] > 0


def test_a_worker_builds_an_equal_evaluator(tmp_path: Path) -> None:
    study = study_of(validate(settings(tmp_path)))
    genome = study.space.sample(np.random.default_rng(1))
    plan = study.space.decode(genome)
    again = make_translator(translation_kit(study))
    assert again.evaluate(plan, STEP2, 5) == study.evaluator.evaluate(plan, STEP2, 5)
    module, example = Generators(study).loadable(Evaluation(Candidate("0", 0, genome, STEP2), Status.COMPLETED))
    pair = bake(study.evaluator.realise(plan, STEP2, 0))
    a, b = torch.from_numpy(example[:, 0]), torch.from_numpy(example[:, 1])
    stacked = module(torch.from_numpy(example))
    torch.testing.assert_close(stacked[:, 0], pair.get_submodule(A_TO_B)(a))
    torch.testing.assert_close(stacked[:, 1], pair.get_submodule(B_TO_A)(b))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": {"factory": "resnet_generator", "weights": "x"}}, "gan.baseline names the folder"),
        ({"objectives": [{"measure": "top1_error"}]}, "objectives.0.measure must be one of"),
        ({"gan": {"baseline": "x", "fill_limits": True}}, "must come with gan.fit_limits"),
        ({"space": {"criteria": ["fisher"]}}, "space.criteria of generators must be among l1"),
        ({"evaluation": {"final": {"tune": {"epochs": 1, "lr": 0.1}}}}, "may say only epochs"),
        ({"latency": {}}, "latency is not measured of a pair"),
        ({"model": {"factory": "resnet20"}}, "generators must be one of"),
    ],
)
def test_what_has_no_meaning_for_generators_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        check_names(validate(settings(tmp_path, **changes)))
    assert "but got" in str(error.value) and "; " in str(error.value)


def test_a_wrapper_with_a_cheap_step_and_other_data_are_refused(tmp_path: Path) -> None:
    study = study_of(validate(settings(tmp_path)))
    wrapped = replace(study, config=validate(settings(tmp_path, algorithm={"name": "two_step"})))
    with pytest.raises(ValueError, match="must not need a step 1 where there is none, but got 'two_step'; set it to"):
        Generators(wrapped).algorithm()
    with pytest.raises(
        ValueError, match=r"must be evaluators\.gan\.data\.UnpairedImages, but got ImageData from 'digits'"
    ):
        study_of(validate(settings(tmp_path, data={"factory": "digits", "validation": 8})))


def test_a_fine_tune_stopped_in_the_middle_goes_on_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluators.gan.evaluator.SAVE_EVERY_S", 0.0)
    study = study_of(validate(settings(tmp_path, evaluation={"final": {"tune": {"epochs": 3.0}}})))
    plan = study.space.decode(study.space.sample(np.random.default_rng(2)))
    steps: list[float] = []

    def stopping(share: float) -> None:
        steps.append(share)
        if len(steps) == 15:  # of 24, kept every ten
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(study.evaluator, artifacts=tmp_path, progress=stopping).evaluate(plan, FINAL, 4)
    (unfinished,) = tmp_path.glob("*-training.safetensors")
    resumed = replace(study.evaluator, artifacts=tmp_path, progress=steps.append)
    assert resumed.evaluate(plan, FINAL, 4) == study.evaluator.evaluate(plan, FINAL, 4)
    assert len(steps) == 15 + 14 and not unfinished.exists()


def test_fine_tuning_has_a_rate_of_its_own_by_which_its_weights_are_kept(tmp_path: Path) -> None:
    values = settings(tmp_path, evaluation={"final": {"validation": 8, "tune": {"epochs": 1.0}}})
    usual = study_of(validate(values))
    still = study_of(validate({**values, "gan": {**values["gan"], "tune_lr": 1e-9}}))
    plan = usual.space.decode(usual.space.sample(np.random.default_rng(2)))
    weights = {}
    for name, study in (("usual", usual), ("still", still), ("usual again", usual)):
        weights[name] = replace(study.evaluator, artifacts=tmp_path / "models").realise(plan, FINAL, 0).state_dict()
    untuned = still.evaluator.realise(plan, STEP2, 0).state_dict()
    assert all(torch.allclose(value, untuned[name], atol=1e-6) for name, value in weights["still"].items())
    assert not all(torch.allclose(value, untuned[name], atol=1e-4) for name, value in weights["usual"].items())
    assert all(torch.equal(value, weights["usual"][name]) for name, value in weights["usual again"].items())
    assert len(list((tmp_path / "models").glob("*.safetensors"))) == 2
