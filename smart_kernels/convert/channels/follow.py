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

from .follow_heads import cut_into_heads
from .heads import HeadFinder
from .numbers import Number
from .operands import plain_name, tensors_of, written
from .output import copied, some_tensor
from .places import Place, Places
from .record import Record
from .rules import READERS, RULES
from .ties import STAYS, Channels, constant

NOT_FEWER = "the model does not run with fewer"
NOT_KNOWN = "it is not known what becomes of them"


class Follower(Record, TorchFunctionMode):
    """A recorder of what one forward does to the channels of a model.

    Args:
        model: what is run; it stays as it is.
        held: calls of operators, or inputs of modules, that need their channels in full number; and numbers that
            modules keep and that have to stay.
    """

    def __init__(self, model: nn.Module, held: Collection[Place | Number] = ()):
        super().__init__(model)
        self._model = model
        self._held = held
        self._places = Places()
        self._heads = HeadFinder(model)
        self._failed: Place | None = None
        self._calls = WeakTensorKeyDictionary()  # tensor -> the call that made it
        self._unread: dict[Place, list[Tensor]] = {}  # numbers that no operator has read yet

    @torch.no_grad()
    def run(self, example_input) -> "Follower":
        """Run the model in eval mode and conclude.

        Raises:
            ValueError: the output shows no tensor.
            Exception: whatever the model raises; ``trouble`` says where then.
        """
        self._heads = HeadFinder.of(self._model, example_input)
        with evaluating(self._model), self._places.watching(self._model, self._enter), self:
            outputs = some_tensor(call(self._model, copied(example_input)))
        self.stay(*outputs)
        self.explain("the model returns them")
        self._hold_unread()
        self.note_own_axes()
        return self

    @property
    def trouble(self) -> Place:
        """Return where the forward ended with an error."""
        return self._failed or Place(self._places.module)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        place = self._places.next(plain_name(function))
        try:
            out = function(*args, **kwargs)
        except Exception:
            self._failed = place
            raise
        self._failed = None
        inputs = tensors_of((args, kwargs))
        if any(t in self._channels or self.known(t) for t in inputs):
            self._follow(place, function, args, kwargs, inputs, out)
        for dim, number in self._heads.sizes.get(place, {}).items():
            self.cut_by(number, out, dim)
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
        zeros = [self.channels(t).zero for t in changed]
        results = outputs or changed
        for y, channels in zip(results, self._apply(place, inputs, function, args, kwargs, results), strict=True):
            self._channels[y] = channels
            self._calls[y] = place
        if any((before & ~self._channels[t].zero).any() for t, before in zip(changed, zeros, strict=True)):
            self._forget_zeros(changed)
        if not any(t._base is not None for t in changed):  # a write into a view is read where the rest of it is
            self._unread[place] = [self._channels[y].numbers for y in results if self.removable([y])]

    def _apply(self, place: Place, inputs: list[Tensor], function, args, kwargs, outputs) -> list[Channels]:
        """Return the channels of the outputs by the rule for the call; without one those of the inputs stay."""
        free = [t for t in inputs if t in self._channels and self.removable([t])]
        followed = self._ruled(place, inputs, function, args, kwargs, outputs)
        if free and not self.removable(free):
            others = any(t in self._channels and not self.known(t) for t in inputs if not any(t is f for f in free))
            self.explain(f"{place.operator} {'ties them to others that stay' if others else 'needs all of them'}")
        return followed

    def _ruled(self, place: Place, inputs: list[Tensor], function, args, kwargs, outputs) -> list[Channels]:
        if place in self._held:
            self._hold(place, inputs, NOT_FEWER)
        try:
            rule = cut_into_heads if place in self._heads.found else RULES[place.operator]
            found = rule(self, function, args, kwargs, outputs)
            return [channels or constant(y) for y, channels in zip(outputs, found, strict=True)]
        except Exception:  # no rule, or arguments that it was not made for; what it has tied so far does no harm
            self._hold(place, inputs, NOT_KNOWN)
            return [constant(y) for y in outputs]

    def _hold(self, place: Place, inputs: list[Tensor], why: str) -> None:
        if self.removable(inputs):
            self.notes[f"channels stay that reach {place}: {why}"] = None
        self.stay(*inputs)

    def _hold_unread(self) -> None:
        """Let channels stay that only something which is not seen here can have read."""
        for place, each in self._unread.items():
            if any((self.ties.roots(numbers) != STAYS).any() for numbers in each):
                self.notes[f"channels stay that leave {place}: it is not seen what reads them"] = None
            for numbers in each:
                self.ties.stay(numbers)

    def _enter(self, place: Place, inputs) -> None:
        if place in self._held:
            self._hold(place, tensors_of(inputs), NOT_FEWER)

    def _forget_zeros(self, changed: list[Tensor]) -> None:
        """Note that what lies in the memory of these was written: other views of it are no longer 0."""
        written_places = {_memory(t) for t in changed}
        for tensor, (numbers, zero) in list(self._channels.items()):
            if _memory(tensor) in written_places and not any(tensor is t for t in changed):
                self._channels[tensor] = Channels(numbers, torch.zeros_like(zero))


def _memory(tensor: Tensor) -> int:
    """Return where the memory of a tensor begins; -1 where it is not one piece."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else -1
