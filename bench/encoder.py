"""A transformer encoder as large as MiniLM, for speed."""

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

    def forward(self, x: Tensor) -> Tensor:
        heads = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        x = self.norm1(x + self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))
