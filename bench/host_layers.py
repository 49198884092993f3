"""The layers and pruners whose cost on the host is counted, and what a counted call is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from smart_kernels import NM, Block, Channel, HardGate, SoftGate, SparseConv2d, SparseLinear, mask_
from smart_train import SmartPruner

M, N, K, TILE = 64, 256, 256, (32, 32)
LAYERS = 24  # of the model whose pruner takes a step
PRUNED = {  # what is pruned, and how wide the layers are: few scores are solved by one program, many by many
    "Block": (Block(*TILE), 256),
    "many tiles": (Block(16, 16), 512),
    "tiles larger than a block": (Block(256, 128), 256),
    "Channel": (Channel(), 256),
    "NM": (NM(2, 4), 256),
}
DTYPE = torch.bfloat16


@dataclass(frozen=True)
class HostCase:
    """One call.

    Attributes:
        name: what is called, of ``layers`` layers.
        make: returns the call, and the tensors whose gradients a step wants.
        passes: "fwd", without gradients, and "fwd+bwd".
    """

    name: str
    make: Callable[[], tuple[Callable[[], Tensor], list[Tensor]]]
    passes: tuple[str, ...] = ("fwd", "fwd+bwd")
    layers: int = 1


def cases() -> Iterator[HostCase]:
    """All of them."""
    linear, conv = partial(SparseLinear, K, N), partial(SparseConv2d, 64, 64, 3, padding=1)
    yield HostCase("SparseLinear, Block", partial(_sparse, linear, Block(*TILE), M, K))
    yield HostCase("SparseLinear, NM", partial(_sparse, linear, NM(2, 4), M, K))
    yield HostCase("SparseConv2d, Block", partial(_sparse, conv, Block(*TILE), 2, 64, 8, 8))
    for name, kind, hard in (
        ("MaskedLinear", nn.Linear, torch.eye(2)),
        ("MaskedConv2d", partial(nn.Conv2d, kernel_size=3), torch.eye(18)[:2]),
    ):
        yield HostCase(f"{name}, hard", partial(_masked_layer, kind, hard, False))
        yield HostCase(f"{name}, soft", partial(_masked_layer, kind, hard, True))
    for name, pattern in (("Block", Block(*TILE)), ("tile 128x128", Block(128, 128)), ("NM", NM(2, 4))):
        yield HostCase(f"MaskedLinear in a step, {name}", partial(_in_a_step, pattern), ("fwd+bwd",))
    for name, (pattern, size) in PRUNED.items():
        yield HostCase(f"SmartPruner.step, {LAYERS} layers, {name}", partial(_pruner, pattern, size), ("fwd",), LAYERS)
        step = partial(_step, pattern, size)
        yield HostCase(f"forward and backward in the search, {LAYERS} layers, {name}", step, ("fwd",), LAYERS)
    yield HostCase(f"SmartPruner.step, {LAYERS} layers, finetuning", _finetuning, ("fwd",), LAYERS)


def leaf(*shape: int, dtype: torch.dtype = DTYPE) -> Tensor:
    """Random numbers that want a gradient."""
    return torch.randn(shape).to(dtype).requires_grad_()


def _sparse(make: Callable, pattern, *shape: int):
    layer, x = make(pattern=pattern, density=0.5, dtype=DTYPE), leaf(*shape)
    return partial(layer, x), [x, *layer.parameters()]


def _masked_layer(kind, mask: Tensor, soft: bool):
    """A layer by itself: nothing is prepared for it."""
    layer = kind(64, 64, dtype=DTYPE)
    x = leaf(M, 64) if isinstance(layer, nn.Linear) else leaf(2, 64, 8, 8)
    mask_(layer, Block(*TILE), lambda module, name: True)
    mask = mask.clone().requires_grad_(soft)
    layer.gate = SoftGate(mask) if soft else HardGate(mask)
    return partial(layer, x), [x, layer.raw_weight, layer.raw_bias, *([mask] if soft else [])]


def _in_a_step(pattern):
    """A layer of a model in the search, for which everything is prepared."""
    model, pruner = _searching(pattern, K, 2)
    x, layer = leaf(M, K), model[0]
    mask = layer.scores if pattern.local else layer.gate.mask
    return partial(_of, pruner, layer, x), [x, layer.raw_weight, layer.raw_bias, mask]


def _of(pruner: SmartPruner, layer: nn.Module, x: Tensor) -> Tensor:
    """Call a layer; its pruner has to live."""
    return layer(x)


def _searching(pattern, size: int, layers: int) -> tuple[nn.Module, SmartPruner]:
    model = nn.Sequential(*(nn.Linear(size, size, dtype=DTYPE) for _ in range(layers)))
    sparsity = pattern.sparsity or 0.5
    pruner = SmartPruner(model, pattern, sparsity, search_steps=1000, filter_fn=lambda module, name: True)
    pruner.step()
    return model, pruner


def _pruner(pattern, size: int):
    return _searching(pattern, size, LAYERS)[1].step, []


def _step(pattern, size: int):
    model, pruner = _searching(pattern, size, LAYERS)
    x = leaf(M, size)
    wanted = [x, *model.parameters()]

    def step():
        y = model(x)
        return torch.autograd.grad(y, wanted, x.detach()), pruner

    return step, []


def _finetuning():
    _, pruner = _searching(Block(*TILE), K, LAYERS)
    pruner.harden()
    return pruner.step, []
