"""A transformer encoder as large as MiniLM, for speed; and what a dense one is fused by hand."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Encoder(nn.Sequential):
    """(B, T, width) -> (B, T, width); post-norm, as in BERT."""

    def __init__(self, layers: int, width: int, hidden: int, heads: int):
        super().__init__(*(Layer(width, hidden, heads) for _ in range(layers)))


class Layer(nn.Module):
    """Attention, then two Linear layers with GELU between; each is added to its input and normalised."""

    def __init__(self, width: int, hidden: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return query, key and value of (B, T, width)."""
        return self.query(x), self.key(x), self.value(x)

    def forward(self, x: Tensor) -> Tensor:
        heads = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.project(x))
        x = self.norm1(x + self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class JoinedLayer(Layer):
    """A layer whose query, key and value are one product."""

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return query, key and value of (B, T, width), columns of one buffer."""
        return F.linear(x, self.weight, self.bias).chunk(3, -1)


def joined(encoder: Encoder) -> Encoder:
    """Return a dense copy for inference that multiplies by query, key and value at once.

    cuBLASLt adds no residual beside a bias and knows no exact GELU; a compiler does the rest.
    """
    encoder = copy.deepcopy(encoder)
    for layer in encoder:
        parts = (layer.query, layer.key, layer.value)
        layer.register_buffer("weight", torch.cat([part.weight.detach() for part in parts]))
        layer.register_buffer("bias", torch.cat([part.bias.detach() for part in parts]))
        layer.__class__ = JoinedLayer
    return encoder
