"""Which exceptions are the user's to mend, and how they are told. Imports nothing heavy."""

from __future__ import annotations

from evo.failures import StorageError, WorkerStartError

USER_ERRORS = (ValueError, StorageError, WorkerStartError)


def sentence(error: BaseException) -> str:
    """One line, whatever the exception holds."""
    return " ".join(str(error).split()) or type(error).__name__
