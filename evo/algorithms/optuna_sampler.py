"""Optuna's samplers as algorithms. The only file that knows Optuna, which is imported when a study is first needed.

An Optuna study cannot be stored whole, so the state holds what was asked and told, and a study is rebuilt by asking and
telling it all again. A process that asks and tells in turn keeps the live study and never replays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from evo.algorithms.population import check_sizes
from evo.algorithms.proposals import Proposal, numbered
from evo.candidates import STEP2, Batch, Evaluation
from evo.problem import Problem
from evo.randomness import derived_seed

SAMPLERS = ("tpe", "nsga2")
LIVE_STUDIES = 4  # kept per process


class LiveStudy(NamedTuple):
    """An Optuna study and its trials in the order asked, by which they are told."""

    study: Any
    trials: list[Any]


_live: dict[str, LiveStudy] = {}


@dataclass(frozen=True)
class OptunaState:
    """History of a study of T trials, K of them told, in the order of telling.

    `ids` and `codes` (T, L) are the trials as suggested; `told` (K,) their trial numbers, `told_after` (K,) how many
    batches had been asked by then, `values` (K, M) and `violations` (K,), inf for a failure.
    """

    seed: int
    codes: np.ndarray
    told: np.ndarray
    told_after: np.ndarray
    values: np.ndarray
    violations: np.ndarray
    ids: tuple[str, ...] = ()
    asked: int = 0
    generation: int = 0


@dataclass(frozen=True)
class OptunaSearch:
    """TPE (multivariate, with constant liar) or NSGA-II of Optuna, `population` trials at a time, anchors first.

    Trials keep the codes as suggested, candidates carry the repaired genome, so a genome can be proposed again. Of a
    candidate told twice the first result counts, and what the study did not suggest is left out.
    """

    problem: Problem
    sampler: str = "tpe"
    population: int = 40
    step: str = STEP2

    def __post_init__(self) -> None:
        check_sizes(population=self.population)
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {SAMPLERS}, but got sampler={self.sampler!r}; choose one")

    def init(self, seed: int) -> OptunaState:
        none, whole = np.zeros(0), np.zeros(0, dtype=np.int64)
        codes = np.zeros((0, len(self.problem.space.cardinalities)), dtype=np.int64)
        return OptunaState(seed, codes, whole, whole, np.zeros((0, len(self.problem.objectives))), none)

    def ask(self, state: OptunaState) -> tuple[Batch, OptunaState]:
        study = self._take_study(state)
        codes = self._suggest(study, first=state.asked == 0)
        proposals = [Proposal(self.problem.space.repair(code)) for code in codes.tolist()]
        batch = numbered(proposals, state.asked, self.step)
        after = replace(
            state,
            asked=state.asked + 1,
            codes=np.concatenate([state.codes, codes]),
            ids=state.ids + tuple(c.id for c in batch.candidates),
        )
        self._keep_study(after, study)
        return batch, after

    def tell(self, state: OptunaState, evaluations: Sequence[Evaluation]) -> OptunaState:
        after = replace(self._recorded(state, evaluations), generation=state.generation + 1)
        study = _live.pop(self._digest(state), None)
        if study is not None:
            _tell(study, after, range(len(state.told), len(after.told)))
            self._keep_study(after, study)
        return after

    def _recorded(self, state: OptunaState, evaluations: Sequence[Evaluation]) -> OptunaState:
        number = {name: i for i, name in enumerate(state.ids)}
        known = set(state.told.tolist())
        own = (e for e in evaluations if e.candidate.id in number)
        new = {number[e.candidate.id]: e for e in sorted(own, key=lambda e: e.candidate.key, reverse=True)}
        rows = [(trial, e) for trial, e in sorted(new.items()) if trial not in known]
        values = np.array([self.problem.values(e) for _, e in rows]).reshape(len(rows), len(self.problem.objectives))
        excess = np.array([self.problem.violation(e) for _, e in rows], dtype=float)
        return replace(
            state,
            told=np.concatenate([state.told, np.array([trial for trial, _ in rows], dtype=np.int64)]),
            told_after=np.concatenate([state.told_after, np.full(len(rows), state.asked, dtype=np.int64)]),
            values=np.concatenate([state.values, values]),
            violations=np.concatenate([state.violations, excess]),
        )

    def _take_study(self, state: OptunaState) -> LiveStudy:
        study = _live.pop(self._digest(state), None)
        return self._replayed(state) if study is None else study

    def _keep_study(self, state: OptunaState, study: LiveStudy) -> None:
        while len(_live) >= LIVE_STUDIES:
            _live.pop(next(iter(_live)))
        _live[self._digest(state)] = study

    def _digest(self, state: OptunaState) -> str:
        """Names the study that this history leads to; the generation counter has no part in it."""
        content = hashlib.blake2b(digest_size=16)
        own = (self.sampler, self.population, self.problem.space.digest, len(self.problem.objectives))
        content.update(repr((*own, state.seed, state.asked)).encode())
        for array in (state.codes, state.told, state.told_after, state.values, state.violations):
            content.update(np.ascontiguousarray(array).tobytes() + b"|")
        return content.hexdigest()

    def _replayed(self, state: OptunaState) -> LiveStudy:
        study = self._new_study(state.seed)
        for batch in range(state.asked):
            _tell(study, state, np.flatnonzero(state.told_after == batch))
            codes = self._suggest(study, first=batch == 0)
            stored = state.codes[batch * self.population : (batch + 1) * self.population]
            if not np.array_equal(codes, stored):
                raise RuntimeError(
                    f"a replayed Optuna study must suggest what it suggested before, but got another batch={batch}; "
                    "resume with the Optuna version that started the run"
                )
        _tell(study, state, np.flatnonzero(state.told_after == state.asked))
        return study

    def _new_study(self, seed: int) -> LiveStudy:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        own_seed = derived_seed(seed, "optuna")
        if self.sampler == "tpe":
            sampler: Any = optuna.samplers.TPESampler(seed=own_seed, multivariate=True, constant_liar=True)
        else:
            sampler = optuna.samplers.NSGAIISampler(seed=own_seed, population_size=max(2, self.population))
        directions = [optuna.study.StudyDirection.MINIMIZE] * len(self.problem.objectives)
        return LiveStudy(optuna.create_study(directions=directions, sampler=sampler), [])

    def _suggest(self, live: LiveStudy, first: bool) -> np.ndarray:
        """One batch of suggested codes, int64 (population, L); the first one starts with the anchors."""
        space = self.problem.space
        names = [f"{i}:{name}" for i, name in enumerate(space.names)]
        if first:
            for anchor in space.anchors()[: self.population]:
                live.study.enqueue_trial(dict(zip(names, anchor, strict=True)))
        choices = dict(zip(names, map(_distribution, space.cardinalities, space.ordinal), strict=True))
        trials = [live.study.ask(choices) for _ in range(self.population)]
        live.trials.extend(trials)
        return np.array([[trial.params[name] for name in names] for trial in trials], dtype=np.int64)


def _distribution(cardinality: int, ordinal: bool) -> Any:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    return IntDistribution(0, cardinality - 1) if ordinal else CategoricalDistribution(list(range(cardinality)))


def _tell(live: LiveStudy, state: OptunaState, rows: Iterable[int]) -> None:
    from optuna.trial import TrialState

    for row in rows:
        trial, values, excess = live.trials[state.told[row]], state.values[row], float(state.violations[row])
        if not (np.isfinite(values).all() and np.isfinite(excess)):
            live.study.tell(trial, state=TrialState.FAIL)
            continue
        trial.set_constraint("violation", excess)
        live.study.tell(trial, values.tolist())


OptunaTPE = partial(OptunaSearch, sampler="tpe")
OptunaNSGA2 = partial(OptunaSearch, sampler="nsga2")
