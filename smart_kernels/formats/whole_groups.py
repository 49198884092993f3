"""Weights whose channels are filled up to whole groups, and groups to what a transposable mask keeps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.ops.semi_structured import semi_structured_prune
from smart_kernels.reference.common import expand
from smart_kernels.shapes import index_bits


def padded(matrix: Tensor, taps: int, m: int) -> Tensor:
    """Return (N, taps * C) with the channels of each tap filled up to whole groups."""
    channels = matrix.shape[1] // taps
    return F.pad(matrix.unflatten(1, (taps, channels)), (0, -channels % m)).flatten(1)


def filled_both_ways(weight: Tensor, keep: Tensor) -> Tensor:
    """Add zeros, the negative ones first, to what is kept until every four of a column hold two as well."""
    if (keep.unflatten(1, (-1, 4)).sum(-1) == 2).all() and (keep.unflatten(0, (-1, 4)).sum(1) == 2).all():
        return keep
    scores = 16 * keep.float() + (weight.signbit() & (weight == 0))
    values, indices, *_ = semi_structured_prune(torch.ones_like(scores), scores, transposable=True)
    filled = expand(values, indices, 2, 4, weight.shape[1]).bool()
    if (keep & ~filled).any():
        raise ValueError("transposable must leave room for two weights in every four of each column, got another mask")
    return filled


def cropped(matrix: Tensor, taps: int, columns: int) -> Tensor:
    """Undo ``padded``."""
    return matrix.unflatten(1, (taps, -1))[:, :, : columns // taps].flatten(1)


def expand_for_onnx(values: Tensor, indices: Tensor, n: int, m: int, columns: int) -> Tensor:
    """Do what ``reference.common.expand`` does for whole groups, without shifts of uint8, which ONNX has not."""
    bits = index_bits(m)
    stored = columns // m * n
    powers = 2 ** torch.arange(8, device=indices.device)
    ones = (indices.long()[..., None] // powers % 2).flatten(1)[:, : stored * bits]
    places = (ones.unflatten(1, (stored, bits)) * powers[:bits]).sum(-1)
    groups = torch.arange(stored, device=indices.device) // n
    return values.new_zeros(len(values), columns).scatter(1, places + groups * m, values)
