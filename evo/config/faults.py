"""What is wrong with a configuration, in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError


def fault_sentence(error: ValidationError, root: type[BaseModel], origin: str) -> str:
    """The first fault of a configuration, with the closest known key for an unknown one."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    more = f" ({error.error_count() - 1} more after this)" if error.error_count() > 1 else ""
    if fault["type"] == "extra_forbidden":
        known = _known_keys(root, fault["loc"][:-1])
        closest = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        advice = f"did you mean {closest[0]!r}?" if closest else f"known are {', '.join(known)}"
        return f"every key of {origin} must be known, but got {where}={fault['input']!r}; {advice}{more}"
    if fault["type"] == "missing":
        return f"{origin} must have the key {where}, but got none; add it{more}"
    return f"{where} {_demand(fault['msg'])}, but got {where}={fault['input']!r}; correct it in {origin}{more}"


def _demand(text: str) -> str:
    """ "Input should be a valid integer" as "must be a valid integer"."""
    rest = text.removeprefix("Input should ")
    return f"must {rest}" if rest != text else f"must be right: {text[:1].lower()}{text[1:]}"


def _known_keys(root: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    kind: Any = root
    for part in location:
        if (
            isinstance(part, str)
            and isinstance(kind, type)
            and issubclass(kind, BaseModel)
            and part in kind.model_fields
        ):
            kind = _section_of(kind.model_fields[part].annotation)
    return sorted(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _section_of(annotation: Any) -> Any:
    """The section class inside X, list[X] or X | None."""
    for option in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None
