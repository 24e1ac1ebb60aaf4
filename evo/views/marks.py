"""Points that a user wants to see beside a front: published results, earlier models, budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def absolute_marks(
    marks: Mapping[str, Mapping[str, float | str]], baseline: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Values in the measures' own units; "0.5x" is relative to the uncompressed network."""
    return {
        name: {measure: _absolute(name, measure, value, baseline) for measure, value in values.items()}
        for name, values in marks.items()
    }


def parse_marks(texts: Sequence[str]) -> dict[str, dict[str, float | str]]:
    """ "published:top1_error=0.09,macs=0.46x" as {"published": {"top1_error": 0.09, "macs": "0.46x"}}."""
    return dict(_parse(text) for text in texts)


def _parse(text: str) -> tuple[str, dict[str, float | str]]:
    name, colon, rest = text.partition(":")
    pairs = [part.partition("=") for part in rest.split(",")]
    if not colon or not name.strip() or not all(key.strip() and value.strip() for key, _, value in pairs):
        raise ValueError(
            f'--mark must look like "NAME:top1_error=0.09,macs=0.5x", but got mark={text!r}; write measures of the front'
        )
    return name.strip(), {key.strip(): value.strip() for key, _, value in pairs}


def _absolute(name: str, measure: str, value: float | str, baseline: Mapping[str, float]) -> float:
    if not isinstance(value, str):
        return float(value)
    relative = value.endswith("x")
    if relative and measure not in baseline:
        raise ValueError(
            f"a relative mark must have a baseline, but got {measure}={value} of {name!r}; give it in the measure's own unit"
        )
    try:
        return float(value.removesuffix("x")) * (baseline[measure] if relative else 1.0)
    except ValueError as error:
        raise ValueError(
            f'a mark must be a number or relative like "0.5x", but got {measure}={value!r} of {name!r}; correct it'
        ) from error
