"""Networks that the tests of search_spaces and evaluators share: real ones, and small ones with one awkward trait each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, nn

from evaluators.channels import Trace
from evaluators.describe import trace
from evaluators.models.cifar_resnet import resnet8, resnet20
from evaluators.models.small import digits_cnn
from evaluators.saliency import Ranking, l1, rank
from search_spaces.network import Network

NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "resnet8": (resnet8, (3, 32, 32)),
    "resnet20": (resnet20, (3, 32, 32)),
    "digits_cnn": (digits_cnn, (1, 8, 8)),
    "resnet18": (tv.resnet18, (3, 64, 64)),
    "mobilenet_v2": (tv.mobilenet_v2, (3, 64, 64)),
    "densenet121": (tv.densenet121, (3, 64, 64)),
    "shufflenet": (tv.shufflenet_v2_x0_5, (3, 64, 64)),
    "googlenet": (lambda: tv.googlenet(init_weights=False, aux_logits=False), (3, 64, 64)),
}


@dataclass(frozen=True)
class Known:
    """A network as a search sees it, ranked by L1 norms, which need no statistics."""

    model: nn.Module
    example: Tensor
    trace: Trace
    ranking: Ranking

    @property
    def network(self) -> Network:
        return self.trace.network


def known(model: nn.Module, shape: tuple[int, ...]) -> Known:
    example = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    traced = trace(model, example)
    return Known(model, example, traced, rank(traced, model, {}, {"l1": l1}))


@cache
def named(name: str) -> Known:
    """A network of the table in eval mode, with batch-norm statistics and biases that do something. Tests must not change it."""
    factory, shape = NETS[name]
    torch.manual_seed(0)
    model = factory().eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, 0.0, 0.1)
            nn.init.normal_(norm.bias, 0.0, 0.1)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    return known(model, shape)


class Branches(nn.Module):
    """Functional operations, one convolution called twice, and a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.shared = nn.Conv2d(12, 12, 3, padding=1)
        self.narrow = nn.Conv2d(12, 16, 1)
        self.side = nn.Linear(16, 4)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        x = torch.relu(self.stem(x))
        x = F.max_pool2d(F.silu(self.shared(F.silu(self.shared(x)))), 2)
        pooled = self.narrow(x).mean((2, 3))
        both = torch.cat([pooled.clamp(min=0), -pooled], dim=1)
        return {"logits": self.head(both), "more": [self.side(pooled.tanh())]}


class Borrowed(nn.Module):
    """Uses the weight of a layer outside that layer, where nothing can stand in for it."""

    def __init__(self) -> None:
        super().__init__()
        self.lent = nn.Conv2d(3, 8, 3)
        self.middle = nn.Conv2d(8, 8, 3)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(F.conv2d(x, self.lent.weight)).relu()).mean((2, 3))


class Halves(nn.Module):
    """Cuts the channels in two halves by their number: right as long as both producers lose equally many."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 16, 1), nn.Conv2d(3, 16, 1)
        self.of_left, self.of_right = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.cat([self.left(x), self.right(x)], dim=1).relu().chunk(2, dim=1)
        return (self.of_left(left) - self.of_right(right)).mean((2, 3))


class WrittenSize(nn.Module):
    """A channel number written into the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1)
        self.second = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu().view(len(x), 16, -1)
        return self.head(self.second(y.unsqueeze(3)).relu().mean((2, 3)))
