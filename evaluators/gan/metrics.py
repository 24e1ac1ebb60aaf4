"""How like two sets of images are: what paired test data allow to be measured."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, K1, K2 = 7, 0.01, 0.03


def unit_range(images: Tensor) -> Tensor:
    """Images in -1..1 as 0..1."""
    return images.clamp(-1, 1) * 0.5 + 0.5


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images (N, C, H, W) in 0..1, in decibels (N,); at most 100."""
    error = (images - truth).square().flatten(1).mean(1)
    return -10 * torch.log10(error.clamp_min(1e-10))


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (N,) of images (N, C, H, W) in 0..1 (Wang et al. 2004): uniform windows of 7 x 7 that lie within the
    image, sample covariances, averaged over places and channels, as scikit-image does by default."""
    size = min(WINDOW, images.shape[-1] // 2 * 2 - 1, images.shape[-2] // 2 * 2 - 1)
    means = [F.avg_pool2d(x, size, 1) for x in (images, truth, images * images, truth * truth, images * truth)]
    a, b = means[0], means[1]
    unbiased = size * size / (size * size - 1)
    variance_a, variance_b, covariance = (
        unbiased * (second - first) for second, first in ((means[2], a * a), (means[3], b * b), (means[4], a * b))
    )
    c1, c2 = K1**2, K2**2
    similar = (2 * a * b + c1) * (2 * covariance + c2)
    return (similar / ((a * a + b * b + c1) * (variance_a + variance_b + c2))).flatten(1).mean(1)


def l1(images: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference (N,)."""
    return (images - truth).abs().flatten(1).mean(1)
