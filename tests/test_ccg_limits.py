"""Candidates brought within the limits of their own generator, and layers that make up for the channels they lose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_ccg_search import settings, study_of

from evaluators.count import parameters
from evaluators.gan.networks import DIRECTIONS
from evo.algorithms.coevolution import Coevolution
from evo.algorithms.parts import parts_of
from evo.candidates import STEP2, Candidate, Evaluation, Status
from evo.config.schema import Config, validate
from evo.studies.of_generators import Generators
from evo.studies.translation import TranslationStudy, make_translator, translation_kit
from evo.studies.translation_limits import limits_of_parts
from search_spaces.plan import Mask

PATTERNS = {direction: f"*:{direction}.*" for direction in DIRECTIONS}


def config(folder: Path, **space: Any) -> Config:
    """Half the parameters and 0.7 of the MACs of each generator."""
    values = settings(folder)
    values["model"] = {"factory": "resnet_generator", "kwargs": {"channels": 1, "width": 4, "blocks": 1}}
    values["gan"]["fit_limits"] = True
    values["space"] = {**values["space"], **space}
    values["constraints"] = [
        {"measure": f"{cost}_{direction}", "upper": upper}
        for cost, upper in (("params", "0.5x"), ("macs", "0.7x"))
        for direction in DIRECTIONS
    ]
    return validate(values)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> TranslationStudy:
    return study_of(config(tmp_path_factory.mktemp("limits"), compensate=True))


def test_what_is_fitted_is_within_the_limits_as_counted_on_the_built_pair(study: TranslationStudy) -> None:
    limits, rng, seen = limits_of_parts(study.problem, study.space), np.random.default_rng(0), set()
    whole = study.space.anchors()[0]
    for part in parts_of(study.space, PATTERNS):
        limited = limits[part.name]
        assert [len(bits) for bits in limited.codes] == [4, 8, 16, 8, 4]
        for _ in range(4):
            codes = limited.sampled(rng, part.of(study.space.sample(rng)))
            again = limited.fitted(codes)
            assert again == codes, "what is within stays as it is"
            genome = part.joined(codes, whole)
            measures = study.evaluator.evaluate(study.space.decode(genome), STEP2, 0)
            for cost, share in (("params", 0.5), ("macs", 0.7)):
                name = f"{cost}_{part.name}"
                assert measures[name] <= share * study.baseline[name]
                seen.add(measures[name] > 0.8 * share * study.baseline[name])
            assert all(sum(codes[bit] for bit in bits) >= 1 for bits in limited.codes)
            widths = [np.mean([codes[bit] for bit in bits]) for bits in limited.codes]
            seen.add(max(widths) - min(widths) > 0.3)
    assert seen == {True, False}, "some fill their limits and differ in widths from code to code"


def test_fitting_only_removes_units_and_depends_on_the_codes_alone(study: TranslationStudy) -> None:
    part = parts_of(study.space, PATTERNS)[0]
    limited = limits_of_parts(study.problem, study.space)[part.name]
    codes = part.of(study.space.anchors()[0])
    fitted = limited.fitted(codes)
    assert fitted == limited.fitted(codes) and limited.excess(np.array([fitted]))[0] <= 0
    assert all(after <= before for before, after in zip(codes, fitted, strict=True)) and fitted != codes


def test_filling_leaves_no_unit_that_would_still_fit(study: TranslationStudy) -> None:
    limits, rng = limits_of_parts(study.problem, study.space, fill=True), np.random.default_rng(0)
    for part in parts_of(study.space, PATTERNS):
        limited = limits[part.name]
        for _ in range(4):
            given = part.of(study.space.sample(rng))
            filled = limited.fitted(given)
            assert limited.excess(np.array([filled]))[0] <= 0
            assert filled == limited.fitted(given) == limited.fitted(filled), "decided by the codes, and at rest"
            missing = [bit for bits in limited.codes for bit in bits if not filled[bit]]
            larger = np.tile(filled, (len(missing), 1))
            larger[np.arange(len(missing)), missing] = 1
            assert missing and (limited.excess(larger) > 0).all()


def test_every_individual_of_a_search_is_within_the_limits_of_its_generator(study: TranslationStudy) -> None:
    algorithm = Generators(study).algorithm()
    assert isinstance(algorithm, Coevolution)
    limits = limits_of_parts(study.problem, study.space)
    parts = {part.name: part for part in parts_of(study.space, PATTERNS)}
    state = algorithm.init(0)
    for _ in range(6):
        batch, state = algorithm.ask(state)
        codes = [parts[c.role].of(c.genome) for c in batch.candidates]
        assert (limits[batch.candidates[0].role].excess(np.array(codes)) <= 0).all()
        state = algorithm.tell(state, [_scored(c) for c in batch.candidates])


def _scored(candidate: Candidate) -> Evaluation:
    fitness = {f"code_fitness_{direction}": float(sum(candidate.genome)) for direction in DIRECTIONS}
    return Evaluation(candidate, Status.COMPLETED, fitness)


def test_layers_make_up_for_the_channels_they_lose(study: TranslationStudy) -> None:
    """By least squares: no other weights on the channels that are left come closer to what the head of the whole pair computes
    from the inputs it was fitted on; and what a worker builds is equal."""
    genome = np.array(study.space.anchors()[0])
    bits = [at for at, gene in enumerate(study.space.genes) if gene.name.startswith("mask:a_to_b.up2.0")]
    genome[bits[:2]] = 0
    plan = study.space.decode(study.space.repair(genome.tolist()))
    assert plan.masks == (Mask("a_to_b.up2.0", (2, 3), compensate=True),)
    made = study.evaluator.realise(plan, STEP2, 0)
    assert parameters(made) < parameters(study.teacher)
    images = torch.cat([a for a, _ in study.splits.calibration_batches(256, 16, study.evaluator.device)])
    with torch.no_grad():
        read = study.teacher.a_to_b.up2(study.teacher.a_to_b.up1(_trunk(study.teacher.a_to_b, images)))
        rows = torch.nn.functional.unfold(study.teacher.a_to_b.head[0](read), 7).transpose(1, 2).flatten(0, 1).double()
        target = rows @ study.teacher.a_to_b.head[1].weight.double().flatten(1).T
        left = torch.cat([rows.unflatten(1, (4, 49))[:, 2:].flatten(1), torch.ones(len(rows), 1)], 1)
        best = torch.linalg.lstsq(left, target).solution[:-1]
    found = made.a_to_b.head[1].weight.detach().double().flatten(1)
    torch.testing.assert_close(found, best.T, rtol=0.05, atol=0.05 * float(best.abs().max()))
    worker = make_translator(translation_kit(study))
    assert worker.evaluate(plan, STEP2, 0) == study.evaluator.evaluate(plan, STEP2, 0)


def _trunk(generator: Any, images: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = generator.blocks(generator.down2(generator.down1(generator.stem(images))))
    return result
