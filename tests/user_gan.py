"""A generator and a discriminator as a user writes them: another norm, another shape, scores of whole images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Generator(nn.Module):
    """Two convolutions with batch normalisation, one of them besides what it reads, and a head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.LeakyReLU(0.1))
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Conv2d(2 * width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return torch.tanh(x + self.head(torch.cat([first, self.second(first)], dim=1)))


class Judge(nn.Module):
    """One score per image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(1))
        self.score = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.score(self.body(x).flatten(1))
        return scores


def generator(width: int) -> nn.Module:
    return Generator(width)


def judge() -> nn.Module:
    return Judge()
