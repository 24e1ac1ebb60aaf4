"""Continuous evolution on shared weights, its survival, and greedy slimming."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analytic import SPACE, TWO, error, evaluate, reached, run
from small_run import settings

from evaluators.supernets.trainer import SupernetTrainer
from evo import api
from evo.algorithms.autoslim import AutoSlim
from evo.algorithms.cars import Cars, learning_speeds, mixed
from evo.algorithms.random_search import RandomSearch
from evo.candidates import Batch, Candidate, Evaluation, Status
from evo.config.schema import Config, validate
from evo.config.schema import load as load_config
from evo.loop.observers import Standing
from evo.loop.shared_weights import weights_for
from evo.pareto import ranks
from evo.randomness import stream
from evo.result import Result, load
from evo.selection.protected import SECOND_SORTS, protected_survival
from evo.studies import of_classifier

# error, size: four small networks that are good already, and a large one that still learns
LATE_LEARNER = np.array([[0.30, 1.0], [0.28, 2.0], [0.26, 3.0], [0.25, 4.0], [0.27, 9.0]])
SPEEDS = np.array([0.01, 0.01, 0.01, 0.01, 0.20])
FEASIBLE = np.zeros(5)


@pytest.mark.parametrize(
    ("second_sort", "kept"), [("none", False), ("inverse_size", True), ("acc_speed", True), ("two_stage", True)]
)
def test_a_large_slow_learner_survives_only_with_a_second_sorting(second_sort: str, kept: bool) -> None:
    survivors = protected_survival(LATE_LEARNER, FEASIBLE, SPEEDS, 4, second_sort)
    assert (4 in survivors) == kept and len(survivors) == 4


@pytest.mark.parametrize("seed", range(5))
def test_without_a_second_sorting_survival_is_by_fronts(seed: int) -> None:
    values = np.random.default_rng(seed).random((40, 2))
    survivors, rank = protected_survival(values, np.zeros(40), np.zeros(40), 15, "none"), ranks(values)
    assert sorted(rank[survivors]) == sorted(rank)[:15]


@pytest.mark.parametrize("second_sort", SECOND_SORTS)
@pytest.mark.parametrize("late", [False, True])
def test_what_fails_or_breaks_a_limit_comes_last(second_sort: str, late: bool) -> None:
    rng = np.random.default_rng(1)
    values, violations = rng.random((12, 2)), np.zeros(12)
    values[3], violations[5] = np.inf, 0.2
    order = protected_survival(values, violations, np.zeros(12), 12, second_sort, late).tolist()
    assert sorted(order) == list(range(12)) and order[-2:] == [5, 3]


def test_the_late_stage_picks_from_both_sortings_in_turns() -> None:
    survivors = protected_survival(LATE_LEARNER, FEASIBLE, SPEEDS, 2, "two_stage", late=True)
    assert survivors[0] in (0, 1, 2, 3) and survivors[1] == 4  # best of (error, size), then the largest


def measured(genome: int, value: float, id_: str, parents: tuple[str, ...] = ()) -> Evaluation:
    candidate = Candidate(id_, 0, (genome,) * len(SPACE.cardinalities), "step2", parents)
    return Evaluation(candidate, Status.COMPLETED, {"error": value, "cost": 1.0})


def test_speeds_are_inherited_where_there_is_no_history() -> None:
    before = [measured(0, 0.5, "a"), measured(1, 0.4, "b")]
    now = [
        measured(0, 0.3, "c", ("a",)),
        measured(1, 0.36, "d", ("b",)),
        measured(2, 0.9, "e", ("a", "b")),
        measured(3, 0.9, "f"),
    ]
    assert learning_speeds(TWO, before, now) == pytest.approx([0.2, 0.04, 0.12, 0.12])
    assert learning_speeds(TWO, [], now).tolist() == [0.0] * 4


def test_blocks_of_genes_move_together() -> None:
    a, b = (0,) * 6, (1,) * 6
    children = [mixed(stream(0, "mix", i), a, b, ((0, 3), (1, 2), (4, 5)), 0.5) for i in range(40)]
    assert all(child[0] == child[3] and child[1] == child[2] and child[4] == child[5] for child in children)
    assert {tuple(child) for child in children} == {
        tuple(np.array([x, y, y, x, z, z])) for x in (0, 1) for y in (0, 1) for z in (0, 1)
    }


def test_every_generation_trains_on_its_parents_and_measures_them_again() -> None:
    history = run(Cars(TWO, population=10), 5)
    for (_, _, state), (batch, _, _) in pairwise(history):
        parents = [e.candidate.genome for e in state.population]
        assert list(batch.train_on) == parents
        assert [c.genome for c in batch.candidates[:10]] == parents
        children = [c.genome for c in batch.candidates[10:]]
        assert len(children) == 10 and not set(children) & set(parents) and len(set(children)) == 10
    first = history[0][0]
    assert first.train_on == tuple(c.genome for c in first.candidates)


def test_kinds_of_children_come_in_the_shares_of_the_paper() -> None:
    batches = [batch for batch, _, _ in run(Cars(TWO, population=100), 6)][1:]
    counts = [len(c.parents) for batch in batches for c in batch.candidates[100:]]
    assert counts.count(0) / len(counts) == pytest.approx(0.5, abs=0.07)
    assert counts.count(2) / len(counts) == pytest.approx(0.25, abs=0.06)


def test_continuous_evolution_beats_as_many_random_genomes() -> None:
    for seed in range(2):
        chance = reached(RandomSearch(TWO, population=20), TWO, seed, 400)
        found = reached(Cars(TWO, population=20, second_sort="none"), TWO, seed, 20 + 19 * 40)
        assert found > chance  # 20 parents of every generation are measured again: 400 genomes in all


@pytest.mark.parametrize(
    "setting",
    [{"second_sort": "speed"}, {"mutation_share": 0.8, "crossover_share": 0.3}, {"population": 0}, {"swap_rate": 2.0}],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Cars(TWO, **setting)


def test_slimming_always_takes_the_cheapest_step() -> None:
    algorithm = AutoSlim(TWO)
    state, genome = algorithm.init(0), SPACE.anchors()[0]
    for turn in range(40):
        batch, state = algorithm.ask(state)
        if turn:
            steps = [
                SPACE.repair([c - (i == at) for i, c in enumerate(genome)]) for at in range(0, 12, 2) if genome[at]
            ]
            assert {c.genome for c in batch.candidates} == set(steps) - {genome}
            genome = min(steps, key=lambda g: error(g)) if steps else genome
        if not batch.candidates:
            break
        state = algorithm.tell(state, evaluate(batch))
        assert state.current is not None and error(state.current.candidate.genome) == error(genome)
    assert not any(genome[::2])


def test_slimming_ends_at_its_limit_and_when_everything_fails() -> None:
    algorithm, state = AutoSlim(TWO, until=0.6), AutoSlim(TWO).init(0)
    sizes = []
    while (asked := algorithm.ask(state))[0].candidates:
        state = algorithm.tell(asked[1], evaluate(asked[0]))
        sizes.append(state.current.measures["cost"])  # type: ignore[union-attr]
    assert sizes[-1] <= 0.6 * sizes[0] < sizes[-2]
    batch, state = algorithm.ask(algorithm.init(0))
    failed = [Evaluation(c, Status.FAILED, reason="out of memory") for c in batch.candidates]
    assert algorithm.ask(algorithm.tell(state, failed))[0] == Batch(())


SUPERNET = {"warm_up": 0.5, "epochs": 0.5, "horizon": 4, "batch": 40, "subnets": 3}


def config(**changes: Any) -> Config:
    values = settings(None)
    values["model"]["pretrain"] = {"epochs": 2, "batch": 20}
    values["space"] = {"widths": [0.5, 1.0], "weight_bits": [4, 32], "activation_bits": [], "factors": []}
    values["supernet"] = SUPERNET
    values["algorithm"] = {"name": "cars", "params": {"population": 4}}
    values["budget"] = {"generations": 3}
    return validate({**values, **changes})


class StopHere(BaseException):
    """What interrupts."""


class StopsAfter:
    """An observer that stops the driver in its n-th evaluation."""

    def __init__(self, left: int) -> None:
        self.left = left

    def on_start(self, standing: Standing) -> None: ...
    def on_round(self, standing: Standing) -> None: ...
    def on_end(self, standing: Standing, status: str) -> None: ...
    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.left -= 1
        if self.left < 0:
            raise StopHere


def rows(evaluations: tuple[Evaluation, ...]) -> list[Any]:
    return [(e.candidate, e.status, dict(e.measures), e.weights_version) for e in evaluations]


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Result]:
    """A search that nothing interrupts."""
    made = config(supernet={**SUPERNET, "overlap": request.param})
    return made, api.run_config(made, str(tmp_path_factory.mktemp("whole") / "run"))


def stop_in_step(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    train = SupernetTrainer._step

    def stops(self: SupernetTrainer, at: int, population: Any) -> None:
        if at == step:
            raise StopHere
        train(self, at, population)

    monkeypatch.setattr(SupernetTrainer, "_step", stops)


def stop_after(monkeypatch: pytest.MonkeyPatch, evaluations: int) -> None:
    keepers = of_classifier.keepers
    monkeypatch.setattr(of_classifier, "keepers", lambda *given: (*keepers(*given), StopsAfter(evaluations)))


both_ways = pytest.mark.parametrize("whole", [False, True], indirect=True, ids=["in turns", "overlapping"])
INTERRUPTIONS = {
    "in turns": (False, partial(stop_after, evaluations=7)),
    "overlapping, in evaluation": (True, partial(stop_after, evaluations=7)),
    "overlapping, in warm-up": (True, partial(stop_in_step, step=1)),
    "overlapping, between": (True, partial(stop_in_step, step=2)),
    "overlapping, in evolution": (True, partial(stop_in_step, step=7)),
}


@both_ways
def test_versions_follow_the_generations(whole: tuple[Config, Result]) -> None:
    made, result = whole
    assert [e.weights_version for e in result.evaluations] == [1] * 4 + [2] * 8 + [3] * 8
    newest = max(int(file.stem.partition("-")[2]) for file in Path(result.run_dir).glob("models/weights-*"))
    assert newest == (4 if made.supernet is not None and made.supernet.overlap else 3)


@pytest.mark.parametrize(("whole", "stop"), INTERRUPTIONS.values(), indirect=["whole"], ids=INTERRUPTIONS)
def test_a_search_goes_on_with_weights_and_population_after_an_interruption(
    whole: tuple[Config, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: Any
) -> None:
    made, expected = whole
    stop(monkeypatch)
    with pytest.raises(StopHere):
        api.run_config(made, str(tmp_path / "cut"))
    monkeypatch.undo()
    again = api.resume(tmp_path / "cut")
    assert rows(again.evaluations) == rows(expected.evaluations)


@both_ways
def test_a_longer_search_begins_as_the_shorter_one(whole: tuple[Config, Result]) -> None:
    made, expected = whole
    folder = Path(expected.run_dir)
    longer = api.resume(folder, ["budget.generations=7"])
    assert rows(longer.evaluations)[:20] == rows(expected.evaluations) and len(longer.evaluations) == 52
    needed = {e.weights_version for e in longer.evaluations if e.candidate.id in {p.candidate_id for p in longer.front}}
    kept = {int(file.stem.partition("-")[2]) for file in folder.glob("models/weights-*")}
    newest = 8 if made.supernet is not None and made.supernet.overlap else 7
    assert kept == needed | set(range(newest - 3, newest + 1))
    assert load(folder).front


@pytest.mark.ray
@pytest.mark.parametrize("whole", [True], indirect=True)
def test_on_a_cluster_overlapping_changes_no_result(
    whole: tuple[Config, Result], one_ray: None, tmp_path: Path
) -> None:
    made, expected = whole
    there = made.model_copy(update={"execution": made.execution.model_copy(update={"backend": "ray", "workers": 1})})
    assert rows(api.run_config(there, str(tmp_path / "there")).evaluations) == rows(expected.evaluations)


class Recorded:
    """A trainer that says what it was asked for; one that works beside evaluations ends in `finish`."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, Any]] = []

    def train(self, version: int, population: Any) -> None:
        self.told.append(("trained", version, tuple(population)))

    def start(self, version: int, population: Any) -> Any:
        self.told.append(("started", version, tuple(population)))
        return lambda: self.told.append(("finished", version, tuple(population)))

    def close(self) -> None: ...


