"""Workers of a kind per fidelity step: many small ones for the cheap step, a few large ones for the last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from evo.candidates import Outcome, Request, StreamingBackend


class Pool(StreamingBackend, Protocol):
    """A backend whose workers can be let go, to come again when there is work for them."""

    def release(self) -> None: ...


class Pools:
    """A backend made of one per fidelity step, `default` for all others. Only one holds workers at a time: what the
    machines have is then free for it, and work of several steps is done step by step."""

    def __init__(self, default: Pool, by_step: Mapping[str, Pool]) -> None:
        self._default, self._by_step = default, dict(by_step)

    def evaluate(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        for step in dict.fromkeys(request.step for request in requests):
            yield from self._alone(step).evaluate([r for r in requests if r.step == step])

    def stream(self, more: Callable[[int], Sequence[Request]]) -> Iterator[Outcome]:
        """All of a stream goes to the workers of its first request."""
        first = more(1)
        if first:
            given = iter((first,))
            yield from self._alone(first[0].step).stream(lambda free: next(given, None) or more(free))

    def close(self) -> None:
        for pool in self._all():
            pool.release()
        for pool in reversed(self._all()):  # whoever came first may own the cluster that the others are on
            pool.close()

    def _alone(self, step: str) -> Pool:
        chosen = self._by_step.get(step, self._default)
        for pool in self._all():
            if pool is not chosen:
                pool.release()
        return chosen

    def _all(self) -> list[Pool]:
        return [self._default, *self._by_step.values()]
