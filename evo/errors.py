"""Which exceptions are the user's to mend, and how they are told. Imports nothing heavy."""

from __future__ import annotations

from evo.failures import StorageError, WorkerStartError

PATH_ERRORS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
USER_ERRORS = (ValueError, StorageError, WorkerStartError, ConnectionError, *PATH_ERRORS)


def sentence(error: BaseException) -> str:
    """One line, whatever the exception holds."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, PATH_ERRORS):
        return f"every path must be usable, but got {text}; check it and its permissions"
    return text
