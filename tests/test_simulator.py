"""The simulated cluster: what can be worked out by hand, and what asynchronous search is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from toy import ToyEvaluator, begin, rows, search

from cluster.simulator import Conditions, SimulatedBackend, resampled
from evo.candidates import Request
from search_spaces.plan import CompressionPlan

AT_ONCE = Conditions(start_s=0.0, latency_s=0.0, driver_s=0.0)


def work(count: int) -> list[Request]:
    return [Request(f"r{i}", CompressionPlan(), "step2", i) for i in range(count)]


def endless(count: int) -> Callable[[int], Sequence[Request]]:
    source: Iterator[Request] = iter(work(count))
    return lambda n: [request for _, request in zip(range(n), source, strict=False)]


def test_time_and_use_are_those_of_a_count_by_hand() -> None:
    backend = SimulatedBackend(2, lambda request: [3.0, 1.0, 1.0, 2.0][request.seed], conditions=AT_ONCE)
    assert sorted(o.key for o in backend.evaluate(work(4))) == ["r0", "r1", "r2", "r3"]
    assert (backend.now, backend.useful_s) == (4.0, 7.0), "r0 and, beside it, r1, r2 and r3"
    assert backend.utilisation == 7 / 8
    slow_start = SimulatedBackend(1, lambda _: 10.0, conditions=Conditions(60.0, 0.0, 0.5, 0.0))
    list(slow_start.evaluate(work(2)))
    assert slow_start.now == 60 + 2 * (10 + 1.0)


def test_a_search_in_simulated_time_is_the_same_search(tmp_path: Path) -> None:
    def measure(request: Request) -> dict[str, float]:
        return ToyEvaluator(unlucky=-1).evaluate(request.plan, request.step, request.seed)

    backend = SimulatedBackend(5, resampled([1.0, 5.0, 60.0], 3), measure, Conditions(preemptions=20.0))
    expected = search(begin(tmp_path / "whole"), make_evaluator=lambda: ToyEvaluator(unlucky=-1))
    assert rows(search(begin(tmp_path / "run"), backend)) == rows(expected)
    assert backend.now > 60


def test_lost_machines_cost_time_but_no_result() -> None:
    conditions = Conditions(start_s=30.0, preemptions=6.0)
    backend = SimulatedBackend(50, resampled([60.0, 90.0], 1), conditions=conditions, seed=4)
    assert len({o.key for o in backend.stream(endless(2000))}) == 2000
    assert backend.losses > 50
    assert 0.6 < backend.utilisation < 0.9


@pytest.mark.parametrize("workers", [1000])
def test_a_thousand_workers_stay_busy_without_a_barrier_and_do_not_with_one(workers: int) -> None:
    seconds = [20.0, 22.0, 25.0, 31.0, 45.0, 80.0]
    free = SimulatedBackend(workers, resampled(seconds, 2), conditions=Conditions(start_s=0.0, preemptions=0.1))
    done = sum(1 for _ in free.stream(endless(40 * workers)))
    rounds = SimulatedBackend(workers, resampled(seconds, 2), conditions=Conditions(start_s=0.0, preemptions=0.1))
    for start in range(4):
        list(rounds.evaluate([Request(f"{start}-{r.key}", r.plan, r.step, r.seed) for r in work(workers)]))
    assert done == 40 * workers
    assert free.utilisation > 0.95 > 0.6 > rounds.utilisation
