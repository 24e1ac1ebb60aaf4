"""Frechet Inception distance (Heusel et al. 2017) by torch-fidelity, with Inception weights that the user has on disk."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

FEATURES = "2048"  # of the last pooling layer, as published FIDs are
BATCH = 25
MISSING = (
    "FID is computed only where gan.inception names the weights of the Inception network "
    "(weights-inception-2015-12-05-6726825d.pth of torch-fidelity's release 0.2.0) and evo-compress[fid] is installed"
)


class Pixels(Dataset):
    """Images (N, C, H, W) in 0..1 as uint8 of three channels."""

    def __init__(self, images: Tensor) -> None:
        self.images = (images.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def require_fid(weights: Path) -> None:
    """Raise ValueError where the library or the file is missing."""
    if not weights.is_file():
        raise ValueError(f"gan.inception must be a file, but got {str(weights)!r}; {MISSING}")
    if importlib.util.find_spec("torch_fidelity") is None:
        raise ValueError(
            "gan.inception needs torch-fidelity, but got an environment without it; pip install 'evo-compress[fid]'"
        )


def frechet_distance(made: Tensor, real: Tensor, weights: Path, device: torch.device) -> float:
    """FID of images (N, C, H, W) in 0..1, C 1 or 3. Biased upwards for few images: compare at equal numbers only."""
    from torch_fidelity import calculate_metrics

    torch.load(weights, map_location="cpu", weights_only=True)  # the library would run whatever a pickle says
    found = calculate_metrics(
        input1=Pixels(made),
        input2=Pixels(real),
        fid=True,
        feature_layer_fid=FEATURES,
        feature_extractor_weights_path=str(weights),
        batch_size=BATCH,
        cuda=device.type == "cuda",
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )
    return float(found["frechet_inception_distance"])
