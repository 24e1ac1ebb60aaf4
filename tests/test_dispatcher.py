"""The dispatcher alone: event scripts, all orders of two workers' events, and a random world that must always drain."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster.dispatcher import Dispatcher
from cluster.messages import (
    Assign,
    Event,
    Failed,
    Finished,
    GiveUp,
    Instruction,
    Report,
    Slow,
    StartFailed,
    StartWorker,
    StopWorker,
    Submitted,
    TimedOut,
    WorkerJoined,
    WorkerLost,
)
from evo.candidates import Outcome, Request, Status
from search_spaces.plan import CompressionPlan


def request(key: str) -> Request:
    return Request(key, CompressionPlan(), "step2", 0)


A, B = request("a"), request("b")


def play(dispatcher: Dispatcher, *events: Event) -> list[Instruction]:
    """The instructions for all events; the state is validated after each."""
    instructions = []
    for event in events:
        instructions += dispatcher.handle(event)
        dispatcher.validate()
    return instructions


def reports(instructions: list[Instruction]) -> list[Outcome]:
    return [i.outcome for i in instructions if isinstance(i, Report)]


def test_workers_are_started_as_work_needs_them_and_kept_busy() -> None:
    dispatcher = Dispatcher(workers=2)
    assert play(dispatcher, *(Submitted(request(k)) for k in "abc")) == [StartWorker(), StartWorker()]
    assert play(dispatcher, WorkerJoined("w0")) == [Assign("w0", (A,))]
    assert play(dispatcher, WorkerJoined("w1")) == [Assign("w1", (B,))]
    outcome = Outcome("a", Status.COMPLETED, {"m": 1.0}, seconds=2.0, worker="w0")
    assert play(dispatcher, Finished("w0", "a", {"m": 1.0}, 2.0)) == [Report(outcome), Assign("w0", (request("c"),))]


def test_a_lost_worker_costs_one_attempt_and_is_replaced() -> None:
    dispatcher = Dispatcher(workers=1)
    play(dispatcher, Submitted(A), WorkerJoined("w0"))
    assert play(dispatcher, WorkerLost("w0", "killed")) == [StartWorker()]
    assert play(dispatcher, WorkerJoined("w1")) == [Assign("w1", (A,))]
    assert [o.status for o in reports(play(dispatcher, Finished("w1", "a")))] == [Status.COMPLETED]
    assert dispatcher.finished


def test_what_loses_every_worker_fails_with_the_reason() -> None:
    dispatcher, said = Dispatcher(workers=1, max_attempts=3), []
    play(dispatcher, Submitted(A))
    for i in range(3):
        said += play(dispatcher, WorkerJoined(f"w{i}"), WorkerLost(f"w{i}", f"killed {i}"))
    (outcome,) = reports(said)
    assert (outcome.status, outcome.reason) == (Status.FAILED, "its worker was lost 3 times, last: killed 2")
    assert said[-1] == Report(outcome), "nobody is started when nothing is left to do"


def test_an_error_of_the_plan_is_reported_once_and_the_worker_goes_on() -> None:
    dispatcher = Dispatcher(workers=1)
    play(dispatcher, Submitted(A), Submitted(B), WorkerJoined("w0"))
    outcome = Outcome("a", Status.FAILED, reason="ValueError: x", worker="w0")
    assert play(dispatcher, Failed("w0", "a", "ValueError: x")) == [Report(outcome), Assign("w0", (B,))]


def test_a_deadline_fails_the_request_and_replaces_the_worker() -> None:
    dispatcher = Dispatcher(workers=1)
    play(dispatcher, Submitted(A), Submitted(B), WorkerJoined("w0"))
    said = play(dispatcher, TimedOut("w0", "a", "too slow", 5.0))
    assert said == [Report(Outcome("a", Status.FAILED, reason="too slow", seconds=5.0, worker="w0")), StartWorker()]
    assert play(dispatcher, WorkerJoined("w1")) == [Assign("w1", (B,))]


def test_late_and_doubled_events_change_nothing() -> None:
    dispatcher = Dispatcher(workers=2)
    play(dispatcher, Submitted(A), Submitted(B), WorkerJoined("w0"), WorkerJoined("w1"))
    play(dispatcher, WorkerLost("w0", "killed"))
    assert play(dispatcher, WorkerLost("w0", "killed"), Finished("w0", "a"), TimedOut("w0", "a", "late")) == []
    assert play(dispatcher, Failed("w1", "a", "not mine"), WorkerJoined("w1")) == []
    assert len(reports(play(dispatcher, Finished("w1", "b"), Finished("w1", "b"), Finished("w1", "a")))) == 2


def test_workers_that_are_there_already_are_used_before_any_is_started() -> None:
    dispatcher = Dispatcher(workers=2, starting=1)
    assert play(dispatcher, WorkerJoined("w0", started=False), Submitted(A), Submitted(B)) == [Assign("w0", (A,))]


def test_a_factory_that_raises_is_not_tried_again() -> None:
    dispatcher = Dispatcher(workers=2)
    play(dispatcher, Submitted(A), Submitted(B))
    assert play(dispatcher, StartFailed("no such file")) == []
    assert play(dispatcher, StartFailed("no such file")) == [GiveUp("no such file")]


def test_a_factory_that_raises_for_a_replacement_leaves_the_others_at_work() -> None:
    dispatcher = Dispatcher(workers=2)
    play(dispatcher, Submitted(A), Submitted(B), WorkerJoined("w0"), WorkerJoined("w1"), WorkerLost("w1", "killed"))
    assert play(dispatcher, StartFailed("no such file")) == []
    assert len(reports(play(dispatcher, Finished("w0", "a"), Finished("w0", "b")))) == 2


def test_workers_that_die_while_starting_are_tried_again_but_not_forever() -> None:
    dispatcher = Dispatcher(workers=1, max_attempts=3)
    play(dispatcher, Submitted(A))
    assert play(dispatcher, StartFailed("died", lost=True)) == [StartWorker()]
    assert play(dispatcher, StartFailed("died", lost=True)) == [StartWorker()]
    assert play(dispatcher, StartFailed("died", lost=True)) == [GiveUp("died")]


def test_losing_the_last_worker_when_none_can_be_started_gives_up() -> None:
    dispatcher = Dispatcher(workers=2)
    play(dispatcher, Submitted(A), Submitted(B), WorkerJoined("w0"), StartFailed("no such file"))
    assert play(dispatcher, WorkerLost("w0", "killed")) == [GiveUp("no such file")]


def letters(text: str) -> tuple[Request, ...]:
    return tuple(map(request, text))


def test_what_takes_next_to_no_time_travels_together_in_fair_shares() -> None:
    dispatcher = Dispatcher(workers=1)
    play(dispatcher, *map(Submitted, letters("abcdef")), WorkerJoined("w0"))
    assert play(dispatcher, Finished("w0", "a", seconds=0.001)) == [
        Report(Outcome("a", Status.COMPLETED, worker="w0", seconds=0.001)),
        Assign("w0", letters("bcdef")),
    ]
    said = play(dispatcher, *(Finished("w0", key, seconds=5.0) for key in "bcdef"), *map(Submitted, letters("xyz")))
    assert said[-1] == Assign("w0", (request("x"),)), "as soon as they take long they travel alone"


def test_of_a_lost_batch_each_is_tried_alone_so_the_innocent_survive() -> None:
    dispatcher, said = Dispatcher(workers=1, max_attempts=2), []
    play(dispatcher, *map(Submitted, letters("abcd")), WorkerJoined("w0"))
    assert play(dispatcher, Finished("w0", "a", seconds=0.001))[-1] == Assign("w0", letters("bcd"))
    said += play(dispatcher, WorkerLost("w0", "killed"), WorkerJoined("w1"), Finished("w1", "b"))
    said += play(dispatcher, WorkerLost("w1", "killed"), WorkerJoined("w2"), Finished("w2", "d"))
    assert [(o.key, o.status.value) for o in reports(said)] == [("b", "completed"), ("c", "failed"), ("d", "completed")]
    assert all(len(i.requests) == 1 for i in said if isinstance(i, Assign))


def test_a_machine_that_goes_away_is_nobodys_fault() -> None:
    dispatcher = Dispatcher(workers=1, max_attempts=1)
    play(dispatcher, Submitted(A))
    for number in range(5):
        said = play(dispatcher, WorkerJoined(f"w{number}"), WorkerLost(f"w{number}", "spot", machine=True))
        assert not reports(said) and said[-1] == StartWorker()
    for _ in range(5):
        assert play(dispatcher, StartFailed("spot", lost=True, machine=True)) == [StartWorker()]
    assert len(reports(play(dispatcher, WorkerJoined("w9"), Finished("w9", "a")))) == 1


@pytest.mark.parametrize("first,second", [("w0", "w1"), ("w1", "w0")])
def test_a_slow_request_gets_one_copy_and_the_first_answer_counts(first: str, second: str) -> None:
    dispatcher = Dispatcher(workers=2)
    play(dispatcher, Submitted(A), Submitted(B), WorkerJoined("w0"), WorkerJoined("w1"))
    assert play(dispatcher, Slow("w0")) == [], "everybody has work"
    play(dispatcher, Finished("w1", "b"))
    assert play(dispatcher, Slow("w0")) == [Assign("w1", (A,))]
    assert play(dispatcher, Slow("w0"), Slow("w1"), Slow("w7")) == []
    said = play(dispatcher, Finished(first, "a", seconds=1.0))
    assert said == [Report(Outcome("a", Status.COMPLETED, seconds=1.0, worker=first)), StopWorker(second)]
    assert play(dispatcher, Finished(second, "a"), WorkerLost(second, "killed")) == []


def test_a_copy_carries_on_when_the_original_is_lost_or_out_of_time() -> None:
    for end in (WorkerLost("w0", "killed"), TimedOut("w0", "a", "too slow", 9.0)):
        dispatcher = Dispatcher(workers=2)
        play(dispatcher, Submitted(A), Submitted(B), WorkerJoined("w0"), WorkerJoined("w1"), Finished("w1", "b"))
        play(dispatcher, Slow("w0"))
        assert not reports(play(dispatcher, end))
        assert [o.worker for o in reports(play(dispatcher, Finished("w1", "a")))] == ["w1"]


def test_a_key_is_submitted_once() -> None:
    dispatcher = Dispatcher(workers=1)
    with pytest.raises(ValueError, match="must be unique, but got key=a twice"):
        play(dispatcher, Submitted(A), Submitted(A))
    with pytest.raises(ValueError, match="must be at least 1, but got workers=0"):
        Dispatcher(workers=0)


SCRIPTS = [
    (WorkerJoined("w0"), Finished("w0", "a")),
    (WorkerJoined("w0"), WorkerLost("w0", "killed")),
    (WorkerJoined("w0"), Failed("w0", "a", "bad")),
    (WorkerJoined("w0"), TimedOut("w0", "a", "slow")),
]
SECOND = [(WorkerJoined("w1"), Finished("w1", "b")), (WorkerJoined("w1"), WorkerLost("w1", "killed"))]


@pytest.mark.parametrize("first", SCRIPTS)
@pytest.mark.parametrize("second", SECOND)
def test_every_order_of_two_workers_events_ends_with_each_request_reported_once(
    first: tuple[Event, ...], second: tuple[Event, ...]
) -> None:
    for order in permutations([*first, *second]):
        dispatcher = Dispatcher(workers=2)
        said = play(dispatcher, Submitted(A), Submitted(B), *order)
        said += drain(dispatcher, said)
        assert sorted(o.key for o in reports(said)) == ["a", "b"], order


def drain(dispatcher: Dispatcher, said: list[Instruction]) -> list[Instruction]:
    """A healthy world: whatever was assigned and may still run finishes, whoever is started joins."""
    answered: list[Instruction] = []
    todo = [*said, Assign("w0", (A,)), Assign("w0", (B,)), Assign("w1", (A,)), Assign("w1", (B,))]
    for number, instruction in enumerate(todo):
        if dispatcher.finished:
            break
        if isinstance(instruction, Assign):
            new = play(dispatcher, *(Finished(instruction.worker, r.key) for r in instruction.requests))
        elif isinstance(instruction, StartWorker):
            new = play(dispatcher, WorkerJoined(f"fresh{number}"))
        else:
            continue
        answered += new
        todo += new
    return answered


class World(RuleBasedStateMachine):
    """Workers that come, work, die and hang at random. Mirrors nothing of the dispatcher but what it was told to do."""

    def __init__(self) -> None:
        super().__init__()
        self.dispatcher = Dispatcher(workers=3, max_attempts=2)
        self.starting, self.named, self.submitted = 0, 0, 0
        self.running: dict[str, list[str]] = {}
        self.alive: set[str] = set()
        self.attempts: dict[str, int] = {}
        self.reported: list[str] = []

    def tell(self, event: Event) -> None:
        for instruction in self.dispatcher.handle(event):
            if isinstance(instruction, Assign):
                assert instruction.worker in self.alive - set(self.running)
                self.running[instruction.worker] = [r.key for r in instruction.requests]
                for key in self.running[instruction.worker]:
                    assert key not in self.reported
                    self.attempts[key] = self.attempts.get(key, 0) + 1
            elif isinstance(instruction, StartWorker):
                self.starting += 1
            elif isinstance(instruction, StopWorker):
                self.alive.remove(instruction.worker)
                assert set(self.running.pop(instruction.worker)) <= set(self.reported)
            elif isinstance(instruction, Report):
                self.reported.append(instruction.outcome.key)
            else:
                raise AssertionError(f"nothing failed to start, but got {instruction}")

    @rule(count=st.integers(1, 4))
    def submit(self, count: int) -> None:
        for _ in range(count):
            self.submitted += 1
            self.tell(Submitted(request(f"r{self.submitted}")))

    @precondition(lambda self: self.starting)
    @rule()
    def join(self) -> None:
        self.starting, self.named = self.starting - 1, self.named + 1
        self.alive.add(f"w{self.named}")
        self.tell(WorkerJoined(f"w{self.named}"))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), kind=st.sampled_from([Finished, Failed]), seconds=st.sampled_from([0.001, 1.0]))
    def answer(self, data: st.DataObject, kind: type, seconds: float) -> None:
        worker = data.draw(st.sampled_from(sorted(self.running)))
        for key in self.running.pop(worker):
            is_failure = kind is Failed
            self.tell(Failed(worker, key, "bad", seconds) if is_failure else Finished(worker, key, {}, seconds))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), kind=st.sampled_from(["timeout", "lost", "machine"]))
    def die(self, data: st.DataObject, kind: str) -> None:
        worker = data.draw(st.sampled_from(sorted(self.running)))
        keys = self.running.pop(worker)
        self.alive.remove(worker)
        if kind == "machine":
            copied = {key for others in self.running.values() for key in others}
            for key in set(keys) - copied:
                self.attempts[key] -= 1
        if kind == "timeout" and len(keys) == 1:
            self.tell(TimedOut(worker, keys[0], "slow"))
        else:
            self.tell(WorkerLost(worker, "killed", machine=kind == "machine"))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def slow(self, data: st.DataObject) -> None:
        self.tell(Slow(data.draw(st.sampled_from(sorted(self.running)))))

    @rule(worker=st.integers(0, 5), key=st.integers(0, 5))
    def stray(self, worker: int, key: int) -> None:
        """A late or doubled answer, of a pair that is not at work."""
        if f"r{key}" not in self.running.get(f"w{worker}", ()):
            self.tell(Finished(f"w{worker}", f"r{key}"))

    @invariant()
    def holds(self) -> None:
        self.dispatcher.validate()
        assert len(set(self.reported)) == len(self.reported)
        assert len(self.alive) + self.starting <= 3
        assert all(n <= 2 for n in self.attempts.values())

    def teardown(self) -> None:
        for _ in range(20 * self.submitted + 20):
            if self.starting:
                self.join()
            elif self.running:
                worker = min(self.running)
                for key in self.running.pop(worker):
                    self.tell(Finished(worker, key))
        assert self.dispatcher.finished
        assert len(self.reported) == self.submitted


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
