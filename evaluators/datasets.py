"""Data sets that come with a factory. Each returns `ImageData`; a user's own factory does the same or returns two data sets."""

from __future__ import annotations

from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluators.boundary import Part, joined
from evaluators.data import ImageData, Images

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def digits(test: int = 360) -> ImageData:
    """1,797 handwritten digits of 8 x 8 pixels that ship inside scikit-learn; the last `test` images are the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    images, labels = torch.from_numpy(pixels), torch.from_numpy(bunch.target.astype(np.int64))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    everything = Images(images[order], labels[order])
    count = len(everything) - test
    rest = torch.arange(count, len(everything))
    return ImageData(everything.head(count), everything.take(rest), mean=(0.3,), std=(0.37,), pad=1)


def cifar10(root: str, download: bool = False) -> ImageData:
    """CIFAR-10 through torchvision: 50,000 and 10,000 colour images of 32 x 32."""
    return _torchvision("CIFAR10", root, download, IMAGENET_MEAN, IMAGENET_STD, flip=True, pad=4)


def cifar100(root: str, download: bool = False) -> ImageData:
    """CIFAR-100 through torchvision: 50,000 and 10,000 colour images of 32 x 32."""
    return _torchvision("CIFAR100", root, download, IMAGENET_MEAN, IMAGENET_STD, flip=True, pad=4)


def mnist(root: str, download: bool = False) -> ImageData:
    """MNIST through torchvision: 60,000 and 10,000 grey digits of 28 x 28."""
    return _torchvision("MNIST", root, download, (0.1307,), (0.3081,), flip=False, pad=2)


def fashion_mnist(root: str, download: bool = False) -> ImageData:
    """Fashion-MNIST through torchvision: 60,000 and 10,000 grey images of 28 x 28."""
    return _torchvision("FashionMNIST", root, download, (0.2860,), (0.3530,), flip=True, pad=2)


def image_folder(root: str, size: int = 224, train: str = "train", test: str = "val", limit: int = 20_000) -> ImageData:
    """ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg, resized and centre-cropped to size x size, held in memory as uint8.

    At most `limit` images per split are read, evenly over the classes' order; 20,000 of 224 x 224 take 3 GB.
    """
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.v2 import CenterCrop, Compose, PILToTensor, Resize

    transform = Compose([Resize(size + size // 7), CenterCrop(size), PILToTensor()])

    def read(part: str) -> Images:
        folder = _existing(Path(root) / part, "a folder with one sub-folder of images per class")
        try:
            dataset = ImageFolder(str(folder), transform=transform)
        except FileNotFoundError as error:
            raise ValueError(
                f"{folder} must hold one sub-folder of images per class, but got none; check data.kwargs.root"
            ) from error
        index = np.linspace(0, len(dataset) - 1, min(limit, len(dataset))).astype(int)
        return stacked(dataset, index.tolist())

    return ImageData(read(train), read(test), IMAGENET_MEAN, IMAGENET_STD, flip=True)


def stacked(dataset: Any, index: list[int]) -> Images:
    """Items (image tensor, label) of a map-style data set as two tensors."""
    try:
        items = [dataset[i] for i in index]
    except OSError as error:  # an image file that cannot be read
        raise ValueError(
            f"every image of a data set must be readable, but got {error}; replace or remove it"
        ) from error
    shapes = {tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__ for image, _ in items}
    if len(shapes) != 1 or not all(isinstance(shape, tuple) and len(shape) == 3 for shape in shapes):
        found = ", ".join(sorted(map(str, shapes))[:3]) or "nothing"
        raise ValueError(
            "a data set must yield (image tensor, label) with images (C, H, W) all of one size, "
            f"but got {found}; add a transform to it"
        )
    return Images(torch.stack([image for image, _ in items]), torch.tensor([int(label) for _, label in items]))


def _rows(dataset: Any) -> tuple[Images, tuple[Part, ...]]:
    """Items (inputs, label) of a map-style data set, where inputs are several tensors."""
    items = [dataset[i] for i in range(len(dataset))]
    rows, parts = joined([inputs for inputs, _ in items])
    return Images(rows, torch.tensor([int(label) for _, label in items])), parts


def _several(train: Any, test: Any) -> ImageData:
    (rows, parts), (others, test_parts) = _rows(train), _rows(test)
    if parts != test_parts:
        raise ValueError(
            f"both data sets must have the same inputs, {parts}, but got {test_parts} for the test; correct them"
        )
    return ImageData(rows, others, inputs=parts)


def from_factory(made: Any) -> ImageData:
    """`ImageData`, or a pair (train, test) of map-style data sets of normalised image tensors, or of several tensors a sample (in
    a tuple, list, or dict by the names of the model's arguments)."""
    if isinstance(made, ImageData):
        return made
    if isinstance(made, tuple) and len(made) == 2 and all(isinstance(part, Sized) for part in made):
        train, test = made
        if len(train) and isinstance(train[0][0], tuple | list | dict):
            return _several(train, test)
        return ImageData(stacked(train, list(range(len(train)))), stacked(test, list(range(len(test)))))
    raise ValueError(
        "a data factory must return evaluators.data.ImageData or a pair (train, test) of map-style data sets, "
        f"but got {type(made).__name__}; change it"
    )


def _torchvision(
    name: str, root: str, download: bool, mean: tuple[float, ...], std: tuple[float, ...], flip: bool, pad: int
) -> ImageData:
    from torchvision import datasets

    factory: Callable[..., Any] = getattr(datasets, name)
    folder = Path(root).expanduser()
    if not download:
        _existing(folder, f"the {name} data set as torchvision lays it out (or set data.kwargs.download=true)")
    try:
        train, test = (factory(str(folder), train=part, download=download) for part in (True, False))
    except RuntimeError as error:
        raise ValueError(
            f"{folder} must hold the {name} data set, but got none there; set data.kwargs.root, or data.kwargs.download=true"
        ) from error
    return ImageData(_pixels(train), _pixels(test), mean, std, flip, pad)


def _pixels(dataset: Any) -> Images:
    data = torch.as_tensor(dataset.data)
    images = data[:, None] if data.dim() == 3 else data.permute(0, 3, 1, 2)
    return Images(images.contiguous(), torch.as_tensor(dataset.targets, dtype=torch.int64))


def _existing(folder: Path, meaning: str) -> Path:
    if not folder.is_dir() or not any(folder.iterdir()):
        raise ValueError(
            f"data.kwargs.root must name {meaning}, but got root={str(folder)!r}, which is missing or empty; set it with --set"
        )
    return folder
