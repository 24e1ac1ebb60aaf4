"""An explanation on a terminal: a row per layer with bars."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from evo.front import format_measure
from evo.views.explanation import Explanation, LayerStory
from search_spaces.plan import FLOAT_BITS

EIGHTHS = " ▏▎▍▌▋▊▉"
BAR = 10


def share_bar(share: float, width: int = BAR) -> str:
    """A share of 0 to 1 as a bar of eighths of a character."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    return "█" * (eighths // 8) + ("" if eighths % 8 == 0 else EIGHTHS[eighths % 8])


def show(explanation: Explanation, console: Console) -> None:
    console.print(explanation_table(explanation))


def explanation_table(explanation: Explanation) -> Group:
    point = explanation.point
    worst = max((story.loss for story in explanation.layers), default=0.0)
    table = Table(title=f"{point.candidate_id}: {point.summary}", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("layer", "channels", "bits w/a", "decomposed", "bytes left", "predicted loss", "why left as it is"):
        table.add_column(name, overflow="fold", no_wrap=name not in ("layer", "why left as it is"))
    for story in explanation.layers:
        table.add_row(*_cells(story, worst))
    measures = ", ".join(f"{name} {format_measure(name, point.value(name))}" for name in point.objectives)
    note = "predicted loss: nats over the uncompressed network as step 1 expects them, for each layer alone"
    return Group(table, Text(measures), Text(note, style="dim"))


def _cells(story: LayerStory, worst: float) -> tuple[str, ...]:
    if story.skipped:
        return (story.name, "skipped", "", "", "0 %", _loss(story, worst), "")
    kept = f"{share_bar(story.outputs_kept / story.outputs, 6):6} {story.outputs_kept}/{story.outputs}"
    rank = f"{story.method} {'x'.join(map(str, story.ranks))}" if story.ranks else "-"
    left = f"{share_bar(story.bytes_left, 6):6} {story.bytes_left:.0%}"
    bits = "/".join("-" if b >= FLOAT_BITS else str(b) for b in (story.weight_bits, story.activation_bits))
    return (story.name, kept, bits, rank, left, _loss(story, worst), story.left_because)


def _loss(story: LayerStory, worst: float) -> str:
    return f"{share_bar(story.loss / worst, 6):6} {story.loss:.2g}" if worst > 0 and story.loss > 0 else ""
