"""Which exceptions are the user's to mend, and how they are told. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from evo.failures import StorageError, WorkerStartError

PATH_ERRORS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
USER_ERRORS = (ValueError, StorageError, WorkerStartError, ConnectionError, *PATH_ERRORS)


@contextmanager
def examined_by_doctor(config: str) -> Iterator[None]:
    """What is raised inside is such as `evo doctor` finds without starting a search: the sentence names it."""
    try:
        yield
    except ValueError as error:
        text = sentence(error)
        hint = "" if "evo doctor" in text else f" (evo doctor {config} finds such things in seconds)"
        raise ValueError(text + hint) from error


def sentence(error: BaseException) -> str:
    """One line, whatever the exception holds."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, PATH_ERRORS):
        return f"every path must be usable, but got {text}; check it and its permissions"
    return text
