"""Searches that are disturbed in every way a cluster knows, each compared with the undisturbed one.

    python -m benchmarks.chaos [--searches 30] [--seed 0] [--only KIND ...]

A Ray cluster of several nodes on this machine (Linux), a driver in a process of its own, and two faults a search, each after
so many evaluations: what and when is a function of the seed. A search is sound where its archive is equal to the
undisturbed one (all but who did it and how long it took), no worker process took more than one evaluation with it, and
none that was recorded was begun again by a later driver. Storage faults need root, for a small file system of their own.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.chaos_faults import KINDS, Fault, TooLateError, driver_gone, staging_of, suffer
from benchmarks.chaos_nodes import Nodes
from benchmarks.chaos_scene import Scene
from benchmarks.chaos_search import EVALUATIONS, POPULATION, SPACE, Undisturbed, search
from evo.candidates import Evaluation
from evo.storage.rows import to_table
from evo.storage.run_directory import RunDirectory

LIMIT_S = 600.0
FAULTS_EACH = 2
AT_LEAST = 2  # times that every kind comes in a run of 30


@dataclass(frozen=True)
class Verdict:
    """What became of one search. `lost` evaluations had to be begun again; `worst` is the most that one process lost."""

    seed: int
    faults: tuple[str, ...]
    missed: tuple[str, ...]  # the search was over before they came
    equal: bool
    lost: int
    worst: int
    repeated: int
    drivers: int
    seconds: float
    complaints: tuple[str, ...] = field(default=())

    @property
    def sound(self) -> bool:
        return self.equal and self.worst <= 1 and not self.repeated and not self.complaints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=30)
    parser.add_argument("--begin", type=int, default=0, help="leave out so many searches at the beginning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=tuple(KINDS), default=None)
    options = parser.parse_args()
    verdicts: list[Verdict] = []
    for verdict in run(options.searches, options.seed, options.only or available(), options.begin):
        verdicts.append(verdict)
        print(f"{len(verdicts):3} {'sound' if verdict.sound else 'NOT SOUND'} {asdict(verdict)}", flush=True)
        keep(verdicts, options.seed)
    raise SystemExit(not all(v.sound for v in verdicts))


def keep(verdicts: Sequence[Verdict], seed: int) -> None:
    met = Counter(fault.partition("@")[0] for v in verdicts for fault in v.faults if fault not in v.missed)
    figures: dict[str, float] = {
        "searches": len(verdicts),
        "sound": sum(v.sound for v in verdicts),
        "equal": sum(v.equal for v in verdicts),
        "faults": sum(met.values()),
        "evaluations": EVALUATIONS * len(verdicts),
        "lost": sum(v.lost for v in verdicts),
        "lost_per_worker_at_most": max(v.worst for v in verdicts),
        "repeated": sum(v.repeated for v in verdicts),
    }
    record.write("chaos", figures, [seed], {"kinds": met, "each": [asdict(v) for v in verdicts]})


def available() -> Sequence[str]:
    """Kinds of faults that can be made here."""
    return [name for name, kind in KINDS.items() if not (kind.needs_root and os.geteuid())]


def schedule(searches: int, seed: int, kinds: Sequence[str]) -> list[tuple[Fault, ...]]:
    """Which faults meet which search, and after how many finished evaluations: a function of the seed. Every kind comes as
    often as every other, but for those that take minutes of a busy machine, which come a few times."""
    rng, plans = random.Random(seed), list[tuple[Fault, ...]]()
    rest = [kind for kind in kinds if not KINDS[kind].slow] or list(kinds)
    deck = [kind for _ in range(AT_LEAST) for kind in rng.sample(list(kinds), len(kinds))]
    for _ in range(searches):
        while len(deck) < FAULTS_EACH * len(kinds):
            deck += rng.sample(rest, len(rest))
        chosen = list(dict.fromkeys(deck))[:FAULTS_EACH]
        for kind in chosen:
            deck.remove(kind)
        moments = sorted(rng.sample(range(2, EVALUATIONS - POPULATION), len(chosen)))
        plans.append(tuple(map(Fault, chosen, moments)))
    return plans


def run(searches: int, seed: int, kinds: Sequence[str], begin: int = 0) -> Iterator[Verdict]:
    with Nodes() as nodes:
        for number, faults in list(enumerate(schedule(searches, seed, kinds)))[begin:]:
            with tempfile.TemporaryDirectory(prefix="evo-chaos-", ignore_cleanup_errors=True) as folder:
                yield endure(Path(folder), nodes, 1000 * seed + number, faults)


def endure(folder: Path, nodes: Nodes, seed: int, faults: Sequence[Fault]) -> Verdict:
    """One search from its beginning to its end, whatever happens meanwhile."""
    began = time.monotonic()
    plain = search(str(folder / "plain"), Undisturbed(), seed)
    rng = random.Random(seed)
    bad = {f.kind: digest_of(plain[rng.randrange(POPULATION)]) for f in faults if f.kind in ("hangs", "crashes")}
    expected = search(str(folder / "undisturbed"), Undisturbed(**bad), seed) if bad else plain
    with Scene(folder, nodes, seed, bad, staging_of({f.kind for f in faults})) as scene:
        missed, drivers = suffer_all(scene, faults)
        complaints = scene.finish(LIMIT_S)
        archive = RunDirectory.open(str(scene.run)).evaluations()
        lost = losses(scene.log)
        return Verdict(
            seed,
            tuple(map(str, faults)),
            missed,
            rows(archive) == rows(expected),
            sum(lost.values()),
            max(lost.values(), default=0),
            scene.repeated,
            drivers,
            round(time.monotonic() - began, 1),
            tuple(complaints),
        )


def suffer_all(scene: Scene, faults: Sequence[Fault]) -> tuple[tuple[str, ...], int]:
    """Which faults came too late, and how many drivers it took."""
    missed, drivers = [], 1
    scene.start_driver()
    for fault in faults:
        if KINDS[fault.kind].in_plan:
            continue
        if not scene.wait(partial(scene.reached, fault.after), LIMIT_S):
            missed.append(str(fault))
            continue
        try:
            suffer(scene, fault)
        except TooLateError:
            missed.append(str(fault))
            continue
        if fault.kind == "late_node" and scene.over:
            missed.append(str(fault))
        if driver_gone(fault):
            drivers += 1
            scene.start_driver()
    return tuple(missed), drivers


def digest_of(evaluation: Evaluation) -> str:
    return SPACE.decode(evaluation.candidate.genome).digest


def rows(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """All of an archive but who did it and how long it took; of a lost worker's reason not which signal it was last."""
    found: list[dict[str, Any]] = to_table(evaluations).drop_columns(["seconds", "worker"]).to_pylist()
    return sorted(
        ({**row, "reason": row["reason"].partition(", last:")[0]} for row in found), key=lambda row: str(row["key"])
    )


def losses(log: Sequence[Any]) -> Counter[int]:
    """By process: evaluations that it began and that had to be begun again."""
    found: Counter[int] = Counter()
    last: dict[int, int] = {}
    for what, work, pid, _ in log:
        if what == "begin":
            if work in last:
                found[last[work]] += 1
            last[work] = pid
    return found


if __name__ == "__main__":
    main()
