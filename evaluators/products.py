"""How labels pass through matrix products and attention."""

from __future__ import annotations

from torch import Tensor

from evaluators.call import Call, varying
from evaluators.labels import NONE, Units, held, lean, nothing


def product(call: Call, units: Units) -> Tensor | None:
    """Matrix products (..., i, k) x (..., k, j) of two activations, or of one with a constant.

    Where batch entries carry different units (attention heads), each entry is one unit and is cut whole. Otherwise nothing of the
    contracted dimension can be cut, and the result keeps the labels of its columns, or else of its rows.
    """
    left, right = call.labels[-2:]
    if left is not None and right is not None and not (_alike(left, units) and _alike(right, units)):
        return _headwise(call, units, left, right)
    rows, columns = _outside(left, -1, call, units), _outside(right, -2, call, units)
    if columns is not None and (rows is None or bool((columns != NONE).any())):
        if rows is not None:
            units.pin(rows, "meets other channels in a matrix product")
        return columns
    return rows


def _outside(labels: Tensor | None, contracted: int, call: Call, units: Units) -> Tensor | None:
    """Labels along the dimension of an operand that a product does not contract."""
    if labels is None:
        return None
    lead = held(labels, (contracted,))
    if lead is None:
        units.pin(labels, "is contracted by a matrix product")
        return nothing(call.output)
    return lead.expand(call.output.shape)


def attention(call: Call, units: Units) -> Tensor | None:
    """softmax(q k^T) v of (N, heads, places, d): whole heads are cut; channels of a single head stay."""
    query, key, value = call.labels[:3]
    if query is None or key is None or value is None or _alike(query.flatten(0, -3), units):
        return None
    out = _headwise(call, units, query, key, value)
    mask = call.argument("attn_mask")
    if out is not None and mask is not None and mask.numel() > 1:
        met = out[..., :1].expand(*out.shape[:-1], key.shape[-2])
        if held(met, varying(mask, met.dim())) is None:
            call.bind(mask, met)
    return out


def _alike(labels: Tensor, units: Units) -> bool:
    """Whether all batch entries of (..., i, k) carry the same units."""
    return held(units.roots(labels), range(labels.dim() - 2)) is not None


def _headwise(call: Call, units: Units, *operands: Tensor) -> Tensor | None:
    if len({labels.shape[:-2] for labels in operands}) > 1:
        return None
    leads = [units.couple(labels, (-2, -1), "a matrix product") for labels in operands]
    for lead in leads[1:]:
        units.join(leads[0], lead, "meets channels that cannot be cut in a matrix product")
    return lean(leads[0].expand(call.output.shape))
