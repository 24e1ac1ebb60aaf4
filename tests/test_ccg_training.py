"""CycleGAN training: losses against the formulas, replayed images, a stop in the middle, and metrics against scikit-image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from evaluators.gan.baseline import UNFINISHED, has_baseline, load_baseline, new_networks, train_baseline
from evaluators.gan.data import UnpairedImages, UnpairedSplits, unpaired_splits
from evaluators.gan.datasets import tilted_digits, unpaired_folders, unpaired_parquet
from evaluators.gan.metrics import l1, psnr, ssim
from evaluators.gan.networks import Discriminators, GeneratorPair, patch_discriminator, resnet_generator
from evaluators.gan.replay import Replay
from evaluators.gan.training import Recipe, Training, decay, discriminator_loss, generator_loss

CPU = torch.device("cpu")
RECIPE = Recipe(batch=4, lr=1e-3, replay=6)


def splits() -> UnpairedSplits:
    return unpaired_splits(tilted_digits(size=12, train=160), 8, 0)


def networks(seed: int = 0) -> tuple[GeneratorPair, Discriminators]:
    makers = (lambda: resnet_generator(1, 2, 1), lambda: patch_discriminator(1, 4, 1))
    return new_networks(makers, seed)


class Scaled(nn.Module):
    """As a generator or as a judge: times a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_losses_are_those_of_the_formulas() -> None:
    """a_to_b doubles, b_to_a is times 3, judges are times 0.5 and 0.25; a is all 0.1 and b all 0.2."""
    pair = GeneratorPair(Scaled(2.0), Scaled(3.0))
    judges = Discriminators(Scaled(0.5), Scaled(0.25))
    a, b = torch.full((2, 1, 4, 4), 0.1), torch.full((2, 1, 4, 4), 0.2)
    found = generator_loss(pair, judges, a, b, Recipe(cycle=10.0, identity=5.0))
    adversarial = (0.25 * 0.2 - 1) ** 2 + (0.5 * 0.6 - 1) ** 2
    cycle = abs(0.1 * 6 - 0.1) + abs(0.2 * 6 - 0.2)
    identity = abs(0.1 * 3 - 0.1) + abs(0.2 * 2 - 0.2)
    assert found.generators.item() == pytest.approx(adversarial + 10 * cycle + 5 * identity, rel=1e-5)
    told = discriminator_loss(judges.b, b, found.fake_b)
    assert told.item() == pytest.approx(0.5 * ((0.25 * 0.2 - 1) ** 2 + (0.25 * 0.2) ** 2), rel=1e-5)


def test_the_learning_rate_is_constant_and_then_falls_to_nothing() -> None:
    rates = [decay(step, 100, 0.5) for step in range(100)]
    assert rates[:51] == [1.0] * 51
    np.testing.assert_allclose(np.diff(rates[50:]), -0.02)
    assert rates[-1] == pytest.approx(0.02)


def test_half_of_what_discriminators_see_is_replayed_once_enough_is_kept() -> None:
    replay = Replay(20, seed=3)
    new = [torch.full((1, 1, 1, 1), float(i)) for i in range(2000)]
    shown = [float(replay.exchanged(image, i)) for i, image in enumerate(new)]
    assert shown[:20] == list(range(20))
    old = sum(value < i for i, value in enumerate(shown[20:], start=20))
    assert 0.45 < old / 1980 < 0.55
    assert len(replay.images) == 20 and len({float(image) for image in replay.images}) == 20


def test_discriminators_and_generators_both_learn() -> None:
    data, (pair, judges) = splits(), networks()
    a, b = data.training_batch(16, 9, 0, CPU)
    before = generator_loss(pair, judges, a, b, RECIPE)
    kept = [p.detach().clone() for p in judges.parameters()]
    Training(pair, judges, data, RECIPE, 40, 0, CPU).run(40)
    after = generator_loss(pair, judges, a, b, RECIPE)
    assert float(after.generators.detach()) < 0.8 * float(before.generators.detach())
    assert any(not torch.equal(p, q) for p, q in zip(kept, judges.parameters(), strict=True))


def test_the_pair_that_comes_out_is_the_moving_average_of_those_that_were_trained() -> None:
    plain, averaged = (
        Training(*networks(), splits(), replace(RECIPE, average=average), 5, 0, CPU) for average in (0.0, 0.3)
    )
    expected: dict[str, Tensor] = {}
    for step in range(1, 6):
        plain.run(step)
        keep = min(0.3, (1 + step) / (10 + step)) if step > 1 else 0.0  # 3/12 and then 0.3
        expected = {n: keep * expected.get(n, now) + (1 - keep) * now for n, now in plain.pair.state_dict().items()}
        averaged.run(step)
        now = plain.pair.state_dict() if step < 5 else expected  # what is trained is not disturbed by its average
        assert all(torch.allclose(value, now[name], atol=1e-6) for name, value in averaged.pair.state_dict().items())
    assert any(not torch.allclose(mean, plain.pair.state_dict()[n], atol=1e-4) for n, mean in expected.items())


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_baseline_stopped_anywhere_ends_with_equal_weights(tmp_path: Path, average: float) -> None:
    data, recipe = splits(), replace(RECIPE, average=average)

    def trained(folder: Path, stops: tuple[int, ...]) -> dict[str, Tensor]:
        for stop in (*stops, 10**6):
            pair, judges = networks()
            try:
                train_baseline(
                    folder, pair, judges, cast(UnpairedSplits, Stopping(data, stop)), recipe, 1.0, 0, CPU, print, 0.0
                )
            except KeyboardInterrupt:
                assert (folder / UNFINISHED).is_file() and not has_baseline(folder)
        pair, judges = networks(1)
        load_baseline(folder, pair, judges)
        return {**pair.state_dict(), **{f"judge {n}": v for n, v in judges.state_dict().items()}}

    whole, stopped = trained(tmp_path / "whole", ()), trained(tmp_path / "stopped", (11,))
    assert not (tmp_path / "stopped" / UNFINISHED).exists()
    assert all(torch.equal(value, stopped[name]) for name, value in whole.items())