def test_the_next_version_is_trained_on_what_is_measured_with_this_one() -> None:
    first, second = measured(0, 0.5, "a"), measured(1, 0.4, "b")
    trainer, latest = Recorded(), 0
    for evaluation in (first, second):
        genome = (evaluation.candidate.genome,)
        version, finish = weights_for(trainer, Batch((evaluation.candidate,), genome), latest, overlap=True)
        trainer.told.append(("measured", version, genome))
        finish()
        latest = version
    a, b = (first.candidate.genome,), (second.candidate.genome,)
    expected = [("trained", 1, a), ("started", 2, a), ("measured", 1, a), ("finished", 2, a)]
    expected += [("trained", 2, ()), ("started", 3, b), ("measured", 2, b), ("finished", 3, b)]
    assert trainer.told == expected


def test_continuous_evolution_without_shared_weights_is_refused() -> None:
    with pytest.raises(ValueError, match=r"algorithm.name='cars' needs shared weights, but got no section supernet"):
        api.check_names(config(supernet=None))
    wrapped = {"name": "two_step", "inner": {"name": "cars"}}
    with pytest.raises(ValueError, match="must not be wrapped, but got cars inside two_step"):
        api.check_names(config(algorithm=wrapped))


@pytest.mark.parametrize("name", ["cars_prune", "autoslim"])
@pytest.mark.parametrize("data", ["resnet20_cifar10", "digits"])
def test_configurations_are_in_order(name: str, data: str) -> None:
    api.check_names(load_config(Path(__file__).parents[1] / "configs" / f"{name}_{data}.yaml"))
