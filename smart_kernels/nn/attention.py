"""``nn.MultiheadAttention`` taken apart, so that its four projections are ordinary, prunable Linears."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention_inputs import check_shapes, merged_mask, padded, shortened
from .attention_parts import PACKED, Pieces, projections, why_not_split


class SplitAttention(nn.Module):
    """``nn.MultiheadAttention`` with q_proj, k_proj, v_proj and out_proj as ``nn.Linear``.

    Everything else of the module it was made from is there: its attributes, hooks, mode, ``bias_k`` and ``bias_v``.
    Dense checkpoints of the original load: ``in_proj_weight`` and ``in_proj_bias`` are cut in three, ``q_proj_weight``
    and its like are renamed.

    Args:
        embed_dim, num_heads, dropout, batch_first: see ``nn.MultiheadAttention``.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float, batch_first: bool):
        super().__init__()
        self.__dict__.update(vars(nn.MultiheadAttention(embed_dim, num_heads, dropout, batch_first=batch_first)))
        _take_apart(self, {})

    @classmethod
    def from_attention(cls, attention: nn.MultiheadAttention) -> "SplitAttention":
        """Return a copy of the module, split.

        Raises:
            ValueError: the module cannot be split; see ``why_not_split``.
        """
        return split_(copy.deepcopy(attention))

    def __getattr__(self, name):
        if name in PACKED:
            raise AttributeError(
                f"SplitAttention has no {name}: its weights are those of q_proj, k_proj, v_proj and out_proj. "
                "An nn.TransformerEncoder around it that was not masked as a whole needs use_nested_tensor = False"
            )
        return super().__getattr__(name)

    @property
    def in_proj_bias(self) -> None:
        """None, which keeps ``nn.TransformerEncoderLayer`` off the fast path: it reads packed weights."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what ``nn.MultiheadAttention.forward`` does for the same arguments.

        Nested tensors, which the original takes on its fast path only, are taken in training, too.

        Raises:
            ValueError: a shape or the type of a mask is wrong, ``is_causal`` comes without ``attn_mask``, or nested
                tensors come with a mask or without ``batch_first``.
        """
        if is_causal and attn_mask is None:
            raise ValueError("is_causal is a hint about attn_mask, so attn_mask must be given; got None")
        if query.is_nested or key.is_nested or value.is_nested:
            masks = (key_padding_mask, attn_mask)
            return self._forward_nested(query, key, value, masks, need_weights, average_attn_weights)
        batched = check_shapes(query, key, value, self.batch_first)
        q, k, v = self._heads(query, key, value)
        hinted = is_causal and key_padding_mask is None and not need_weights
        mask = None if hinted else merged_mask(attn_mask, key_padding_mask, q, k.shape[2], self._extra_keys())
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            attended, weights = _attend(q, k, v, mask, dropout)
        else:
            attended = F.scaled_dot_product_attention(q, k, v, mask, dropout, hinted)
            weights = None
        y = self.out_proj(attended.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return (y if self.batch_first else y.transpose(0, 1)), weights

    def _forward_nested(
        self, query: Tensor, key: Tensor, value: Tensor, masks: tuple, need_weights: bool, average: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Pad nested tensors, and cut the padding off the result."""
        if not (query.is_nested and key.is_nested and value.is_nested and self.batch_first):
            raise ValueError("query, key and value must all be nested, in an attention with batch_first=True")
        if any(mask is not None for mask in masks):
            raise ValueError("nested tensors end where they end: key_padding_mask and attn_mask must be None")
        dense, padding = padded(key)
        q = dense if query is key else padded(query)[0]
        v = dense if value is key else padded(value)[0]
        y, weights = self.forward(q, dense, v, padding, need_weights, None, average)
        return shortened(y, query), weights

    def _heads(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Return query, key and value, projected, as (B, heads, length, head_dim).

        Heads may be fewer than ``num_heads``, where ``slim_`` has removed some.
        """
        inputs = (query, key, value)
        if query.dim() == 2 or not self.batch_first:  # one tensor stays one, for layers that are computed together
            moved = {id(x): x.unsqueeze(0) if query.dim() == 2 else x.transpose(0, 1) for x in inputs}
            inputs = [moved[id(x)] for x in inputs]
        projected = [self.q_proj(inputs[0]), self.k_proj(inputs[1]), self.v_proj(inputs[2])]
        if self._extra_keys():
            projected[1:] = [self._extended(projected[1], self.bias_k), self._extended(projected[2], self.bias_v)]
        return [x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for x in projected]

    def _extra_keys(self) -> int:
        """Return how many keys ``add_bias_kv`` and ``add_zero_attn`` append."""
        return (self.bias_k is not None) + self.add_zero_attn

    def _extended(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Append to (B, S, embed_dim) the learned key (or value) and the one that is 0."""
        learned = [] if bias is None else [bias.expand(x.shape[0], 1, -1)]
        zero = [torch.zeros_like(x[:, :1])] if self.add_zero_attn else []
        return torch.cat([x, *learned, *zero], 1)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for kind in ("weight", "bias"):
            packed = state_dict.pop(f"{prefix}in_proj_{kind}", None)
            if packed is not None:
                for name, part in zip("qkv", packed.chunk(3), strict=True):
                    state_dict[f"{prefix}{name}_proj.{kind}"] = part.clone()
        for name in "qkv":
            if f"{prefix}{name}_proj_weight" in state_dict:
                state_dict[f"{prefix}{name}_proj.weight"] = state_dict.pop(f"{prefix}{name}_proj_weight")
        super()._load_from_state_dict(state_dict, prefix, *args)


def split_(attention: nn.MultiheadAttention, pieces: Pieces | None = None) -> SplitAttention:
    """Turn a module into a ``SplitAttention``, in place: hooks, sharing and names stay, its class is swapped.

    Args:
        attention: the module.
        pieces: see ``projections``.

    Raises:
        ValueError: the module cannot be split.
    """
    if reason := why_not_split(attention):
        raise ValueError(f"attention must be one that can be split, got one that cannot: {reason}")
    return _take_apart(attention, {} if pieces is None else pieces)


def _take_apart(attention: nn.Module, pieces: Pieces) -> SplitAttention:
    linears = projections(attention, pieces)
    for name in PACKED:
        del attention._parameters[name]
    del attention._modules["out_proj"]
    attention._modules.update(linears)
    attention.out_proj.__class__ = nn.Linear
    attention._qkv_same_embed_dim = False
    attention.__class__ = SplitAttention
    return attention


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> tuple[Tensor, Tensor]:
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    weights = F.dropout((logits if mask is None else logits + mask).softmax(-1), dropout)
    return weights @ v, weights
