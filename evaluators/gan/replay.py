"""Images that generators made before, shown to the discriminators again (Shrivastava et al. 2017, section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from evo.randomness import stream


class Replay:
    """Keeps at most `size` images. `images` are all that is to be stored of it."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self.images: list[Tensor] = []

    def exchanged(self, made: Tensor, step: int) -> Tensor:
        """Of new images (N, C, H, W) each, or once all places are taken with probability 1/2 a kept one, which it replaces."""
        if self.size == 0:
            return made
        rng, shown = stream(self.seed, "replay", step), []
        for image in made:
            if len(self.images) < self.size:
                self.images.append(image)
                shown.append(image)
            elif rng.random() < 0.5:
                at = int(rng.integers(self.size))
                shown.append(self.images[at])
                self.images[at] = image
            else:
                shown.append(image)
        return torch.stack(shown)
