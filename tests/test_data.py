"""Splits, augmentation and factories of data: a function of the seed alone, and one sentence for every fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from evaluators.data import ImageData, Images, limited, split
from evaluators.datasets import cifar10, digits, from_factory, image_folder, mnist

CPU = torch.device("cpu")


def numbered(n: int = 40, **form: object) -> ImageData:
    """Image i is everywhere i, so that it can be recognised after any shuffling."""
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 2, 6, 6).contiguous()
    whole = Images(images, torch.arange(n))
    return ImageData(whole, Images(images[:4] + 100, torch.arange(4)), **form)  # type: ignore[arg-type]


def test_splits_are_disjoint_complete_and_depend_on_the_seed_alone() -> None:
    first, again, other = split(numbered(), 10, 1), split(numbered(), 10, 1), split(numbered(), 10, 2)
    train, validation = set(first.train.labels.tolist()), set(first.validation.labels.tolist())
    assert len(train) == 30 and len(validation) == 10 and train | validation == set(range(40))
    assert torch.equal(first.validation.labels, again.validation.labels)
    assert not torch.equal(first.validation.labels, other.validation.labels)
    assert torch.equal(first.train.images[:, 0, 0, 0].long(), first.train.labels)


@pytest.mark.parametrize("validation", [0, 40, -3])
def test_a_split_must_leave_images_on_both_sides(validation: int) -> None:
    with pytest.raises(ValueError, match=f"0 < validation < 40, but got validation={validation}"):
        split(numbered(), validation, 0)


def test_every_epoch_shows_every_image_once() -> None:
    splits = split(numbered(), 10, 0)
    batches = [labels.tolist() for _, labels, *_ in splits.training_batches(6, 2, 0, CPU)]
    assert [len(batch) for batch in batches] == [6] * 10
    first, second = ([label for batch in batches[i : i + 5] for label in batch] for i in (0, 5))
    assert sorted(first) == sorted(second) == sorted(splits.train.labels.tolist()) and first != second


def test_augmentation_depends_on_seed_and_step_alone() -> None:
    splits = split(digits(), 200, 0)
    once, again = (list(splits.training_batches(32, 0.2, 7, CPU)) for _ in range(2))
    longer = list(splits.training_batches(32, 0.5, 7, CPU))
    other = list(splits.training_batches(32, 0.2, 8, CPU))
    for (a, x, *_), (b, y, *_), (c, z, *_) in zip(once, again, longer[: len(once)], strict=True):
        assert torch.equal(a, b) and torch.equal(x, y) and torch.equal(a, c) and torch.equal(x, z)
    assert not torch.equal(once[0][0], other[0][0])


def test_flips_and_crops_are_flips_and_crops() -> None:
    picture = torch.arange(36, dtype=torch.float32).view(1, 1, 6, 6) + 1
    data = ImageData(
        Images(picture.expand(400, 1, 6, 6), torch.zeros(400)), Images(picture, torch.zeros(1)), flip=True, pad=1
    )
    ((batch, *_),) = split(data, 100, 0).training_batches(300, 1, 0, CPU)
    padded = torch.nn.functional.pad(torch.cat([picture, picture.flip(3)]), (1, 1, 1, 1))
    possible = {
        padded[f, :, t : t + 6, s : s + 6].flatten().int().numpy().tobytes()
        for f in range(2)
        for t in range(3)
        for s in range(3)
    }
    seen = {image.flatten().int().numpy().tobytes() for image in batch}
    assert seen == possible


def test_only_bytes_are_normalised() -> None:
    splits = split(numbered(mean=(0.5, 0.25), std=(0.5, 0.1)), 10, 0)
    found = splits.prepare(torch.full((1, 2, 6, 6), 51, dtype=torch.uint8), CPU)
    assert found[0, :, 0, 0].tolist() == pytest.approx([(0.2 - 0.5) / 0.5, (0.2 - 0.25) / 0.1])
    ready = torch.randn(1, 2, 6, 6)
    assert torch.equal(splits.prepare(ready, CPU), ready)
    shown = torch.cat([labels for _, labels in splits.batches(splits.validation, 3, CPU)])
    assert torch.equal(shown, splits.validation.labels)


def test_digits_are_the_real_ones() -> None:
    data = digits()
    assert len(data.train) + len(data.test) == 1797 and data.train.images.shape[1:] == (1, 8, 8)
    assert data.train.images.max() == 255 and sorted(set(data.test.labels.tolist())) == list(range(10))
    small = limited(data, 100, None)
    assert (len(small.train), len(small.test)) == (100, len(data.test))


def test_a_pair_of_data_sets_will_do() -> None:
    train = TensorDataset(torch.randn(6, 3, 4, 4), torch.arange(6))
    data = from_factory((train, TensorDataset(torch.randn(2, 3, 4, 4), torch.arange(2))))
    assert torch.equal(data.train.images, train.tensors[0]) and data.train.labels.tolist() == list(range(6))
    assert from_factory(data) is data


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (None, "must return evaluators.data.ImageData"),
        (([("no tensor", 1)], []), "must yield .* but got str"),
        (([(torch.zeros(4), 1)], []), r"must yield .* but got \(4,\)"),
        (([], [(torch.zeros(1, 4, 4), 1)]), "must yield .* but got nothing"),
        (([(torch.zeros(1, 4, 4), 1), (torch.zeros(1, 5, 4), 1)], []), r"one size, but got \(1, 4, 4\), \(1, 5, 4\)"),
        ((iter([1]), iter([1])), "map-style"),
    ],
)
def test_odd_data_gets_one_sentence(made: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        from_factory(made)
    assert "\n" not in str(caught.value)


def pictures(root: Path) -> None:
    from PIL import Image

    for part, count in (("train", 6), ("val", 2)):
        for label, colour in enumerate((40, 200)):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.full((20 + i, 30, 3), colour, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")


def test_image_folders(tmp_path: Path) -> None:
    pictures(tmp_path)
    data = image_folder(str(tmp_path), size=16, limit=8)
    assert data.train.images.shape == (8, 3, 16, 16) and data.train.images.dtype == torch.uint8
    assert data.train.labels.tolist().count(0) == 4 and len(data.test) == 4
    for label, colour in enumerate((40, 200)):
        assert (data.train.images[data.train.labels == label] == colour).all()


@pytest.mark.parametrize("factory", [cifar10, mnist, image_folder])
def test_bad_roots_get_one_sentence(tmp_path: Path, factory: object) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readme.txt").write_text("nothing here")
    for root in ("missing", "empty", "other"):
        with pytest.raises(ValueError, match=r"but got") as caught:
            factory(str(tmp_path / root))  # type: ignore[operator]
        assert "\n" not in str(caught.value) and root in str(caught.value)


def test_a_class_folder_without_images_gets_one_sentence(tmp_path: Path) -> None:
    pictures(tmp_path)
    for image in (tmp_path / "val" / "class1").iterdir():
        image.unlink()
    with pytest.raises(ValueError, match="must hold one sub-folder of images per class"):
        image_folder(str(tmp_path), size=16)


def test_an_unreadable_image_gets_one_sentence(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "train" / "class0" / "0.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"must be readable, but got .*0\.png"):
        image_folder(str(tmp_path), size=16)
