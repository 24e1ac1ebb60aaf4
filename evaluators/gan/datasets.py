"""Data sets of unpaired translation. Each factory returns `UnpairedImages`; a user's own one does the same."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from evaluators.datasets import digits, mnist
from evaluators.gan.data import UnpairedImages

PARTS = ("trainA", "trainB", "testA", "testB")
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def unpaired_folders(
    root: str, size: int = 256, paired: bool = False, flip: bool = True, pad: int = 0, limit: int = 10_000
) -> UnpairedImages:
    """ROOT/trainA, trainB, testA, testB full of image files, resized to size x size; with paired, sorted names pair the tests.

    At most `limit` images a part are read, into memory as uint8.
    """
    a, b, test_a, test_b = (_decoded(_files(Path(root).expanduser() / part)[:limit], size) for part in PARTS)
    return UnpairedImages(a, b, test_a, test_b, paired, flip, pad)


def unpaired_parquet(
    root: str, size: int = 256, paired: bool = False, flip: bool = True, pad: int = 0, limit: int = 10_000
) -> UnpairedImages:
    """ROOT/trainA.parquet, trainB, testA, testB with a column `image` of encoded image files; otherwise as `unpaired_folders`."""
    files = (Path(root).expanduser() / f"{part}.parquet" for part in PARTS)
    a, b, test_a, test_b = (_decoded(_column(file)[:limit], size) for file in files)
    return UnpairedImages(a, b, test_a, test_b, paired, flip, pad)


def tilted_digits(
    root: str | None = None, size: int = 16, degrees: float = 25.0, train: int = 1200, inverted: bool = True
) -> UnpairedImages:
    """White digits on black (a) and the same turned by `degrees` (b), black on white where `inverted`: paired tests, unpaired
    halves for training. Only chance tells a generator that light is to become dark: inverted, some seeds learn scrambled digits.

    Digits are MNIST's, as torchvision lays them out under `root`, or without one the 8 x 8 digits that ship inside scikit-learn.
    `train` is the number of training images of both domains together; the test split has 200 at most.
    """
    source = digits() if root is None else mnist(root)
    everything, tests = (F.interpolate(p.images.float(), (size, size)) for p in (source.train, source.test))
    chosen, tests = everything[:train], tests[:200]
    half = len(chosen) // 2
    others = [_turned(images, degrees) for images in (chosen[half:], tests)]
    b, tests_b = (_bytes(255 - images if inverted else images) for images in others)
    return UnpairedImages(_bytes(chosen[:half]), b, _bytes(tests), tests_b, paired=True)


def _turned(images: Tensor, degrees: float) -> Tensor:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]]).expand(len(images), 2, 3)
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _bytes(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)


def _files(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS) if folder.is_dir() else []
    if not found:
        raise ValueError(
            f"data.kwargs.root must hold the folders {', '.join(PARTS)} full of images, but got none in {str(folder)!r}; "
            "set it with --set"
        )
    return found


def _column(file: Path) -> Sequence[bytes]:
    try:
        images: Sequence[bytes] = pq.read_table(file, columns=["image"])["image"].to_pylist()
    except (OSError, ValueError, KeyError) as error:  # what pyarrow raises for no file, another file, no such column
        raise ValueError(
            f"data.kwargs.root must hold {', '.join(PARTS)} as Parquet files with a column image, but got {error} for "
            f"{str(file)!r}; set it with --set"
        ) from error
    return images


def _decoded(sources: Iterable[Path | bytes], size: int) -> Tensor:
    return torch.stack([_pixels(source, size) for source in sources])


def _pixels(source: Path | bytes, size: int) -> Tensor:
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            small = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    except OSError as error:
        name = "a row" if isinstance(source, bytes) else str(source)
        raise ValueError(f"every image must be readable, but got {error} for {name}; replace or remove it") from error
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()
