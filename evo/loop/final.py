"""The last fidelity step: picks from the front, fully tuned, with the test split reported once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from evo.candidates import FINAL, STEP2, Backend, Candidate, Evaluation
from evo.front import FrontPoint
from evo.loop.generations import evaluation_of, request_for
from evo.picks import picked
from evo.result import BASELINE_FILE, Result
from evo.storage.run_directory import RunDirectory
from evo.views.headline import headline
from search_spaces.genome import Genome, SearchSpace

RECORDED = "final"  # by which the run directory knows them


def evaluation_of_point(result: Result, point: FrontPoint, step: str = STEP2) -> Evaluation:
    """What was measured of a front member at a step that it has reached."""
    evaluation = result.evaluation(point.candidate_id, step)
    if evaluation is None:
        raise ValueError(f"a point must belong to the run, but got {point.candidate_id}; take one of its front")
    return evaluation


def genome_of(result: Result, point: FrontPoint, space: SearchSpace) -> Genome:
    """The repaired genome behind a front member."""
    return space.repair(evaluation_of_point(result, point).candidate.genome)


def keep_baseline(run: RunDirectory, measures: Mapping[str, float] | None) -> None:
    """Keep the uncompressed network's measures at the last step, test split included, for comparison, if it has any."""
    if measures is not None:
        run.write(BASELINE_FILE, json.dumps(dict(measures), indent=2).encode())


def forget_finals(run: RunDirectory, note: Callable[[str], None]) -> None:
    """Drop the measures of a last step whose settings have changed since; weights tuned by those stay, under other names."""
    if BASELINE_FILE in run.folder.names():
        run.folder.delete(BASELINE_FILE)
    if forgotten := run.forget(RECORDED):
        note(
            f"evaluation.final has changed: what the last step measured of {forgotten} picks gives way to the new settings"
        )


def measure_finals(
    run: RunDirectory, result: Result, backend: Backend, picks: Sequence[str], note: Callable[[str], None]
) -> tuple[Evaluation, ...]:
    """Evaluate the picks that have no final evaluation yet; each is recorded the moment it is finished."""
    wanted: dict[str, Candidate] = {}
    for spec in picks:
        try:
            points = picked(result.front, spec, result.baseline)
        except ValueError as error:
            note(f"final pick {spec!r} is left out: {error}")
            continue
        for point in points:
            measured = result.evaluation(point.candidate_id, STEP2)
            if measured is not None and point.candidate_id not in result.finals:
                wanted[point.candidate_id] = _at_last(measured.candidate)
    if not wanted:
        return ()
    note(f"last step: tuning {len(wanted)} picks: {', '.join(wanted)}")
    pending = {candidate.key: candidate for candidate in wanted.values()}
    space, seed = result.problem.space, result.config.seed
    versions = {e.candidate.id: e.weights_version for e in result.evaluations if e.candidate.step == STEP2}
    requests = [request_for(space, seed, c, versions[c.id], result.evaluations) for c in pending.values()]
    done = []
    for outcome in backend.evaluate(requests):
        candidate = pending[outcome.key]
        evaluation = evaluation_of(candidate, outcome, versions[candidate.id])
        run.record(RECORDED, (evaluation,))
        note(_sentence(evaluation))
        done.append(evaluation)
    return tuple(done)


def _at_last(candidate: Candidate) -> Candidate:
    """One that went on from another's weights goes on from its own; all others begin anew."""
    return replace(candidate, step=FINAL, predecessor=candidate.key if candidate.predecessor else "")


def _sentence(evaluation: Evaluation) -> str:
    name = evaluation.candidate.id
    if not evaluation.completed:
        return f"{name} failed at the last step: {evaluation.reason}"
    told = f"after {evaluation.measures['epochs']:g} epochs ({evaluation.seconds:.0f} s)"
    return f"{name}: {' '.join(headline(evaluation.measures))} {told}"
