"""What a tuned network is compared with: the uncompressed one's logits, and what it computes on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.channels import Trace
from evaluators.compose import kept_rows, kept_units
from evaluators.data import Splits, TrainingBatch
from evaluators.saliency import Ranking
from search_spaces.plan import CompressionPlan

ANSWER_BATCH = 256


@dataclass(frozen=True)
class Match:
    """A module that teacher and student both have, and the teacher's channels that the student kept in its output."""

    module: str
    channels: tuple[int, ...]
    of: int


def matches(trace: Trace, ranking: Ranking, plan: CompressionPlan) -> tuple[Match, ...]:
    """Where to compare: outputs of residual blocks; of all layers but the last where a network has no blocks."""
    network, kept = trace.network, kept_units(ranking, plan)
    ends = [(block.name, block.layers[-1]) for block in network.blocks]
    ends = ends or [(layer.name, layer.name) for layer in network.layers[:-1]]
    sizes = {layer.name: layer.out_channels for layer in network.layers}
    return tuple(Match(module, tuple(kept_rows(trace, layer, kept)), sizes[layer]) for module, layer in ends)


@contextmanager
def outputs_of(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The output of each named submodule in the latest forward pass, by name."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        return model.get_submodule(name).register_forward_hook(lambda _, __, output: seen.__setitem__(name, output))

    handles = [keep(name) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def soft_target_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the softened predictions, mean over the batch (Hinton et al. 2015)."""
    t = temperature
    soft = F.kl_div((logits / t).log_softmax(1), (teacher / t).log_softmax(1), reduction="batchmean", log_target=True)
    return t * t * soft


def feature_loss(student: Tensor, teacher: Tensor, match: Match) -> Tensor:
    """Half the squared distance of what a module gives, relative to the teacher's size (Romero et al. 2015, eq. 3).

    There a learned regressor joins different widths; here the student's channels are known ones of the teacher.
    """
    wanted = teacher.index_select(channel_dim(teacher, match), torch.tensor(match.channels, device=teacher.device))
    return 0.5 * (student - wanted).square().sum() / wanted.square().sum().clamp_min(torch.finfo(wanted.dtype).tiny)


def attention_loss(student: Tensor, teacher: Tensor, match: Match) -> Tensor:
    """Half the squared distance of normalised attention maps, mean over the batch (Zagoruyko and Komodakis 2017, eq. 2).

    A map is the sum of squares over channels at every place, so widths may differ. The paper's distance is not squared,
    its authors' code squares it and averages over places; summed over places as here, a weight of 1 is a sizeable one.
    """
    dim = channel_dim(teacher, match)
    ours, theirs = (F.normalize(each.square().sum(dim).flatten(1)) for each in (student, teacher))
    return 0.5 * (ours - theirs).square().sum(1).mean()


def channel_dim(teacher: Tensor, match: Match) -> int:
    """Channels come second in maps (N, C, H, W), and last in tokens (N, T, C) and maps (N, H, W, C)."""
    dim = 1 if teacher.dim() == 4 and teacher.shape[1] == match.of else teacher.dim() - 1
    if teacher.shape[dim] != match.of:
        raise ValueError(
            f"{match.module} must give {match.of} channels to be compared, but got shape={tuple(teacher.shape)}; "
            "set tune.features and tune.attention to 0"
        )
    return dim


def between(
    weights: Mapping[str, float], student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], places: Sequence[Match]
) -> Tensor:
    """The weighted losses between the outputs of all matching modules, mean over the modules."""
    losses = {"features": feature_loss, "attention": attention_loss}
    terms = [
        weight * losses[name](student[match.module], teacher[match.module], match)
        for name, weight in weights.items()
        for match in places
        if weight
    ]
    return torch.stack(terms).sum() / len(places)


@dataclass
class TeacherAnswers:
    """The teacher's logits for training batches; those of images augmented in finitely many ways are asked for once.

    All images of a way are asked in one fixed order, so that an answer never depends on what was asked before. Holds
    ways x images x classes float32 numbers.
    """

    teacher: nn.Module
    splits: Splits
    device: torch.device
    known: dict[int, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, batch: TrainingBatch) -> Tensor:
        if batch.way is None:
            found: Tensor = self.teacher(batch.images)
            return found
        if batch.way not in self.known:
            chunks = torch.arange(len(self.splits.train)).split(ANSWER_BATCH)
            asked = [self.teacher(self.splits.seen(chunk, batch.way, self.device)) for chunk in chunks]
            self.known[batch.way] = torch.cat(asked)
        return self.known[batch.way][batch.which.to(self.device)]
