"""Images in memory, in three splits: train (tune, calibrate), validation (fitness), test (reported once)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evo.randomness import stream


@dataclass(frozen=True)
class Images:
    """images (N, C, H, W), uint8 0..255 or already normalised float32; labels int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, count: int) -> Images:
        return Images(self.images[:count], self.labels[:count])

    def take(self, index: Tensor) -> Images:
        return Images(self.images[index], self.labels[index])


@dataclass(frozen=True)
class ImageData:
    """What a data factory returns. mean and std (per channel, of images scaled to 0..1) apply to uint8 images only.

    Augmentation while tuning: random horizontal `flip`, and random crops after zero padding by `pad` pixels.
    """

    train: Images
    test: Images
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    flip: bool = False
    pad: int = 0


@dataclass(frozen=True)
class Splits:
    """The three splits and how to feed them. Nothing of the search may look at `test`."""

    train: Images
    validation: Images
    test: Images
    form: ImageData

    def prepare(self, images: Tensor, device: torch.device) -> Tensor:
        """Normalised float32 images on the device, channels last."""
        images = images.to(device)
        if images.dtype == torch.uint8:
            images = images.float() / 255
            if self.form.mean:
                shape = (1, -1, 1, 1)
                mean, std = torch.tensor(self.form.mean, device=device), torch.tensor(self.form.std, device=device)
                images = (images - mean.view(shape)) / std.view(shape)
        return images.contiguous(memory_format=torch.channels_last)

    def batches(self, split: Images, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in order, as it is."""
        for start in range(0, len(split), size):
            yield (
                self.prepare(split.images[start : start + size], device),
                split.labels[start : start + size].to(device),
            )

    def training_batches(
        self, size: int, epochs: float, seed: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled, augmented batches of `train` for so many epochs; order and augmentation depend on the seed alone."""
        per_epoch = max(1, len(self.train) // size)
        for step in range(max(1, round(epochs * per_epoch))):
            epoch, at = divmod(step, per_epoch)
            order = torch.from_numpy(stream(seed, "order", epoch).permutation(len(self.train)))
            index = order[at * size : (at + 1) * size]
            yield self._augmented(index, stream(seed, "augment", step), device), self.train.labels[index].to(device)

    def calibration_batches(self, images: int, size: int, device: torch.device) -> Iterator[Tensor]:
        """The first so many training images (0: all), augmented as in training: always the same ones.

        Statistics of plain images differ from those that the network was trained under where crops bring in borders:
        with these a pretrained ResNet-20 loses next to nothing (tests/test_real_network.py).
        """
        total = min(images or len(self.train), len(self.train))
        for start in range(0, total, size):
            index = torch.arange(start, min(start + size, total))
            yield self._augmented(index, stream(0, "calibration", start), device)

    def _augmented(self, index: Tensor, rng: np.random.Generator, device: torch.device) -> Tensor:
        """Augmented before it is normalised, so that borders are black and not grey."""
        return self.prepare(self._augment(self.train.images[index].to(device), rng), device)

    def _augment(self, batch: Tensor, rng: np.random.Generator) -> Tensor:
        if self.form.flip:
            mirrored = torch.from_numpy(rng.random(len(batch)) < 0.5).to(batch.device)
            batch = torch.where(mirrored.view(-1, 1, 1, 1), batch.flip(3), batch)
        if self.form.pad:
            batch = _crops(batch, self.form.pad, rng)
        return batch


def split(data: ImageData, validation: int, seed: int) -> Splits:
    """Hold out `validation` training images at random (by seed alone) for the search's fitness."""
    total = len(data.train)
    if not 0 < validation < total:
        raise ValueError(
            f"the validation split must leave training images: 0 < validation < {total}, "
            f"but got validation={validation}; change data.validation"
        )
    order = torch.from_numpy(stream(seed, "validation split").permutation(total))
    return Splits(data.train.take(order[validation:]), data.train.take(order[:validation]), data.test, data)


def limited(data: ImageData, train: int | None, test: int | None) -> ImageData:
    """The same data with at most so many training and test images."""
    return replace(
        data,
        train=data.train if train is None else data.train.head(train),
        test=data.test if test is None else data.test.head(test),
    )


def _crops(batch: Tensor, pad: int, rng: np.random.Generator) -> Tensor:
    """Each image shifted by up to `pad` pixels each way, zeros coming in."""
    n, _, height, width = batch.shape
    padded = F.pad(batch, (pad,) * 4)
    top, left = (torch.from_numpy(rng.integers(0, 2 * pad + 1, n)).to(batch.device) for _ in range(2))
    rows = (top[:, None] + torch.arange(height, device=batch.device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width, device=batch.device))[:, None, None, :]
    channels = torch.arange(batch.shape[1], device=batch.device)[None, :, None, None]
    index = torch.arange(n, device=batch.device)[:, None, None, None]
    return padded[index, channels, rows, columns].contiguous(memory_format=torch.channels_last)
