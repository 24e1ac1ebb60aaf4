"""One suite for every backend, and what only separate processes can survive."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from toy import DeadlyEvaluator, ToyEvaluator, begin, requests, rows, search

from cluster.local import LocalBackend
from cluster.pools import Pools
from cluster.ray_backend import SLOW_S, RayBackend
from cluster.ray_session import connect, import_paths
from cluster.worker import answer, torch_threads
from evo.candidates import FINAL, STEP2, Backend, Outcome, Status
from evo.failures import WorkerStartError
from search_spaces.genome import Genome
from search_spaces.plan import CompressionPlan

UNLUCKY: Genome = (0, 0, 0, 0, 3, 5)  # 20 bits
DEADLY: Genome = (0, 0, 0, 0, 5, 5)  # 22 bits
HANGING: Genome = (0, 0, 0, 1, 5, 5)  # 23 bits
FINE: tuple[Genome, ...] = ((3, 3, 3, 3, 3, 3), (1, 1, 1, 1, 1, 1), (2, 1, 1, 2, 1, 2), (1, 1, 3, 3, 3, 1))

MakeBackend = Callable[..., Backend]


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def make_backend(request: pytest.FixtureRequest) -> MakeBackend:
    if request.param == "local":
        return LocalBackend
    request.getfixturevalue("one_ray")
    return RayBackend


def outcomes(backend: Backend, genomes: tuple[Genome, ...]) -> dict[str, Outcome]:
    found = list(backend.evaluate(requests(genomes)))
    assert len({o.key for o in found}) == len(found) == len(genomes)
    return {o.key: o for o in found}


def test_a_backend_measures_fails_and_searches_as_every_other(make_backend: MakeBackend, tmp_path: Path) -> None:
    """One test, since every new backend on Ray costs seconds of process starts."""
    backend = make_backend(ToyEvaluator)
    try:
        found = outcomes(backend, (*FINE, UNLUCKY))
        for request in requests((*FINE, UNLUCKY)):
            alone = answer(ToyEvaluator(), request, threads=1, worker="")
            got = found[request.key]
            assert (got.status, got.measures, got.reason) == (alone.status, alone.measures, alone.reason)
            assert got.worker.startswith(("local-", "ray-"))
        assert found["c4@step2"].reason == "ValueError: 20 bits are unlucky"
        assert outcomes(backend, FINE).keys() < found.keys(), "a backend is asked again and again, also for the same"
        assert list(backend.evaluate([])) == []
        archive = search(begin(tmp_path / "run"), backend)
    finally:
        backend.close()
    assert rows(archive) == rows(search(begin(tmp_path / "alone")))


def no_network() -> ToyEvaluator:
    raise FileNotFoundError("no weights at nets/resnet.safetensors\nmore lines")


def test_a_factory_that_raises_is_an_error_of_one_sentence(make_backend: MakeBackend) -> None:
    backend = make_backend(no_network)
    with pytest.raises(WorkerStartError) as raised:
        list(backend.evaluate(requests(FINE)))
    backend.close()
    assert "but got FileNotFoundError: no weights at nets/resnet.safetensors; correct" in str(raised.value)


@pytest.mark.ray
def test_a_dead_worker_costs_one_attempt_and_its_request_is_counted_once(one_ray: None, tmp_path: Path) -> None:
    backend = RayBackend(partial(DeadlyEvaluator, mark=tmp_path / "mark"), deadline_s=60.0)
    found = outcomes(backend, (*FINE, DEADLY))
    backend.close()
    assert (tmp_path / "mark").exists()
    assert {o.status for o in found.values()} == {Status.COMPLETED}


@pytest.mark.ray
def test_a_plan_that_kills_or_hangs_every_worker_fails_and_the_others_are_measured(one_ray: None) -> None:
    backend = RayBackend(DeadlyEvaluator, deadline_s=3.0, max_attempts=2)
    found = outcomes(backend, (DEADLY, HANGING, *FINE))
    backend.close()
    failed = {key: o.reason for key, o in found.items() if o.status is Status.FAILED}
    assert failed.keys() == {"c0@step2", "c1@step2"}
    assert failed["c0@step2"].startswith("its worker was lost 2 times, last: ActorDiedError")
    assert failed["c1@step2"] == "no result within the deadline of 3 s"


@dataclass(frozen=True)
class Hungry:
    """Has no memory for 22 bits in the first process that tries."""

    mark: Path

    def evaluate(self, plan: CompressionPlan, step: str, seed: int) -> dict[str, float]:
        if sum(b.weight for b in plan.bits) == 22 and not self.mark.exists():
            self.mark.write_text(str(os.getpid()))
            bytearray(2**60)
        return {**ToyEvaluator().evaluate(plan, step, seed), "pid": float(os.getpid())}


@pytest.mark.ray
def test_what_ran_out_of_memory_is_tried_in_another_process(one_ray: None, tmp_path: Path) -> None:
    backend = RayBackend(partial(Hungry, tmp_path / "mark"), workers=1)
    found = outcomes(backend, (*FINE, DEADLY))
    backend.close()
    assert {o.status for o in found.values()} == {Status.COMPLETED}
    assert found["c4@step2"].measures["pid"] != float((tmp_path / "mark").read_text())


def test_where_there_is_no_other_process_it_is_a_failed_candidate(tmp_path: Path) -> None:
    request = requests((DEADLY,))[0]
    found = answer(Hungry(tmp_path / "mark"), request, threads=1, worker="")
    assert (found.status, found.reason) == (Status.FAILED, "MemoryError")


class Holding:
    """Measures what its own process holds of the cluster."""

    def evaluate(self, plan: CompressionPlan, step: str, seed: int) -> dict[str, float]:
        import ray

        held = ray.get_runtime_context().get_assigned_resources()
        return {name: float(held.get(name, 0.0)) for name in ("CPU", "GPU", "small")}


@pytest.mark.ray
def test_every_step_has_workers_of_its_own_kind(one_ray: None) -> None:
    """The last step takes all CPUs, so that it must be given the room of the others."""
    pools = Pools(
        RayBackend(Holding),
        {
            STEP2: RayBackend(Holding, workers=3, cpus=0.5, gpus=0.25, custom={"small": 1}),
            FINAL: RayBackend(Holding, workers=1, cpus=4, gpus=1),
        },
    )
    work = [*requests(FINE), *(replace(r, key=f"{r.key}!", step=FINAL) for r in requests(FINE[:1]))]
    found = {o.key: (o.measures["CPU"], o.measures["GPU"], o.measures["small"]) for o in pools.evaluate(work)}
    pools.close()
    assert found == {f"c{i}@step2": (0.5, 0.25, 1.0) for i in range(len(FINE))} | {"c0@step2!": (4.0, 1.0, 0.0)}


@pytest.mark.ray
def test_a_listener_that_leaves_does_not_block_the_next(one_ray: None) -> None:
    backend = RayBackend(partial(ToyEvaluator, delay_s=0.3), workers=1)
    started = backend.evaluate(requests(FINE))
    next(started)
    started.close()  # type: ignore[attr-defined]
    began = time.monotonic()
    assert len(outcomes(backend, FINE[:1])) == 1
    backend.close()
    assert time.monotonic() - began < 30


def test_an_address_where_nothing_listens_is_an_error_of_one_sentence() -> None:
    with pytest.raises(ConnectionError, match=r"that of a running Ray cluster, but got address=127\.0\.0\.1:9 "):
        connect("127.0.0.1:9", cpus=1)


def test_torch_runs_with_the_given_threads_and_is_left_as_it_was() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_workers_import_from_where_the_driver_does_but_for_the_installation(tmp_path: Path) -> None:
    os_folder = os.path.dirname(os.__file__)
    entries = [str(tmp_path), "", os_folder, f"{os_folder}/site-packages", str(tmp_path / "missing"), str(tmp_path)]
    assert import_paths(entries) == [str(tmp_path), os.getcwd()]
    assert import_paths(sys.path)


@dataclass(frozen=True)
class Second:
    """The second request takes a second longer than the first; both are written down when they begin."""

    calls: Path

    def evaluate(self, plan: CompressionPlan, step: str, seed: int) -> dict[str, float]:
        with open(self.calls, "a") as calls:
            calls.write(f"{seed}\n")
        return ToyEvaluator(delay_s=0.2 + seed).evaluate(plan, step, seed)


@pytest.mark.ray
def test_a_driver_that_was_held_up_does_not_take_its_workers_for_slow(one_ray: None, tmp_path: Path) -> None:
    """The second answer has long been there when the driver is back: nobody has to try that again."""
    backend = RayBackend(partial(Second, tmp_path / "calls"), workers=2)
    list(backend.evaluate(requests(FINE[:2])))
    (tmp_path / "calls").unlink()
    for number, _ in enumerate(backend.evaluate(requests(FINE[:2]))):
        time.sleep(SLOW_S + 2.0 if number == 0 else 1.0)
    backend.close()
    assert len((tmp_path / "calls").read_text().splitlines()) == 2
