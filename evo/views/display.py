"""Progress of a search for people: a live line on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import math

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from evo.candidates import Evaluation
from evo.front import format_measure
from evo.views.progress import Listener, Progress, SearchInfo, completed_generation

BEGIN = Progress(generation=0, round=0, evaluations=0, failed=0, seconds=math.nan, hypervolume=math.nan)


def display(quiet: bool = False, console: Console | None = None) -> Listener:
    """The display that fits: for `quiet` none, on a terminal a live one, else one line per generation."""
    console = console or Console(stderr=True)
    if quiet:
        return NoDisplay()
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


class NoDisplay:
    def on_start(self, info: SearchInfo) -> None: ...
    def on_evaluation(self, evaluation: Evaluation) -> None: ...
    def on_round(self, progress: Progress) -> None: ...
    def on_end(self, progress: Progress, status: str) -> None: ...


class PlainDisplay:
    """Prints a generation's last round, as soon as the next generation has begun."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pending: Progress | None = None

    def on_start(self, info: SearchInfo) -> None:
        self._print(f"search {info.name}, run directory {info.run_dir}")

    def on_evaluation(self, evaluation: Evaluation) -> None: ...

    def on_round(self, progress: Progress) -> None:
        ended = completed_generation(self._pending, progress)
        self._pending = progress
        if ended is not None:
            self._print(progress_line(ended))

    def on_end(self, progress: Progress, status: str) -> None:
        self.on_round(progress)
        self._print(f"{progress_line(progress)} | {status}")

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


class LiveDisplay:
    """A panel that is redrawn in place; output of other processes scrolls above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4)
        self._name = ""
        self._running = 0
        self._progress = BEGIN

    def on_start(self, info: SearchInfo) -> None:
        self._name = info.name
        self._console.print(f"search {info.name}, run directory {info.run_dir}", highlight=False, markup=False)
        self._live.start()

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._running += 1
        self._redraw()

    def on_round(self, progress: Progress) -> None:
        self._progress, self._running = progress, 0
        self._redraw()

    def on_end(self, progress: Progress, status: str) -> None:
        self.on_round(progress)
        self._live.stop()
        self._console.print(f"{self._name}: {status}", highlight=False, markup=False)

    def _redraw(self) -> None:
        self._live.update(_panel(self._progress, self._running))


def progress_facts(progress: Progress) -> dict[str, str]:
    """What is known of a search's state, as text by name; what is unknown is left out."""
    scored = f" + {progress.scored:,} scored" if progress.scored else ""
    failed = f", {progress.failed} failed" if progress.failed else ""
    best = ", ".join(f"{name} {format_measure(name, value)}" for name, value in progress.best_under_budget.items())
    facts = {
        "generation": str(progress.generation),
        "evaluations": f"{progress.evaluations:,}{scored}{failed}",
        "front": f"{len(progress.front)} points" if progress.front else "",
        "hypervolume": _number(progress.hypervolume),
        f"best at {progress.budget.replace('_', ' ')}" if progress.budget else "best": best,
        "tau between steps": _interval(progress),
        "time": _duration(progress.seconds),
        "left": _duration(progress.seconds_left),
    }
    return {name: text for name, text in facts.items() if text}


def progress_line(progress: Progress) -> str:
    return " | ".join(f"{name} {text}" for name, text in progress_facts(progress).items())


def _panel(progress: Progress, running: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    for name, text in progress_facts(progress).items():
        table.add_row(name, text)
    if running:
        table.add_row("this round", f"{running} evaluations done")
    if progress.done > 0:
        table.add_row("budget", ProgressBar(total=1.0, completed=min(1.0, progress.done), width=40))
    return table


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def _interval(progress: Progress) -> str:
    if math.isnan(progress.tau):
        return ""
    known = not math.isnan(progress.tau_low) and not math.isnan(progress.tau_high)
    return f"{progress.tau:.2f}" + (f" [{progress.tau_low:.2f}, {progress.tau_high:.2f}]" if known else "")


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
