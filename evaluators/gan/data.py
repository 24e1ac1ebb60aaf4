"""Images of two domains that nothing pairs, in three splits each; the test split may be paired, to measure against the truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluators.data import ImageData, Images, Splits, split
from evo.randomness import derived_seed

HALF = (0.5, 0.5, 0.5)  # mean and deviation that bring 0..1 to -1..1


@dataclass(frozen=True)
class UnpairedImages:
    """What a data factory of a translation returns: uint8 images (N, C, H, W) of both domains, all of one shape.

    paired: test_a[i] and test_b[i] show the same thing. `flip` and `pad` augment the training images as in `ImageData`.
    """

    train_a: Tensor
    train_b: Tensor
    test_a: Tensor
    test_b: Tensor
    paired: bool = False
    flip: bool = False
    pad: int = 0


@dataclass(frozen=True)
class UnpairedSplits:
    """The splits of both domains. Nothing of the search may look at the test splits."""

    a: Splits
    b: Splits
    paired: bool

    @property
    def channels(self) -> int:
        return int(self.a.train.images.shape[1])

    def prepare(self, images: Tensor, device: torch.device) -> Tensor:
        """Float32 images in -1..1 on the device."""
        return self.a.prepare(images, device)

    def example(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """One sample of each domain."""
        return self.prepare(self.a.train.images[:1], device), self.prepare(self.b.train.images[:1], device)

    def steps_per_epoch(self, batch: int) -> int:
        """An epoch ends when the larger domain has been seen once."""
        return max(1, max(len(self.a.train), len(self.b.train)) // batch)

    def training_batch(self, batch: int, seed: int, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The batch of a step, augmented: a function of seed and step alone."""
        a = self.a.training_batch(batch, derived_seed(seed, "domain a"), step, device)
        b = self.b.training_batch(batch, derived_seed(seed, "domain b"), step, device)
        return a.images, b.images

    def calibration_batches(self, images: int, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of batches of the first so many training images of both domains (0: all of the smaller one)."""
        both = zip(
            self.a.calibration_batches(images, size, device),
            self.b.calibration_batches(images, size, device),
            strict=False,
        )
        for a, b in both:
            count = min(len(a), len(b))
            yield a[:count], b[:count]


def unpaired_splits(data: UnpairedImages, validation: int, seed: int) -> UnpairedSplits:
    """Hold out `validation` training images of each domain (by seed alone) for the search's fitness.

    Raises ValueError where shapes differ, a split is empty or a paired test split has not as many images on both sides.
    """
    shapes = {tuple(part.shape[1:]) for part in (data.train_a, data.train_b, data.test_a, data.test_b)}
    if len(shapes) != 1:
        raise ValueError(f"all images of both domains must have one shape, but got {sorted(shapes)}; resize them")
    if data.paired and len(data.test_a) != len(data.test_b):
        raise ValueError(
            "a paired test split must have as many images of both domains, but got "
            f"{len(data.test_a)} and {len(data.test_b)}; pair them or say paired=false"
        )
    return UnpairedSplits(
        split(_domain(data, data.train_a, data.test_a), validation, derived_seed(seed, "domain a")),
        split(_domain(data, data.train_b, data.test_b), validation, derived_seed(seed, "domain b")),
        data.paired,
    )


def _domain(data: UnpairedImages, train: Tensor, test: Tensor) -> ImageData:
    channels = train.shape[1]
    return ImageData(_images(train), _images(test), HALF[:channels], HALF[:channels], data.flip, data.pad)


def _images(pixels: Tensor) -> Images:
    return Images(pixels, torch.zeros(len(pixels), dtype=torch.int64))
