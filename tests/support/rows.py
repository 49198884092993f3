"""The layers of the table."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smart_kernels import NM, Block, Channel, SparseConv2d, SparseLinear, mask_
from smart_kernels.formats import BSR, CSR, ELL, JIT, Compact, Packed, SemiStructured
from smart_kernels.nn import HardGate

WIDTH = 32
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(WIDTH, WIDTH),
    "Conv1d": lambda: nn.Conv1d(WIDTH, WIDTH, 3, padding=1),
    "Conv2d": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
    "Conv3d": lambda: nn.Conv3d(WIDTH, WIDTH, (1, 3, 1)),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2),
}
INPUTS = {"Linear": (), "Conv1d": (6,), "Conv2d": (6, 5), "Conv3d": (3, 4, 2), "ConvTranspose2d": (3, 4)}
BATCH = 4


@dataclass(frozen=True)
class Row:
    """A layer: masked by a pattern, or sparse in a format.

    Attributes:
        layer: a key of ``LAYERS``.
        form: a pattern, or a class of ``smart_kernels.formats``.
        census: what the census of compiled kernels calls the product of this layer; empty where it is torch's own.
    """

    layer: str
    form: object
    census: str = ""

    @property
    def masked(self) -> bool:
        return not isinstance(self.form, type)

    def __str__(self) -> str:
        return f"{'Masked' if self.masked else 'Sparse'}{self.layer} {self.form if self.masked else self.form.name}"

    def build(self, dtype: torch.dtype = torch.float32) -> tuple[nn.Sequential, nn.Sequential, Tensor]:
        """Return the layer in a model, the dense model that computes the same, and an input."""
        torch.manual_seed(0)
        dense = LAYERS[self.layer]().to(dtype)
        x = torch.randn(BATCH, WIDTH, *INPUTS[self.layer]).to(dtype)
        if self.masked:
            return *_masked(dense, self.form), x
        weight = torch.randn(WIDTH, dense.weight[0].numel()).to(dtype)
        _prune_(weight, self.form)
        taps = dense.weight[0, 0].numel()
        stored = self.form.from_dense(weight, (16, 16), taps=taps)
        cls = SparseLinear if self.layer == "Linear" else SparseConv2d
        sparse = cls.from_format(stored, dense.bias, *([dense] if cls is SparseConv2d else []))
        return nn.Sequential(sparse), nn.Sequential(sparse.to_dense()), x


def _prune_(weight: Tensor, form: type) -> None:
    """Write zeros that a format gains from."""
    weight[:16, :16] = 0
    if form is SemiStructured:
        weight.view(-1, 4)[:, 2:] = 0
    elif form is CSR:
        weight[torch.rand_like(weight) < 0.95] = 0
    elif form is Compact:
        weight[:16] = 0


def _masked(dense: nn.Module, pattern) -> tuple[nn.Sequential, nn.Sequential]:
    """Return the layer with half of its scores masked, and the dense one with its zeros."""
    plain = copy.deepcopy(dense)
    model = nn.Sequential(dense)
    layer = mask_(model, pattern, lambda module, name: True)["0"]
    mask = torch.zeros(layer.scores.shape)
    if pattern.local:
        mask.unflatten(-1, (-1, 4))[..., :2] = 1
    else:
        mask.flatten()[::2] = 1
    layer.gate = HardGate(mask)
    plain.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
    return model, nn.Sequential(plain)


ROWS = (
    Row("Linear", Block(16, 16), "masked_linear"),
    Row("Linear", Channel(), "masked_linear"),
    Row("Linear", NM(2, 4), "smart_weight"),
    Row("Conv2d", Block(16, 16), "masked_conv2d"),
    Row("Conv2d", NM(2, 4), "smart_weight"),
    Row("Conv1d", Block(16, 16)),
    Row("Conv3d", Block(16, 16)),
    Row("ConvTranspose2d", Block(16, 16)),
    Row("Linear", BSR, "block_sparse_linear"),
    Row("Linear", SemiStructured, "semi_structured_linear"),
    Row("Linear", CSR),
    Row("Linear", Compact),
    Row("Linear", ELL),
    Row("Linear", JIT),
    Row("Linear", Packed),
    Row("Conv2d", BSR, "block_sparse_conv2d"),
    Row("Conv2d", SemiStructured, "semi_structured_conv2d"),
    Row("Conv2d", Compact),
    Row("Conv2d", ELL),
    Row("Conv2d", JIT),
    Row("Conv2d", Packed),
)
