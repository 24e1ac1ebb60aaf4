"""Ranks that spend a given share of the dense layer's weights, so that no choice can cost more than the layer itself."""

from __future__ import annotations

import numpy as np

from search_spaces.costs import parts
from search_spaces.network import Layer


def ranks_for(
    layer: Layer, method: str, share: float, c_in: np.ndarray, c_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks (N, 2) for layers of these channel counts (N,), and which rows are worth it (N,) bool.

    svd: rank r with r (k k C + N) <= share k k C N, second column 0. tucker2: ranks proportional to C and N, the positive root
    of k k C N t^2 + (C^2 + N^2) t = share k k C N. A row is worth it when both weights and MACs fall below the dense layer's.
    """
    if method not in ("svd", "tucker2"):
        raise ValueError(f"a factorisation must be 'svd' or 'tucker2', but got method={method!r}; choose one of these")
    dense_weights = c_in * c_out * layer.kernel_area
    if method == "svd":
        fan_in = c_in * layer.kernel_area
        rank = np.floor(share * dense_weights / (fan_in + c_out))
        first, second = np.clip(rank, 1, np.minimum(fan_in, c_out)), np.zeros_like(c_in)
    else:
        linear = (c_in.astype(float) ** 2 + c_out.astype(float) ** 2) / dense_weights
        t = (-linear + np.sqrt(linear**2 + 4 * share)) / 2
        first = np.clip(np.floor(t * c_in), 1, c_in)
        second = np.clip(np.floor(t * c_out), 1, c_out)
    ranks = np.stack([first, second], axis=1).astype(np.int64)
    factors = parts(layer, method, c_in, c_out, ranks)
    (dense,) = parts(layer, "none", c_in, c_out, ranks)
    weights, macs = sum(p.weights for p in factors), sum(p.macs for p in factors)
    return ranks, (weights < dense.weights) & (macs < dense.macs)
