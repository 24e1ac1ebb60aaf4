"""What a search asks of that which it compresses; one file per kind: of_classifier, of_generators, of_cells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from torch import nn

from evo.algorithm import AnyAlgorithm
from evo.candidates import Evaluation, Request, Scorer, StreamingBackend
from evo.config.schema import Config
from evo.loop.generations import request_for
from evo.loop.observers import SearchObserver
from evo.loop.shared_weights import Trainer
from evo.problem import Problem
from evo.result import Result
from evo.storage.columns import EMPTY, Archive
from evo.storage.run_directory import RunDirectory
from evo.studies.inputs import Given
from search_spaces.plan import CompressionPlan

Sheet = Callable[[Result, Path], None]
Note = Callable[[str], None]
Training = tuple[Trainer | None, Sequence[SearchObserver]]


class Realising(Protocol):
    """An evaluator that also hands out the networks it measured."""

    def at(self, version: int) -> Realising:
        """The one that takes networks from this version of shared weights; 0 means none."""

    def realise(self, plan: CompressionPlan, step: str, seed: int) -> nn.Module:
        """The tuned network of a plan at a step."""


class AnyStudy(Protocol):
    """What every study holds."""

    @property
    def config(self) -> Config: ...
    @property
    def space(self) -> Any: ...
    @property
    def problem(self) -> Problem: ...
    @property
    def baseline(self) -> Mapping[str, float]: ...
    @property
    def evaluator(self) -> Realising: ...


S = TypeVar("S", bound=AnyStudy)


@dataclass(frozen=True)
class Exported:
    """A finished network on its way to a file: what it is, how it was decided, and what its card says of it."""

    module: nn.Module
    plan: CompressionPlan
    step: str
    facts: Mapping[str, Any]
    measures: Mapping[str, float]


@dataclass(frozen=True)
class Subject(ABC, Generic[S]):
    """A study together with what a search does with it."""

    study: S

    @abstractmethod
    def kept(self, run: RunDirectory) -> Subject[S]:
        """Keep in the run directory what a resumed search must find equal; the subject whose networks are kept there."""

    @abstractmethod
    def algorithm(self) -> AnyAlgorithm:
        """The configured algorithm; ValueError for parameters that do not suit it."""

    @abstractmethod
    def backend(self, given: Given, address: str | None) -> StreamingBackend:
        """The workers."""

    def scorers(self, note: Note) -> dict[str, Scorer]:
        """Steps that the driver scores; `note` takes sentences for people."""
        return {}

    def training(self, given: Given, address: str | None) -> Training:
        """Who trains shared weights between rounds, and who keeps their versions; nobody where there are none."""
        return None, ()

    def realised(self, evaluation: Evaluation, archive: Archive = EMPTY) -> nn.Module:
        """The tuned network that was evaluated, from its kept weights where there are any. The archive holds its predecessors."""
        space, seed = self.study.space, self.study.config.seed
        request = request_for(space, seed, evaluation.candidate, evaluation.weights_version, archive)
        return self.evaluator_of(request).realise(request.plan, request.step, request.seed)

    def evaluator_of(self, request: Request) -> Realising:
        """The evaluator from whose weights the network of a request is made."""
        return self.study.evaluator.at(request.weights_version)

    @abstractmethod
    def loadable(self, evaluation: Evaluation, archive: Archive = EMPTY) -> tuple[nn.Module, Any]:
        """A finished network of one input, as a tracker stores it, and an example of that."""

    @abstractmethod
    def measured_baseline(self, step: str) -> dict[str, float] | None:
        """Measures of what is compressed, as it was; None where nothing was trained before the search."""

    @abstractmethod
    def export(self, exported: Exported, out: Path, kind: str, check_data: bool) -> Path:
        """Write files that need none of this project; with `check_data` they answer the validation images, for the card."""

    def pages(self, result: Result) -> dict[str, str]:
        """Further pages about a finished search, by file name."""
        return {}

    @property
    def sheet(self) -> Sheet | None:
        """Draws what the networks of a front make of images; None where that shows nothing."""
        return None
