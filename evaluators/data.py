"""Images in memory, in three splits: train (tune, calibrate), validation (fitness), test (reported once)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evaluators.boundary import Part
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


class TrainingBatch(NamedTuple):
    """Prepared images with their labels; which images of `train` they are, and in which of finitely many ways each is
    augmented (None: in one that never comes again)."""

    images: Tensor
    labels: Tensor
    which: Tensor
    way: int | None


class Shift(NamedTuple):
    """What augmentation does to each image of a batch: mirrored or not bool (N,), and the corner of its crop int64 (N,)."""

    mirrored: Tensor
    top: Tensor
    left: Tensor


@dataclass(frozen=True)
class ImageData:
    """What a data factory returns. mean and std (per channel, of images scaled to 0..1) apply to uint8 images only.

    Augmentation while tuning: random horizontal `flip`, and random crops after zero padding by `pad` pixels.
    inputs: where a sample is several tensors, those of a row of `images` (N, elements), see `evaluators.boundary.joined`.
    """

    train: Images
    test: Images
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    flip: bool = False
    pad: int = 0
    inputs: tuple[Part, ...] = ()


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
        return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images.contiguous()

    def preprocessing(self) -> dict[str, Any]:
        """How the bytes of an image become the values that `prepare` gives the network."""
        if self.train.images.dtype != torch.uint8:
            return {"values": "as the data set gives them"}
        channels = self.train.images.shape[1]
        mean, std = self.form.mean or (0.0,) * channels, self.form.std or (1.0,) * channels
        return {"values": "(byte / 255 - mean) / std", "mean": list(mean), "std": list(std)}

    def batches(self, split: Images, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in order, as it is."""
        for start in range(0, len(split), size):
            yield (
                self.prepare(split.images[start : start + size], device),
                split.labels[start : start + size].to(device),
            )

    def training_batches(
        self, size: int, epochs: float, seed: int, device: torch.device, ways: int = 0
    ) -> Iterator[TrainingBatch]:
        """Shuffled, augmented batches of `train` for so many epochs; order and augmentation depend on the seed alone.

        With `ways`, every image is only augmented in so many ways, one an epoch in turns, and these are the same for every seed.
        """
        for step in range(max(1, round(epochs * max(1, len(self.train) // size)))):
            yield self.training_batch(size, seed, step, device, ways)

    def training_batch(self, size: int, seed: int, step: int, device: torch.device, ways: int = 0) -> TrainingBatch:
        """The batch of one step: a function of seed and step."""
        epoch, at = divmod(step, max(1, len(self.train) // size))
        order = torch.from_numpy(stream(seed, "order", epoch).permutation(len(self.train)))
        index = order[at * size : (at + 1) * size]
        way = epoch % ways if ways else None
        images = (
            self._augmented(index, stream(seed, "augment", step), device)
            if way is None
            else self.seen(index, way, device)
        )
        return TrainingBatch(images, self.train.labels[index].to(device), index, way)

    def seen(self, index: Tensor, way: int, device: torch.device) -> Tensor:
        """Training images augmented in one of the ways of `training_batches`, prepared."""
        shift = _draw(self.form, stream(0, "way", way), len(self.train))
        chosen = Shift(*(part[index] for part in shift))
        return self.prepare(_augment(self.train.images[index].to(device), self.form, chosen), device)

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
        shift = _draw(self.form, rng, len(index))
        return self.prepare(_augment(self.train.images[index].to(device), self.form, shift), device)


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


def _draw(form: ImageData, rng: np.random.Generator, count: int) -> Shift:
    mirrored = rng.random(count) < 0.5 if form.flip else np.zeros(count, dtype=bool)
    corners = rng.integers(0, 2 * form.pad + 1, (2, count)) if form.pad else np.zeros((2, count), dtype=np.int64)
    return Shift(torch.from_numpy(mirrored), *torch.from_numpy(corners))


def _augment(batch: Tensor, form: ImageData, shift: Shift) -> Tensor:
    if form.flip:
        batch = torch.where(shift.mirrored.to(batch.device).view(-1, 1, 1, 1), batch.flip(3), batch)
    return _crops(batch, form.pad, shift) if form.pad else batch


def _crops(batch: Tensor, pad: int, shift: Shift) -> Tensor:
    """Each image shifted by up to `pad` pixels each way, zeros coming in."""
    n, _, height, width = batch.shape
    padded = F.pad(batch, (pad,) * 4)
    top, left = shift.top.to(batch.device), shift.left.to(batch.device)
    rows = (top[:, None] + torch.arange(height, device=batch.device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width, device=batch.device))[:, None, None, :]
    channels = torch.arange(batch.shape[1], device=batch.device)[None, :, None, None]
    index = torch.arange(n, device=batch.device)[:, None, None, None]
    return padded[index, channels, rows, columns].contiguous(memory_format=torch.channels_last)
