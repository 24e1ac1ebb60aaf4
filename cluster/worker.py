"""What every worker does with a request, in process or on a cluster."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence

from evaluators.protocol import Continuing, Evaluator, EvaluatorFactory, Versioned
from evo.candidates import Outcome, Predecessor, Request, Status


def build(make_evaluator: EvaluatorFactory, threads: int) -> Evaluator:
    with torch_threads(threads):
        return make_evaluator()


def answer(evaluator: Evaluator, request: Request, threads: int, worker: str, or_elsewhere: bool = False) -> Outcome:
    """Never raises for a bad plan: its exception becomes the reason of a failed outcome.

    With `or_elsewhere`, running out of memory raises MemoryError: another process may have enough.
    """
    began = time.perf_counter()
    try:
        with torch_threads(threads):
            versioned = _at(evaluator, request.weights_version)
            measured = _after(versioned, request.lineage).evaluate(request.plan, request.step, request.seed)
        measures = {str(name): float(value) for name, value in measured.items()}
    except Exception as error:
        if or_elsewhere and is_out_of_memory(error):
            raise MemoryError(first_line(error)) from error
        seconds = time.perf_counter() - began
        return Outcome(request.key, Status.FAILED, reason=first_line(error), seconds=seconds, worker=worker)
    return Outcome(request.key, Status.COMPLETED, measures, seconds=time.perf_counter() - began, worker=worker)


def _at(evaluator: Evaluator, version: int) -> Evaluator:
    if not version:
        return evaluator
    if not isinstance(evaluator, Versioned):
        raise TypeError(
            f"an evaluator of shared weights must have the method at, but got {type(evaluator).__name__}; add it"
        )
    return evaluator.at(version)


def _after(evaluator: Evaluator, lineage: Sequence[Predecessor]) -> Evaluator:
    if not lineage:
        return evaluator
    if not isinstance(evaluator, Continuing):
        raise TypeError(
            f"an evaluator that goes on from tuned weights must have the method after, but got {type(evaluator).__name__}; "
            "add it, or let the algorithm name no predecessors"
        )
    return evaluator.after(lineage)


def is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    # Torch has a class for GPUs; for the CPU's memory it only says so.
    on_gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
    return on_gpu or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def first_line(error: BaseException) -> str:
    """`type: first line of the message`."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Run torch with a fixed number of threads, as results may depend on it. Torch itself is not imported for that."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
