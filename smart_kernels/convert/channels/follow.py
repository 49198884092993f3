"""Which channels live and die together, found by running a model once.

Every channel gets a number. Operators that move data (view, transpose, chunk, cat) are run on the numbers themselves;
operators that combine tensors element by element tie the numbers they meet; layers that mix channels start new ones.
Nothing is traced, so any Python may happen in ``forward``; tied weights and functional calls are seen as what they are.

    conv a  1 2 3 4 --.
                       + ---> 1=5 2=6 3=7 4=8 ---> flatten ---> 1 1 1 1 2 2 2 2 .. ---> linear reads columns in fours
    conv b  5 6 7 8 --'
"""

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from smart_kernels.convert.modules import call, evaluating

from .rules import RULES
from .ties import STAYS, Channels, Ties


class Follower(TorchFunctionMode):
    """A recorder of what one forward does to the channels of a model.

    Attributes:
        ties: which numbers are tied.
        axes: id of a Parameter or buffer -> its dimensions that hold channels, and their numbers.
        read: numbers whose value changes something that is not tied to them.
        dense, grouped, transposed: ids of the weights of layers that mix all channels, of grouped convolutions, and of
            those among the former with input channels first.
        place: name of the module that runs.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.ties = Ties()
        self.axes: dict[int, dict[int, Tensor]] = {}
        self.read: set[int] = set()
        self.place = ""
        self.dense: set[int] = set()
        self.grouped: set[int] = set()
        self.transposed: set[int] = set()
        self.tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
        self._channels, self._uses, self._makers = (WeakTensorKeyDictionary() for _ in range(3))
        self._normalised: list[tuple[Tensor, int]] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if not outputs or not any(t in self._channels or id(t) in self.tensors for t in inputs):
            return out
        for t in inputs:
            self._uses[t] = self._uses.get(t, 0) + 1
        name = function.__name__.strip("_")
        rule = RULES.get(name)
        if rule is None and any(t in self._channels and self._removable(self._channels[t]) for t in inputs):
            raise ValueError(f"channels can be followed through known operators only, got {name} in {self.place}")
        found = rule(self, function, args, kwargs, outputs) if rule else [None] * len(outputs)
        for y, channels in zip(outputs, found, strict=True):
            self._channels[y] = channels or constant(y)
        return out

    def channels(self, tensor: Tensor) -> Channels:
        """Return the channels of any tensor: as found, or one for each element of a parameter, or constant."""
        if tensor not in self._channels and id(tensor) in self.tensors:
            numbers = self.ties.new(tensor.numel()).view(tensor.shape)
            self._channels[tensor] = Channels(numbers, (tensor.detach() == 0).cpu())
        return self._channels[tensor] if tensor in self._channels else constant(tensor)

    def known(self, tensor: Tensor | None) -> bool:
        """Return whether it is a parameter or buffer of the model."""
        return id(tensor) in self.tensors

    def axis(self, tensor: Tensor | None, dim: int, numbers: Tensor) -> None:
        """Note that dimension ``dim`` of a parameter or buffer holds these channels."""
        if tensor is not None:
            self.ties.tie(self.axes.setdefault(id(tensor), {}).setdefault(dim, numbers), numbers)

    def stay(self, *tensors: Tensor) -> None:
        """Note that the channels of these cannot be removed."""
        for tensor in tensors:
            self.ties.stay(self.channels(tensor).numbers)

    def made(self, y: Tensor, weight: Tensor) -> None:
        """Note that ``y`` is the output of the layer with this weight."""
        self._makers[y] = id(weight)

    def normalised(self, x: Tensor, norm: Tensor | None) -> None:
        """Note that ``x`` goes into the BatchNorm with this weight."""
        if norm is not None and x in self._makers:
            self._normalised.append((x, id(norm)))

    def followers(self) -> dict[int, int]:
        """Map the id of a layer's weight to that of the BatchNorm which alone reads its output."""
        return {self._makers[x]: norm for x, norm in self._normalised if self._uses[x] == 1}

    def finish(self, outputs) -> "Follower":
        """Conclude after the forward: what the model returns stays, parameters used as they are get their axes."""
        self.stay(*(t for t in tree_leaves(outputs) if isinstance(t, Tensor)))
        for tensor in self.tensors.values():
            if tensor in self._channels:
                self._own_axis(tensor, self._channels[tensor])
        return self

    def _own_axis(self, tensor: Tensor, channels: Channels) -> None:
        thin = Channels.thin(self.ties.roots(channels.numbers), channels.zero.new_zeros(()).expand(tensor.shape))
        dims = [dim for dim, size in enumerate(thin.numbers.shape) if size > 1]
        if len(dims) == 1:
            self.axis(tensor, dims[0], thin.numbers.flatten())
        else:
            self.ties.stay(channels.numbers)

    def _removable(self, channels: Channels) -> bool:
        return bool((self.ties.roots(channels.numbers.unique()) != STAYS).any())


def constant(tensor: Tensor) -> Channels:
    """Return the channels of a tensor that does not follow from the model's layers: they stay."""
    size = [1] * tensor.dim()
    return Channels(torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.bool))


@torch.no_grad()
def follow(model: nn.Module, example_input) -> Follower:
    """Run the model once, in eval mode, and say which of its channels belong together.

    Raises:
        ValueError: channels reach an operator without a rule; the message names it and the module that calls it.
    """
    follower = Follower(model)
    hooks = []
    for name, module in model.named_modules():
        hooks.append(
            module.register_forward_pre_hook(lambda _, __, name=name: setattr(follower, "place", name), prepend=True)
        )
    try:
        with evaluating(model), follower:
            return follower.finish(call(model, example_input))
    finally:
        for hook in hooks:
            hook.remove()
