"""The inputs of an attention: shapes, masks and nested tensors."""

import torch
import torch.nn.functional as F
from torch import Tensor


def check_shapes(query: Tensor, key: Tensor, value: Tensor, batch_first: bool) -> bool:
    """Return whether there is a batch.

    Raises:
        ValueError: the three do not belong together.
    """
    shapes = [tuple(x.shape) for x in (query, key, value)]
    ranks = {len(shape) for shape in shapes}
    if ranks not in ({2}, {3}):
        raise ValueError(f"query, key and value must all have 3 dimensions, or 2 without a batch, got {shapes}")
    batched = ranks == {3}
    batch = 0 if batch_first else 1
    if shapes[1][:-1] != shapes[2][:-1] or (batched and shapes[0][batch] != shapes[1][batch]):
        raise ValueError(f"key and value must be as long as each other, of one batch with query, got {shapes}")
    return batched


def merged_mask(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor, keys: int, extra: int
) -> Tensor | None:
    """Return one additive mask that broadcasts against (B, heads, queries, keys), or None where there is none.

    Args:
        attn_mask: (queries, keys) or (B * heads, queries, keys), bool (True is left out) or floating (added).
        key_padding_mask: (B, keys), or (keys,) without a batch, likewise.
        q: (B, heads, queries, E / heads).
        keys: how many there are with those that the attention appends.
        extra: how many those are; the masks do not know them.

    Raises:
        ValueError: a mask of another type or shape.
    """
    B, heads, queries, _ = q.shape
    total = None
    if attn_mask is not None:
        one = (queries, keys - extra)
        total = _additive("attn_mask", attn_mask, q, one, (B * heads, *one))
        total = total.view(B, heads, *one) if attn_mask.dim() == 3 else total
    if key_padding_mask is not None:
        allowed = [(B, keys - extra)] + ([(keys - extra,)] if B == 1 else [])
        padding = _additive("key_padding_mask", key_padding_mask, q, *allowed).view(B, 1, 1, keys - extra)
        total = padding if total is None else total + padding
    return F.pad(total, (0, extra)) if extra and total is not None else total


def _additive(name: str, mask: Tensor, like: Tensor, *shapes: tuple[int, ...]) -> Tensor:
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ValueError(f"{name} must be bool or floating, got {mask.dtype}")
    if tuple(mask.shape) not in shapes:
        allowed = " or ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(f"{name} must be {allowed}, got {tuple(mask.shape)}")
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))


def padded(nested: Tensor) -> tuple[Tensor, Tensor]:
    """Return a nested tensor as (B, longest, E) with zeros behind each end, and (B, longest) bool, True there."""
    dense = torch.nested.to_padded_tensor(nested, 0.0)
    lengths = torch.tensor([len(row) for row in nested.unbind()], device=nested.device)
    return dense, torch.arange(dense.shape[1], device=nested.device) >= lengths[:, None]


def shortened(dense: Tensor, like: Tensor) -> Tensor:
    """Return (B, longest, E) as a nested tensor with the lengths and the layout of ``like``."""
    rows = [row[: len(other)] for row, other in zip(dense, like.unbind(), strict=True)]
    return torch.nested.as_nested_tensor(rows, layout=like.layout)
