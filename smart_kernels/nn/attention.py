"""``nn.MultiheadAttention`` taken apart, so that its four projections are ordinary, prunable Linears."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SplitAttention(nn.Module):
    """``nn.MultiheadAttention`` with q_proj, k_proj, v_proj and out_proj as ``nn.Linear``.

    Dense checkpoints of the original module load: ``in_proj_weight`` and ``in_proj_bias`` are cut in three.
    """

    _qkv_same_embed_dim = False  # keeps nn.TransformerEncoderLayer off the fast path, which reads packed weights

    def __init__(self, embed_dim: int, num_heads: int, dropout: float, batch_first: bool):
        super().__init__()
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first

    @classmethod
    def from_attention(cls, attention: nn.MultiheadAttention) -> "SplitAttention":
        """Split an attention: same function, same weights.

        Raises:
            ValueError: for ``add_bias_kv`` and ``add_zero_attn``, which have no place in four Linears.
        """
        if attention.bias_k is not None or attention.add_zero_attn:
            raise ValueError("attention with add_bias_kv or add_zero_attn cannot be split; leave it out with filter_fn")
        self = cls(attention.embed_dim, attention.num_heads, attention.dropout, attention.batch_first)
        if attention.in_proj_weight is not None:
            weights = attention.in_proj_weight.detach().chunk(3)
        else:
            weights = [p.detach() for p in (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)]
        biases = [None] * 3 if attention.in_proj_bias is None else attention.in_proj_bias.detach().chunk(3)
        for name, weight, bias in zip("qkv", weights, biases, strict=True):
            setattr(self, f"{name}_proj", _linear(weight, bias))
        out = attention.out_proj
        self.out_proj = _linear(out.weight.detach(), None if out.bias is None else out.bias.detach())
        return self.train(attention.training)

    @property
    def in_proj_weight(self) -> None:
        """Return None: nothing is packed here."""

    @property
    def in_proj_bias(self) -> None:
        """Return None: nothing is packed here."""

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
        """See ``nn.MultiheadAttention.forward``: the same arguments, shapes and results."""
        if is_causal and attn_mask is None:
            raise ValueError("is_causal is a hint about attn_mask, so attn_mask must be given; got None")
        batched = query.dim() == 3
        query, key, value = map(self._batch_first, (query, key, value))
        q = self._heads(self.q_proj(query))
        k = self._heads(self.k_proj(key))
        v = self._heads(self.v_proj(value))
        mask = _merge_masks(attn_mask, key_padding_mask, q, k.shape[2])
        attended, weights = self._attend(q, k, v, mask, need_weights)
        y = self.out_proj(attended.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return (y if self.batch_first else y.transpose(0, 1)), weights

    def _batch_first(self, x: Tensor) -> Tensor:
        """Return (B, L, E), whatever the order of an input, or whether it has a batch at all."""
        if x.dim() == 2:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _heads(self, x: Tensor) -> Tensor:
        """Cut (B, L, E) into (B, heads, L, E / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return what is attended to, (B, heads, L, E / heads), and the weights if they are needed."""
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0), None
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        weights = F.dropout((logits if mask is None else logits + mask).softmax(-1), self.dropout, self.training)
        return weights @ v, weights

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for kind in ("weight", "bias"):
            packed = state_dict.pop(f"{prefix}in_proj_{kind}", None)
            if packed is not None:
                for name, part in zip("qkv", packed.chunk(3), strict=True):
                    state_dict[f"{prefix}{name}_proj.{kind}"] = part
        super()._load_from_state_dict(state_dict, prefix, *args)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.clone())
    if bias is not None:
        linear.bias = nn.Parameter(bias.clone())
    return linear


def _merge_masks(attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor, keys: int) -> Tensor | None:
    """Merge both masks into an additive one that broadcasts against (B, heads, queries, keys)."""
    total = None
    if attn_mask is not None:
        attn_mask = _additive(attn_mask, q)
        total = attn_mask.view(q.shape[0], q.shape[1], -1, keys) if attn_mask.dim() == 3 else attn_mask
    if key_padding_mask is not None:
        padding = _additive(key_padding_mask, q).view(-1, 1, 1, keys)
        total = padding if total is None else total + padding
    return total


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))
