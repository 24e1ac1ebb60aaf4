"""Failures that somebody reacts to: they stop a search cleanly, in one sentence, and it can be resumed."""

from __future__ import annotations


class StorageError(RuntimeError):
    """The run directory can no longer be trusted or written to: a search stops, to be resumed once that is mended."""


class WorkerStartError(RuntimeError):
    """No worker could be started: what it needs cannot be loaded, and trying again would not help."""

    @classmethod
    def because(cls, reason: str) -> WorkerStartError:
        return cls(
            f"a worker must be able to build its evaluator, but got {reason}; correct the configuration or the installation"
        )
