"""Models small enough to prune in milliseconds."""

import torch
from torch import nn

# sizes that the tiles do not divide, so that tiles cost differently
LINEARS = (nn.Linear, (12, 10), (10, 9))
CONVS = (lambda a, b: nn.Conv2d(a, b, 3, padding=1), (6, 5), (5, 7))
POINTWISE = (lambda a, b: nn.Conv2d(a, b, 1), (6, 8), (8, 4))


def make_layers(kind):
    layer, *sizes = kind
    return nn.Sequential(layer(*sizes[0]), nn.Tanh(), layer(*sizes[1])), sizes[0][0]


def make_mlp():
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))


class Shared(nn.Module):
    """One weight in two modules, and one of them called twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.head(self.a(torch.tanh(self.b(torch.tanh(self.a(x))))))
