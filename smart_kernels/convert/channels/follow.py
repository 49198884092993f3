"""Which channels live and die together, found by running a model once.

Every channel gets a number. Operators that move data (view, transpose, chunk, cat) are run on the numbers themselves;
operators that combine tensors element by element tie the numbers they meet; layers that mix channels start new ones.
Nothing is traced, so any Python may happen in ``forward``; tied weights and functional calls are seen as what they are.

    conv a  1 2 3 4 --.
                       + ---> 1=5 2=6 3=7 4=8 ---> flatten ---> 1 1 1 1 2 2 2 2 .. ---> linear reads columns in fours
    conv b  5 6 7 8 --'
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from smart_kernels.convert.modules import call, evaluating

from .operands import plain_name, tensors_of, written
from .output import some_tensor
from .places import Place, Places
from .rules import READERS, RULES
from .ties import STAYS, Channels, Ties


class Follower(TorchFunctionMode):
    """A recorder of what one forward does to the channels of a model.

    Args:
        model: what is run; it stays as it is.
        held: calls of operators, or inputs of modules, that need their channels in full number.

    Attributes:
        ties: which numbers are tied.
        axes: id of a Parameter or buffer -> its dimensions that hold channels, and their numbers.
        read: numbers whose value changes something that is not tied to them.
        dense, grouped, transposed: ids of the weights of layers that mix all channels, of grouped convolutions, and of
            those among the former with input channels first.
        notes: why channels stay that another model might lose, a line each; the keys of a dict, which has an order.
        failed: the call that raised the error which ended the forward, if an operator did.
    """

    def __init__(self, model: nn.Module, held: Collection[Place] = ()):
        super().__init__()
        self.ties = Ties()
        self.axes: dict[int, dict[int, Tensor]] = {}
        self.read: set[int] = set()
        self.dense: set[int] = set()
        self.grouped: set[int] = set()
        self.transposed: set[int] = set()
        self.notes: dict[str, None] = {}
        self.failed: Place | None = None
        self.tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
        self._model, self._held = (model, held)
        self._places = Places()
        self._channels, self._uses, self._makers, self._calls = (WeakTensorKeyDictionary() for _ in range(4))
        self._normalised: list[tuple[Tensor, int]] = []
        self._made: list[Tensor] = [torch.tensor([STAYS])]
        self._unread: dict[Place, list[Channels]] = {}

    @torch.no_grad()
    def run(self, example_input) -> "Follower":
        """Run the model in eval mode and conclude.

        Raises:
            ValueError: the output shows no tensor.
            Exception: whatever the model raises; ``trouble`` says where then.
        """
        with evaluating(self._model), self._places.watching(self._model, self._enter), self:
            outputs = some_tensor(call(self._model, example_input))
        self.stay(*outputs)
        for channels in self._unread.values():  # only something that is not seen here can have read them
            for each in channels:
                self.ties.stay(each.numbers)
        self._note_own_axes()
        return self

    @property
    def trouble(self) -> Place:
        """Return where the forward ended with an error."""
        return self.failed or Place(self._places.module)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        place = self._places.next(plain_name(function))
        try:
            out = function(*args, **kwargs)
        except Exception:
            self.failed = place
            raise
        self.failed = None
        inputs = tensors_of((args, kwargs))
        if any(t in self._channels or self.known(t) for t in inputs):
            self._follow(place, function, args, kwargs, inputs, out)
        return out

    def _follow(self, place: Place, function, args, kwargs, inputs: list[Tensor], out) -> None:
        outputs = tensors_of(out)
        changed = written(function, args, inputs, outputs)
        if not outputs and place.operator in READERS:
            self.stay(*inputs)
        if not outputs and not changed:
            return
        for t in inputs:
            self._uses[t] = self._uses.get(t, 0) + 1
            self._unread.pop(self._calls.get(t), None)
        found = self._rule(place, inputs)(self, function, args, kwargs, outputs or changed)
        self._forget_zeros(changed)
        self._unread[place] = [channels for channels in found if channels and self._removable(channels)]
        for y, channels in zip(outputs or changed, found, strict=True):
            self._channels[y] = channels or constant(y)
            self._calls[y] = place

    def _rule(self, place: Place, inputs: list[Tensor]):
        """Return the rule for a call; where there is none, or it must not be used, or fails, the channels stay."""

        def stay(follower, function, args, kwargs, outputs):
            self._note(place, inputs, why)
            self.stay(*inputs)
            return [None] * len(outputs)

        def attempt(*call):
            try:
                return RULES[place.operator](*call)
            except Exception:  # arguments that the rule was not made for; what it tied so far does no harm
                return stay(*call)

        why = "the model does not run with fewer" if place in self._held else "it is not known what becomes of them"
        return stay if place in self._held or place.operator not in RULES else attempt

    def _note(self, place: Place, inputs: list[Tensor], why: str) -> None:
        if any(t in self._channels and self._removable(self._channels[t]) for t in inputs):
            self.notes[f"channels stay that reach {place}: {why}"] = None

    def _enter(self, place: Place, inputs) -> None:
        if place in self._held:
            self._note(place, tensors_of(inputs), "the model does not run with fewer")
            self.stay(*tensors_of(inputs))

    def channels(self, tensor: Tensor) -> Channels:
        """Return the channels of any tensor: as found, or one for each element of a parameter, or constant.

        Integers are indices, so they are no channels, even where there are as many.
        """
        if tensor not in self._channels and self.known(tensor) and tensor.is_floating_point():
            numbers = self.ties.new(tensor.numel()).view(tensor.shape)
            self._channels[tensor] = Channels(numbers, (tensor.detach() == 0).cpu())
        return self._channels[tensor] if tensor in self._channels else constant(tensor)

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
        elif tensor is not None:
            found = self.channels(tensor).vector(dim, tensor.shape[dim])
            self.stay(*(() if found else (tensor,)))
            self.ties.tie(numbers, found[0] if found else STAYS)

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

    def _forget_zeros(self, changed: list[Tensor]) -> None:
        """Note that what lies in the memory of these was written: other views of it are no longer 0."""
        places = {t.untyped_storage().data_ptr() for t in changed}
        for tensor, (numbers, zero) in list(self._channels.items()) if places else ():
            if tensor.untyped_storage().data_ptr() in places:
                self._channels[tensor] = Channels(numbers, torch.zeros_like(zero))

    def _note_own_axes(self) -> None:
        """Note the axes of parameters and buffers that are used as they are; those that meet no layer's channels stay."""
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

    def _removable(self, channels: Channels) -> bool:
        return bool((self.ties.roots(channels.numbers) != STAYS).any())


def constant(tensor: Tensor) -> Channels:
    """Return the channels of a tensor that does not follow from the model's layers: they stay."""
    size = [1] * tensor.dim()
    return Channels(torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.bool))
