"""A user's script, as strictly typed as theirs may be: mypy --strict reads it with the project (make lint), a test runs it."""

from __future__ import annotations

import json
from pathlib import Path

import evo


def smallest_within(run_dir: Path, error: float) -> tuple[str, float]:
    """The id and size of the smallest network of a finished search within an error."""
    result: evo.Result = evo.load(run_dir)
    choice: evo.Choice = result.pick(f"top1_error<={error}")
    sizes = {point.candidate_id: point.value("size_bytes") for point in result.front}
    first = result.front[0]
    facts: dict[str, float] = dict(first.measures)
    widths: list[tuple[str, int]] = [(width.group, width.kept) for width in choice.point.plan.widths]
    assert json.dumps({"facts": facts, "widths": widths, "html": len(result._repr_html_())})
    return choice.point.candidate_id, sizes[choice.point.candidate_id]
