"""Clusters of up to 4,000 workers in simulated time, with service times measured in a real search, and what breaks first.

    python -m benchmarks.simulated_cluster RUN_DIR

Service times are the seconds of the run's step-2 evaluations, resampled. Machines are preempted once in 10 worker hours and
replaced within a minute. The driver spends `driver_s` on each result, one after the other: that is what ends the scaling.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from benchmarks import record
from cluster.simulator import Conditions, SimulatedBackend, resampled
from evo.candidates import STEP2, Request
from evo.storage.run_directory import RunDirectory
from search_spaces.plan import CompressionPlan

WORKERS = (10, 100, 1000, 4000)
PER_WORKER = 100
CONDITIONS = Conditions(start_s=60.0, preemptions=0.1, driver_s=0.002)
REFERENCE = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir")
    evaluations = RunDirectory.open(parser.parse_args().run_dir).evaluations()
    seconds = [e.seconds for e in evaluations if e.candidate.step == STEP2 and e.completed and e.worker != "memory"]
    table = [{"workers": n, **scaled(n, seconds)} for n in WORKERS]
    at = next(row for row in table if row["workers"] == REFERENCE)
    figures = {
        "utilisation_asynchronous_1000": at["asynchronous"],
        "utilisation_rounds_1000": at["rounds"],
        "workers_that_saturate_the_driver": statistics.mean(seconds) / CONDITIONS.driver_s,
        "service_s_mean": statistics.mean(seconds),
        "service_s_longest": max(seconds),
    }
    more = {
        "table": table,
        "conditions": vars(CONDITIONS),
        "quantiles_s": np.quantile(seconds, [0, 0.25, 0.5, 0.75, 1]).tolist(),
    }
    print(record.write("simulated_cluster", figures, [0], more))


def scaled(workers: int, seconds: Sequence[float]) -> dict[str, float]:
    """Utilisation with and without a barrier every `workers` evaluations, once all workers are up."""
    free = backend(workers, seconds)
    warm_up(free)
    sum(1 for _ in free.stream(source(PER_WORKER * workers)))
    rounds = backend(workers, seconds)
    warm_up(rounds)
    numbered = requests()
    for _ in range(5):
        list(rounds.evaluate(list(itertools.islice(numbered, workers))))
    return {
        "asynchronous": free.utilisation,
        "rounds": rounds.utilisation,
        "driver_share": free.driver_s / (free.now - free.since),
        "losses": float(free.losses),
    }


def backend(workers: int, seconds: Sequence[float]) -> SimulatedBackend:
    return SimulatedBackend(workers, resampled(seconds, 1), conditions=CONDITIONS)


def warm_up(simulated: SimulatedBackend) -> None:
    """Start all workers; the time until they are there is not part of the figure."""
    list(simulated.evaluate([Request(f"warm{i}", CompressionPlan(), STEP2, i) for i in range(simulated.workers)]))
    simulated.count_from_now()


def requests() -> Iterator[Request]:
    return (Request(f"r{i}", CompressionPlan(), STEP2, i) for i in itertools.count())


def source(count: int) -> Callable[[int], Sequence[Request]]:
    numbered = itertools.islice(requests(), count)
    return lambda n: list(itertools.islice(numbered, n))


if __name__ == "__main__":
    main()
