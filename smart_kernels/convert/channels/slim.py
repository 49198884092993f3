"""``slim_``: channels that are exactly 0, or that nobody reads, leave the model; what is left are smaller layers."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from smart_kernels.convert.measure import agrees
from smart_kernels.convert.modules import call, check_whole, evaluating
from smart_kernels.nn import Masked, Sparse

from .follow import Follower, follow
from .resize import note_, resize_, select_, sizes
from .ties import STAYS

PASSES = 10  # removing rows may leave columns unread, and so on up the model


@dataclass(frozen=True)
class Slimmed:
    """The layers that ``slim_`` made smaller.

    Attributes:
        layers: name -> weight shape before and after, of the layers that became smaller.
        parameters: number of parameters before and after.
    """

    layers: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    parameters: tuple[int, int]

    def __str__(self) -> str:
        rows = [f"{name}  {_size(old)} -> {_size(new)}" for name, (old, new) in self.layers.items()]
        return "\n".join([*rows, "parameters  {:,} -> {:,}".format(*self.parameters)])


def slim_(model: nn.Module, example_input) -> Slimmed:
    """Remove dead channels from a model, in place: tensors become smaller, layers stay plain ones.

    A channel goes where all that reads it finds an exact 0 or has a weight of 0 for it, together with all channels
    that share its fate: what is added to it, its place in a BatchNorm, its group of a grouped convolution, its columns
    behind ``cat`` and ``flatten``. Inputs and outputs of the model keep their size, and each layer one channel.

    Parameters stay the same objects with less in them, so that tied weights stay tied. Optimizers made before hold
    states of the old sizes: make new ones. The model is run to find out what belongs together, and again to check that
    its output is the same but for rounding.

    Args:
        model: plain, as ``SmartPruner.finalize`` or ``unmask_`` leave it; not yet ``compress_``-ed.
        example_input: tensor, tuple of positional or dict of keyword arguments, shaped like the real input.

    Returns:
        The layers that became smaller; ``print`` shows them.

    Raises:
        ValueError: masked or sparse layers; an operator that channels cannot be followed through; or an output that
            changed, when the model is put back as it was.
    """
    if any(isinstance(module, Masked | Sparse) for module in model.modules()):
        raise ValueError("slim_ needs plain layers: call finalize() or unmask_(model) before, and compress_ after it")
    check_whole(model, "slim_")
    before = {id(t): t.data for t in (*model.parameters(), *model.buffers())}
    old_sizes = sizes(model)
    expected = _run(model, example_input)
    try:
        for _ in range(PASSES):
            if not _cut(model, follow(model, example_input)):
                break
        _check_same(expected, _run(model, example_input))
    except Exception as error:
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = before[id(tensor)]
        resize_(model)
        raise ValueError(f"slim_ left the model as it was: {error}") from error
    note_(model, {name: size for name, size in sizes(model).items() if size != old_sizes[name]})
    return Slimmed(_changes(model, before), (_count(model, before), sum(p.numel() for p in model.parameters())))


def _cut(model: nn.Module, found: Follower) -> bool:
    """Remove every channel that nothing reads; whether there were any."""
    axes = {key: {dim: found.ties.roots(n) for dim, n in dims.items()} for key, dims in found.axes.items()}
    live = found.ties.root_set(found.read) | {STAYS}
    for roots in (roots for dims in axes.values() for roots in dims.values()):
        if live.isdisjoint(roots.tolist()):
            live.add(roots[0].item())  # a tensor without channels is no layer
    alive = torch.tensor(sorted(live))
    cut = False
    for key, dims in axes.items():
        tensor = found.tensors[key]
        for dim, roots in dims.items():
            keep = torch.isin(roots, alive)
            if not keep.all():
                select_(tensor, dim, keep.nonzero()[:, 0])
                cut = True
    resize_(model)
    return cut


@torch.no_grad()
def _run(model: nn.Module, example_input) -> list[Tensor]:
    with evaluating(model):
        return [t.clone() for t in tree_leaves(call(model, example_input)) if isinstance(t, Tensor)]


def _check_same(expected: list[Tensor], outputs: list[Tensor]) -> None:
    for before, after in zip(expected, outputs, strict=True):
        if not agrees(after, before):
            error = (after.double() - before.double()).norm()
            size = before.double().norm()
            raise ValueError(f"the output must agree to rounding, got a relative difference of {error / size:.1e}")


def _changes(model: nn.Module, before: dict[int, Tensor]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    pairs = {
        name: (tuple(before[id(module.weight)].shape), tuple(module.weight.shape))
        for name, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter)
    }
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}


def _count(model: nn.Module, before: dict[int, Tensor]) -> int:
    return sum(before[id(parameter)].numel() for parameter in model.parameters())


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
