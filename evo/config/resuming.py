"""What a resumed search may change: how long and how it runs, not what it searches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evo.config.schema import Config

# The kept copies of weights and tables replace the files; where data lie may have changed, what they are may not.
MAY_CHANGE = ("name", "budget", "execution", "tracking", "evaluation.final", "model.weights", "data.kwargs")


def require_same_search(before: Config, after: Config) -> None:
    """Raise ValueError, naming the first key, where the search would not be the one that was started."""
    for key, old, new in _differences(before.model_dump(mode="json"), after.model_dump(mode="json"), ""):
        if not any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE):
            raise ValueError(
                f"a resumed search must keep what it was started with ({_text(key, old)}), but got {_text(key, new)}; "
                "undo the change, or start a new search in another run directory "
                "(only budget, execution, tracking and evaluation.final may change)"
            )


def same_last_step(before: Config, after: Config) -> bool:
    """Whether a pick measured at the last step of one is measured equally by the other; who is picked may differ."""
    first, second = (config.evaluation.final.model_dump(exclude={"picks"}) for config in (before, after))
    return bool(first == second)


def _differences(old: Any, new: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if _nested(old) and _nested(new):
        before, after = _by_name(old), _by_name(new)
        for name in dict.fromkeys((*before, *after)):
            yield from _differences(before.get(name), after.get(name), f"{key}.{name}" if key else str(name))
    elif old != new:
        yield key, old, new


def _nested(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and all(isinstance(v, Mapping) for v in value))


def _by_name(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else dict(enumerate(value))


def _text(key: str, value: Any) -> str:
    if value is None:
        return f"no {key}"
    if isinstance(value, Mapping):
        value = {name: item for name, item in value.items() if item is not None}
    return f"{key}={value!r}"
