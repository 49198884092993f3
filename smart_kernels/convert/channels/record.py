"""Record the channels of a model and of its tensors while it runs; rules write it. See ``follow.py``."""

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from .numbers import Number
from .ties import STAYS, Channels, Ties, constant


class Record:
    """Hold all that is known of a model's channels.

    Attributes:
        ties: which numbers are tied.
        axes: id of a Parameter or buffer -> its dimensions that hold channels, and their numbers.
        read: numbers whose value changes something that is not tied to them.
        dense, grouped, transposed: ids of the weights of layers that mix all channels, of grouped convolutions, and of
            those among the former with input channels first.
        tensors: the Parameters and buffers by id.
        cut: numbers that modules keep -> the channels along each dimension of a view that had its size from there.
        why: id of the weight of a layer -> why its channels stay, in a few words, where an operator needs them.
        notes: why channels stay that another model might lose, a line each; the keys of a dict, which has an order.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.ties = Ties()
        self.axes: dict[int, dict[int, Tensor]] = {}
        self.read: set[int] = set()
        self.dense: set[int] = set()
        self.grouped: set[int] = set()
        self.transposed: set[int] = set()
        self.tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
        self.cut: dict[Number, list[Tensor]] = {}
        self.why: dict[int, str] = {}
        self.notes: dict[str, None] = {}
        self._channels = WeakTensorKeyDictionary()
        self._uses = WeakTensorKeyDictionary()  # how many operators have read a tensor
        self._makers = WeakTensorKeyDictionary()  # outputs of layers -> ids of their weights
        self._normalised: list[tuple[Tensor, int]] = []
        self._made: list[Tensor] = [torch.tensor([STAYS])]

    def channels(self, tensor: Tensor) -> Channels:
        """Return the channels of any tensor: as found, or one for each element of a parameter, or constant.

        Integers are indices, so they are no channels, even where there are as many.
        """
        if tensor not in self._channels and self.known(tensor) and tensor.is_floating_point():
            numbers = self.ties.new(tensor.numel()).view(tensor.shape)
            self._channels[tensor] = Channels(numbers, (tensor.detach() == 0).cpu())
        return self._channels[tensor] if tensor in self._channels else constant(tensor)

    def unite(self, tensor: Tensor, dim: int) -> None:
        """Tie all channels along a dimension of a tensor."""
        numbers, zero = self.channels(tensor)
        self.ties.tie(numbers.narrow(dim, 0, 1), numbers)
        self._channels[tensor] = Channels(numbers.narrow(dim, 0, 1), zero.all(dim, keepdim=True))

    def cut_by(self, number: Number, view: Tensor, dim: int) -> None:
        """Note that ``number`` is how many channels this dimension of a view holds."""
        size = view.shape[dim]
        found = self.channels(view).vector(dim, size)
        self.cut.setdefault(number, []).append(torch.full((size,), STAYS) if found is None else found[0])

    def known(self, tensor: Tensor | None) -> bool:
        """Return whether it is a parameter or buffer of the model."""
        return id(tensor) in self.tensors

    def new(self, count: int) -> Tensor:
        """Return the numbers of channels that a layer makes."""
        self._made.append(self.ties.new(count))
        return self._made[-1]

    def axis(self, tensor: Tensor | None, dim: int, numbers: Tensor) -> None:
        """Note that dimension ``dim`` of a tensor holds these channels."""
        if self.known(tensor):
            self.ties.tie(self.axes.setdefault(id(tensor), {}).setdefault(dim, numbers), numbers)
        elif tensor is not None:  # computed from others
            found = self.channels(tensor).vector(dim, tensor.shape[dim])
            if found is None:
                self.stay(tensor)
            self.ties.tie(numbers, STAYS if found is None else found[0])

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

    def removable(self, tensors: list[Tensor]) -> bool:
        """Return whether a channel of these does not stay so far."""
        found = [self._channels[t].numbers for t in tensors if t in self._channels]
        return any((self.ties.roots(numbers) != STAYS).any() for numbers in found)

    def explain(self, why: str) -> None:
        """Note why the layers stay that were not known to stay until now."""
        for key in (self.dense | self.grouped) - self.why.keys():
            if (self.ties.roots(self.axes[key][key in self.transposed]) == STAYS).any():
                self.why[key] = why

    def note_own_axes(self) -> None:
        """Note the axes of parameters and buffers that are used as they are, after all.

        Those that share no channel with a layer stay, even where they are as long as one.
        """
        used = [tensor for tensor in self.tensors.values() if tensor in self._channels]
        made = self.ties.roots(torch.cat(self._made))
        for tensor in used:
            numbers = self._channels[tensor].numbers
            if not torch.isin(self.ties.roots(numbers), made).all():
                self.ties.stay(numbers)
        for tensor in used:
            roots = self.ties.roots(self._channels[tensor].numbers)
            thin = Channels.thin(roots, torch.zeros_like(roots, dtype=torch.bool)).numbers
            dims = [dim for dim, size in enumerate(thin.shape) if size > 1]
            if len(dims) == 1:
                self.axis(tensor, dims[0], thin.flatten())
            else:
                self.ties.stay(thin)
