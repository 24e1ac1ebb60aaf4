"""Which weights of a layer a sparsity pattern keeps, and how those make up for the others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from evaluators.rounding import damped, gptq
from search_spaces.sparsity import Pattern

# Importance of every weight, (outputs, fan-in), given the second moment of the layer's inputs (fan-in, fan-in).
MaskCriterion = Callable[[Tensor, Tensor], Tensor]


def magnitude(weight: Tensor, second_moment: Tensor) -> Tensor:
    """|w| (Han et al. 2015); looks at no inputs."""
    return weight.abs()


def gram(weight: Tensor, second_moment: Tensor) -> Tensor:
    """Root of the squared output error that removing this weight alone makes, |w_ij| M_jj^1/2 (Sun et al. 2024, Wanda, there with
    comparisons within each output)."""
    return weight.abs() * second_moment.diagonal().clamp_min(0).sqrt()


def obs(weight: Tensor, second_moment: Tensor) -> Tensor:
    """The same where the other weights of that output make up for it, |w_ij| / (M^-1)_jj^1/2 (Hassibi and Stork 1993, eq. 5)."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(second_moment.double())))
    return weight.abs() / inverse.diagonal().sqrt().to(weight.dtype)


CRITERIA: dict[str, MaskCriterion] = {"magnitude": magnitude, "gram": gram, "obs": obs}


def mask_of(
    weight: Tensor, pattern: Pattern, criterion: str = "magnitude", second_moment: Tensor | None = None
) -> Tensor:
    """True where a weight (outputs, ...) is kept, of the same shape; ties go to the lower index. Every criterion but magnitude
    needs the second moment of the layer's inputs; ValueError without it."""
    flat = weight.detach().flatten(1)
    if second_moment is None and criterion != "magnitude":
        raise ValueError(
            f"criterion {criterion!r} needs the moments of the layer's inputs, but got none; collect them first"
        )
    known = flat.new_zeros(0, 0) if second_moment is None else second_moment.to(flat.device)
    size = CRITERIA[criterion](flat, known)
    if pattern.structured:
        return _of_every(size, pattern).view_as(weight)
    count = -(-size.numel() * pattern.kept // pattern.of)
    chosen = torch.zeros(size.numel(), dtype=torch.bool, device=size.device)
    chosen[size.flatten().sort(descending=True, stable=True).indices[:count]] = True
    return chosen.view_as(weight)


def compensated_mask(weight: Tensor, mask: Tensor, second_moment: Tensor) -> Tensor:
    """The weight with zeros where the mask says so, and the others corrected for their loss, column by column as in SparseGPT
    (Frantar and Alistarh 2023). No output's mean squared error exceeds that of the mask alone."""
    used = mask.flatten(1).to(weight.dtype)

    def columns(part: Tensor, start: int) -> Tensor:
        return part * used[:, start : start + part.shape[1]]

    return gptq(weight.detach().flatten(1), second_moment.to(weight.device), columns).view_as(weight)


def _of_every(size: Tensor, pattern: Pattern) -> Tensor:
    """`kept` of every `of` columns; of a shorter rest as many, if there are."""
    rows, fan_in = size.shape
    missing = -fan_in % pattern.of
    padded = torch.cat([size, size.new_full((rows, missing), -1.0)], dim=1).view(rows, -1, pattern.of)
    order = padded.sort(dim=2, descending=True, stable=True).indices[:, :, : pattern.kept]
    chosen = torch.zeros_like(padded, dtype=torch.bool).scatter_(2, order, True)
    return chosen.view(rows, -1)[:, :fan_in]
