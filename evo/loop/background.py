"""Work that must neither delay nor stop a search: tasks run in order on a thread of their own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

Task = Callable[[], None]


class Background:
    """Runs tasks one after the other. The first that raises stays first in line and everything waits for `retry`.

    `on_failure` is called with the first line of the exception, on the thread.
    """

    def __init__(self, on_failure: Callable[[str], None]) -> None:
        self._on_failure = on_failure
        self._tasks: deque[Task] = deque()
        self._changed = threading.Condition()
        self._failed = False
        self._tolerated = 0
        self._advanced = 0.0
        self._thread: threading.Thread | None = None

    def submit(self, task: Task) -> None:
        with self._changed:
            self._tasks.append(task)
            self._start()
            self._changed.notify_all()

    def retry(self, tolerate: int = 0) -> None:
        """Begin again with the task that failed; from now on `tolerate` failing tasks are dropped, not waited for."""
        with self._changed:
            self._failed, self._tolerated = False, tolerate
            self._changed.notify_all()

    def wait(self, patience: float) -> bool:
        """Whether all tasks are done: waits until they are, one failed, or none finished for `patience` seconds."""
        with self._changed:
            self._advanced = time.monotonic()
            while self._tasks and not self._failed:
                left = self._advanced + patience - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            return not self._tasks

    def _start(self) -> None:
        if self._thread is None:
            # A daemon: a call that hangs must not keep the process alive.
            self._thread = threading.Thread(target=self._loop, name="background", daemon=True)
            self._thread.start()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._tasks and not self._failed)
                task = self._tasks[0]
            failure = _attempt(task)
            if failure is not None:
                self._on_failure(first_line(failure))
            with self._changed:
                self._failed = failure is not None and not self._tolerated
                if failure is None:
                    self._tasks.popleft()
                elif self._tolerated:
                    self._tolerated -= 1
                    self._tasks.popleft()
                self._advanced = time.monotonic()
                self._changed.notify_all()


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _attempt(task: Task) -> Exception | None:
    try:
        task()
    except Exception as error:
        return error
    return None