class Stopping:
    """Splits whose user presses Ctrl-C after so many batches."""

    def __init__(self, data: UnpairedSplits, left: int) -> None:
        self.data, self.left = data, left
        self.a, self.b = data.a, data.b

    def steps_per_epoch(self, batch: int) -> int:
        return self.data.steps_per_epoch(batch)

    def training_batch(self, batch: int, seed: int, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.data.training_batch(batch, seed, step, device)


def test_another_training_is_not_continued(tmp_path: Path) -> None:
    pair, judges = networks()
    training = Training(pair, judges, splits(), RECIPE, 4, 0, CPU)
    training.save(tmp_path / UNFINISHED, "{}")
    with pytest.raises(
        ValueError, match=r"must have been written by this very training, but got .*; give gan.baseline"
    ):
        train_baseline(tmp_path, pair, judges, splits(), RECIPE, 3.0, 0, CPU, print)


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_psnr_and_l1_equal_those_of_scikit_image(channels: int) -> None:
    rng = np.random.default_rng(channels)
    truth = rng.random((3, channels, 20, 24))
    images = np.clip(truth + 0.2 * rng.standard_normal(truth.shape), 0, 1)
    x, y = torch.from_numpy(images), torch.from_numpy(truth)
    pairs = list(zip(images, truth, strict=True))
    expected = [structural_similarity(a, b, channel_axis=0, data_range=1.0) for a, b in pairs]
    np.testing.assert_allclose(ssim(x, y), expected, rtol=1e-6)
    np.testing.assert_allclose(psnr(x, y), [peak_signal_noise_ratio(b, a, data_range=1.0) for a, b in pairs], rtol=1e-6)
    np.testing.assert_allclose(l1(x, y), [abs(a - b).mean() for a, b in pairs])
    assert float(ssim(y, y).min()) == pytest.approx(1.0)


def test_the_other_domain_is_the_digit_turned_and_inverted() -> None:
    data = tilted_digits(size=16, train=100)
    assert data.paired and data.train_a.shape == data.train_b.shape == (50, 1, 16, 16)
    assert data.test_a[:, :, 0, 0].float().mean() < 20 and data.test_b[:, :, 0, 0].float().mean() > 235
    from scipy.ndimage import rotate

    turned = 255 - rotate(data.test_a[3, 0].numpy().astype(float), 25, reshape=False, order=1)
    away = abs(turned - data.test_b[3, 0].numpy()).mean()
    other = abs(
        255 - rotate(data.test_a[3, 0].numpy().astype(float), -25, reshape=False, order=1) - data.test_b[3, 0].numpy()
    )
    assert away < 6 < other.mean()
    light = tilted_digits(size=16, train=100, inverted=False)
    assert torch.equal(light.train_a, data.train_a)
    assert (255 - light.test_b.int() - data.test_b.int()).abs().max() <= 1, "rounded to bytes"


def test_folders_and_parquet_give_equal_images_and_faults_are_sentences(tmp_path: Path) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    rng = np.random.default_rng(0)
    for part in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / part).mkdir()
        files = []
        for i in range(3):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(buffer, "png")
            (tmp_path / part / f"{i}.png").write_bytes(buffer.getvalue())
            files.append(buffer.getvalue())
        pq.write_table(pa.table({"image": files}), tmp_path / f"{part}.parquet")
    folders, parquet = (load(str(tmp_path), size=8, paired=True) for load in (unpaired_folders, unpaired_parquet))
    assert folders.train_a.shape == (3, 3, 8, 8) and torch.equal(folders.train_a, parquet.train_a)
    assert torch.equal(folders.test_b, parquet.test_b) and not torch.equal(folders.test_a, folders.test_b)
    (tmp_path / "trainB" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"every image must be readable, but got .*1.png.*; replace"):
        unpaired_folders(str(tmp_path), size=8)
    uneven = UnpairedImages(folders.train_a, folders.train_b, folders.test_a, folders.test_b[:2], paired=True)
    with pytest.raises(ValueError, match=r"as many images of both domains, but got 3 and 2; pair them"):
        unpaired_splits(uneven, 1, 0)
