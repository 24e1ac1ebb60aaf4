"""Background work: order, failure, retry and patience."""

from __future__ import annotations

import threading
import time

from evo.loop.background import Background


def test_a_failed_task_holds_the_line_until_retried() -> None:
    done: list[str] = []
    failures: list[str] = []
    healthy = threading.Event()

    def fragile() -> None:
        if not healthy.is_set():
            raise ConnectionError("no route\nto host")
        done.append("fragile")

    background = Background(failures.append)
    for task in (lambda: done.append("first"), fragile, lambda: done.append("last")):
        background.submit(task)
    assert not background.wait(5.0)
    assert (done, failures) == (["first"], ["no route"])
    healthy.set()
    background.retry()
    assert background.wait(5.0)
    assert done == ["first", "fragile", "last"]


def test_tolerated_failures_cost_one_task_each() -> None:
    done: list[int] = []
    background = Background(lambda reason: None)
    for number in range(4):
        background.submit(lambda number=number: done.append(10 // number))
    assert not background.wait(5.0)
    background.retry(tolerate=1)
    assert background.wait(5.0)
    assert done == [10, 5, 3]


def test_patience_is_per_task_and_ends_with_a_hanging_one() -> None:
    background = Background(lambda reason: None)
    for _ in range(4):
        background.submit(lambda: time.sleep(0.1))
    assert background.wait(0.3)
    release = threading.Event()
    background.submit(lambda: release.wait() and None)
    began = time.monotonic()
    assert not background.wait(0.2)
    assert time.monotonic() - began < 2
    release.set()
