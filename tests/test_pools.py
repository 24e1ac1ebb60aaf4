"""Workers of a kind per fidelity step: what they hold, and that only one kind is there at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from small_run import settings
from toy import apart, requests

from benchmarks.chaos_nodes import Nodes
from cluster.pools import Pools
from cluster.ray_backend import RayBackend
from evo.candidates import FINAL, STEP2, Outcome, Request, Status
from evo.config.schema import Execution, validate
from evo.studies.workers import check_resources, workers_at
from search_spaces.plan import CompressionPlan

WORK = requests([(1,) * 6, (2,) * 6])
LAST = [replace(r, step=FINAL, key=f"{r.key}{FINAL}") for r in WORK]


@dataclass
class Recorded:
    """A pool that writes down what it is told to do."""

    name: str
    said: list[str] = field(default_factory=list)

    def evaluate(self, work: Sequence[Request]) -> Iterator[Outcome]:
        for request in work:
            self.said.append(f"{self.name} {request.step}")
            yield Outcome(request.key, Status.COMPLETED, worker=self.name)

    def stream(self, more: Callable[[int], Sequence[Request]]) -> Iterator[Outcome]:
        while work := more(1):
            yield from self.evaluate(work)

    def release(self) -> None:
        self.said.append(f"{self.name} released")

    def close(self) -> None:
        self.said.append(f"{self.name} closed")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def pools(said: list[str]) -> Pools:
    return Pools(Recorded("default", said), {FINAL: Recorded("last", said)})


def test_each_step_goes_to_its_workers_and_the_others_make_room(pools: Pools, said: list[str]) -> None:
    found = list(pools.evaluate([WORK[0], LAST[0], WORK[1]]))
    assert {o.key: o.worker for o in found} == {WORK[0].key: "default", WORK[1].key: "default", LAST[0].key: "last"}
    assert said == ["last released", "default step2", "default step2", "default released", "last final"]


def test_a_stream_is_passed_on_whole(pools: Pools, said: list[str]) -> None:
    given = iter([[LAST[0]], [LAST[1]], []])
    assert [o.key for o in pools.stream(lambda free: next(given))] == [r.key for r in LAST]
    assert list(pools.stream(lambda free: [])) == []
    assert said == ["default released", "last final", "last final"]


def test_all_are_closed(pools: Pools, said: list[str]) -> None:
    pools.close()
    assert sorted(said) == ["default closed", "default released", "last closed", "last released"]


def execution(**changes: object) -> Execution:
    return validate({**settings(None), "execution": changes}).execution


def test_what_no_machine_or_not_this_one_can_hold_is_one_sentence() -> None:
    there = "127.0.0.1:6379"
    check_resources(execution(resources={"step2": {"cpus": 0.5}, "final": {"cpus": 2}}), None)
    check_resources(execution(resources={"final": {"gpus": 64, "custom": {"large": 1}}}), there)
    for resources, address, text in (
        ({"step2": {"gpus": 64}}, None, "gpus=64 for step2 and .* GPUs here; lower it, or name a cluster"),
        ({"final": {"custom": {"large": 1}}}, None, "offered by nodes of a cluster, but got large for final"),
        ({"final": {"gpus": 1.5}}, there, "whole numbers, but got gpus=1.5 for final; round it"),
        ({"final": {"custom": {"large": -1}}}, there, "whole numbers, but got large=-1 for final"),
    ):
        with pytest.raises(ValueError, match=text):
            check_resources(execution(resources=resources), address)
    with pytest.raises(ValueError, match="gpus=64"):
        check_resources(execution(gpus=64, backend="local"), None)
    with pytest.raises(ValueError, match=r"step3"):
        execution(resources={"step3": {}})


def test_the_number_of_workers_is_that_of_the_step() -> None:
    asked = execution(workers=8, resources={"final": {"workers": 1}})
    assert (workers_at(asked, STEP2), workers_at(asked, FINAL)) == (8, 1)


class Where:
    """Measures where its own process runs, and what it holds there."""

    def evaluate(self, plan: CompressionPlan, step: str, seed: int) -> dict[str, float]:
        import ray

        context = ray.get_runtime_context()
        held = context.get_assigned_resources()
        return {
            "node": float(int(context.get_node_id()[:12], 16)),
            "CPU": held.get("CPU", 0),
            "GPU": held.get("GPU", 0),
        }


def placed() -> tuple[list[str], dict[str, Mapping[str, float]]]:
    small, large = {"num_cpus": 1, "resources": {"many": 4}}, {"num_cpus": 2, "num_gpus": 1}
    with Nodes([small, large]) as nodes:
        pools = Pools(
            RayBackend(Where, address=nodes.address),
            {
                STEP2: RayBackend(Where, workers=2, cpus=0.5, custom={"many": 1}, address=nodes.address),
                FINAL: RayBackend(Where, workers=1, cpus=2, gpus=0.5, address=nodes.address),
            },
        )
        found = {o.key: o.measures for o in pools.evaluate([*WORK, *LAST])}
        pools.close()
        return nodes.ids, found


@pytest.mark.chaos
@pytest.mark.ray
def test_every_step_runs_on_the_machines_that_offer_what_it_asks_for() -> None:
    nodes, found = apart(placed)
    here, there = (float(int(node[:12], 16)) for node in nodes)
    assert [found[r.key] for r in WORK] == [{"node": here, "CPU": 0.5, "GPU": 0.0}] * 2
    assert [found[r.key] for r in LAST] == [{"node": there, "CPU": 2.0, "GPU": 0.5}] * 2
