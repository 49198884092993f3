"""``slim_``: channels that are exactly 0, or that nobody reads, leave the model; what is left are smaller layers."""

import logging
from dataclasses import dataclass

from torch import Tensor, nn

from smart_kernels.convert.modules import check_whole
from smart_kernels.nn import Masked, Sparse

from .remove import remove_
from .resize import note_, sizes

logger = logging.getLogger("smart_kernels")


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
    its output is the same but for rounding. Numbers that modules keep and cut channels by, ``self.num_heads`` in a
    ``view``, are set to what is left. Where it does not run with fewer channels, sizes written into its ``forward`` for
    instance, they stay, with one line in the log.

    Args:
        model: plain, as ``SmartPruner.finalize`` or ``unmask_`` leave it; not yet ``compress_``-ed.
        example_input: tensor, tuple of positional or dict of keyword arguments, shaped like the real input.

    Returns:
        The layers that became smaller; ``print`` shows them.

    Raises:
        ValueError: masked or sparse layers, an output without a tensor, or one that changed. The model is as it was
            then, as after any other error.
    """
    if any(isinstance(module, Masked | Sparse) for module in model.modules()):
        raise ValueError("slim_ needs plain layers: call finalize() or unmask_(model) before, and compress_ after it")
    check_whole(model, "slim_")
    before = {id(t): t.data for t in (*model.parameters(), *model.buffers())}
    old_sizes = sizes(model)
    for note in remove_(model, example_input).notes:
        logger.warning(note)
    note_(model, {name: size for name, size in sizes(model).items() if size != old_sizes[name]})
    return Slimmed(_changes(model, before), (_count(model, before), sum(p.numel() for p in model.parameters())))


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
