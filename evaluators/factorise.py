"""Replace one convolution or linear layer by a chain of smaller ones of (nearly) the same function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from evaluators.chains import (
    Shift,
    checked,
    conv_of,
    linear,
    part_conv,
    patch_map,
    pointwise_conv,
    solved_normal,
    weight_of_layer,
    whole_conv,
)
from evaluators.cp import cp
from evaluators.moments import InputMoments
from evaluators.tensor_train import fit_last_core, tt2, tt3


def svd(layer: nn.Module, ranks: tuple[int, ...]) -> nn.Sequential:
    """Two layers of rank r: k x k C->r with the original stride and padding, then 1 x 1 r->N (Zhang et al. 2016, without data).

    Truncated SVD of the (N, C k k) weight: the best rank-r approximation in the Frobenius norm (Eckart and Young 1936).
    """
    left, values, right = torch.linalg.svd(weight_of_layer(layer).flatten(1).double(), full_matrices=False)
    (r,) = checked(ranks, (len(values),), layer)
    root = values[:r].sqrt()
    return _two(layer, root[:, None] * right[:r], left[:, :r] * root)


def weighted_svd(layer: nn.Module, ranks: tuple[int, ...], second_moment: Tensor) -> nn.Sequential:
    """As `svd`, but best for the outputs on inputs of this second moment M: truncates W M^1/2 (Zhang et al. 2016, eq. 4-6).

    With U the leading left singular vectors of W M^1/2 the approximation is U U^T W, so M need not be inverted.
    """
    weight = weight_of_layer(layer).flatten(1).double()
    (r,) = checked(ranks, (min(weight.shape),), layer)
    left = _leading(weight @ second_moment.double() @ weight.T, r)
    projected = left.T @ weight
    root = projected.norm(dim=1).clamp_min(1e-12).sqrt()
    return _two(layer, projected / root[:, None], left * root)


def _two(layer: nn.Module, first: Tensor, second: Tensor) -> nn.Sequential:
    if isinstance(layer, nn.Linear):
        return nn.Sequential(linear(first, None), linear(second, layer.bias))
    conv = conv_of(layer)
    inner = whole_conv(first.reshape(len(first), *conv.weight.shape[1:]), None, conv)
    return nn.Sequential(inner, pointwise_conv(second, conv.bias))


def spatial(layer: nn.Module, ranks: tuple[int, ...]) -> nn.Sequential:
    """Two convolutions of rank r: k x 1 C->r, then 1 x k r->N, each with the geometry of its axis (Jaderberg et al. 2014).

    Truncated SVD of the weight unfolded to (C k, N k): the best such pair in the Frobenius norm.
    """
    conv = conv_of(layer)
    n, c, height, width = conv.weight.shape
    unfolded = conv.weight.detach().double().permute(1, 2, 0, 3).reshape(c * height, n * width)
    left, values, right = torch.linalg.svd(unfolded, full_matrices=False)
    (r,) = checked(ranks, (len(values),), layer)
    root = values[:r].sqrt()
    vertical = (left[:, :r] * root).T.reshape(r, c, height, 1)
    horizontal = (root[:, None] * right[:r]).reshape(r, n, 1, width).transpose(0, 1)
    return nn.Sequential(
        part_conv(vertical, None, conv, (True, False)), part_conv(horizontal, conv.bias, conv, (False, True))
    )


def tucker2(layer: nn.Module, ranks: tuple[int, ...]) -> nn.Sequential:
    """Three layers: 1 x 1 C->r0, k x k r0->r1 with the original stride and padding, 1 x 1 r1->N (Kim et al. 2016).

    Truncated higher-order SVD over the channel modes, refined by two sweeps of higher-order orthogonal iteration.
    """
    conv = conv_of(layer)
    weight = conv.weight.detach().double()
    r_in, r_out = checked(ranks, (weight.shape[1], weight.shape[0]), layer)
    u_in = _unfolded(weight.transpose(0, 1), r_in)
    u_out = _unfolded(weight, r_out)
    for _ in range(2):
        u_out = _unfolded(torch.einsum("ncij,cr->nrij", weight, u_in), r_out)
        u_in = _unfolded(torch.einsum("ncij,ns->csij", weight, u_out), r_in)
    core = torch.einsum("ncij,ns,cr->srij", weight, u_out, u_in)
    return nn.Sequential(pointwise_conv(u_in.T, None), whole_conv(core, None, conv), pointwise_conv(u_out, conv.bias))


Factoriser = Callable[[nn.Module, tuple[int, ...]], nn.Sequential]
FACTORISERS: dict[str, Factoriser] = {
    "svd": svd,
    "spatial": spatial,
    "tucker2": tucker2,
    "cp": cp,
    "tt2": tt2,
    "tt3": tt3,
}


def factorise(
    layer: nn.Module, method: str, ranks: tuple[int, ...], inputs: InputMoments | None = None
) -> nn.Sequential:
    """The chain that stands in for a layer; with the moments of its inputs, the one whose outputs are closer.

    svd is then exactly optimal; elsewhere the last layer (or core) of the chain is fitted to the outputs by least squares, which
    cannot make them worse. A bias takes up the change of the outputs' mean.
    """
    chain = FACTORISERS[method](layer, ranks)
    if inputs is None:
        return chain
    weight, biased = weight_of_layer(layer), "bias" in dict(layer.named_parameters())
    moment = inputs.second(biased).to(weight.device)
    if method == "svd":
        chain = weighted_svd(layer, ranks, moment)
    elif method in ("tt2", "tt3"):
        fit_last_core(chain, weight, moment)
    else:
        features = patch_map(list(chain)[:-1], weight.shape)
        _fill(chain[-1], least_squares(weight.flatten(1), features, moment))
    _take_up(chain, weight, inputs)
    return chain


def _take_up(chain: nn.Sequential, weight: Tensor, inputs: InputMoments) -> None:
    last = chain[-1]
    if isinstance(last, nn.Conv2d | nn.Linear | Shift) and last.bias is not None:
        change = patch_map(list(chain), weight.shape) - weight.flatten(1)
        with torch.no_grad():
            last.bias.add_(inputs.bias_for(change).to(last.bias))


def least_squares(weight: Tensor, features: Tensor, second_moment: Tensor) -> Tensor:
    """The matrix X (outputs, f) for which X A x is closest to W x, for features A (f, fan-in) of inputs x of this second moment:
    W M A^T (A M A^T)^-1."""
    a, m = features.double(), second_moment.double()
    return solved_normal(a @ m @ a.T, weight.double() @ m @ a.T)


def _fill(layer: nn.Module, weight: Tensor) -> None:
    with torch.no_grad():
        tensor = weight_of_any(layer)
        tensor.copy_(weight.view_as(tensor))


def weight_of_any(layer: nn.Module) -> Tensor:
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        raise TypeError(f"a chain must end with a convolution or a linear layer, but got {layer}; report this")
    return layer.weight


def _unfolded(tensor: Tensor, r: int) -> Tensor:
    unfolding = tensor.flatten(1)
    return _leading(unfolding @ unfolding.T, r)


def _leading(gram: Tensor, r: int) -> Tensor:
    """Leading eigenvectors; signs fixed so that the result is the same everywhere."""
    _, vectors = torch.linalg.eigh(gram)
    vectors = vectors.flip(1)[:, :r]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * largest.sign()
