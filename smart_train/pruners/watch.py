"""Mistakes in a training loop that would pass in silence: each is said once, in one line.

Everything here is read off counters that torch keeps on the host: no value of a tensor is looked at.
"""

import warnings
from typing import Any
from weakref import ref

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from smart_kernels import Masked
from smart_kernels.nn import Following
from smart_train.masks import MaskedModel

LATE = 3  # optimizer steps without step(), and doubled calls of it, before something is said
STILL = 5  # steps of the search in which weights move and what the pruner learns does not


class Watch:
    """Watch the weights between two calls of ``Pruner.step()``.

    Args:
        masked: the model.
    """

    def __init__(self, masked: MaskedModel):
        self.masked = masked
        self.said: set[str] = set()
        self.open = True  # whether step() has something left to do
        self.doubled = 0
        self.idle = False
        self.still = 0
        self.alive = False
        self.placed = False  # whether the layers were looked for since the pruner was made
        self.places = {n: m for n, m in masked.model.named_modules() if isinstance(m, Masked | Following)}
        self.hook = None
        self.settle([])

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the hook, which hangs on a weight; a copy makes one of its own."""
        return vars(self) | {"hook": None}

    def settle(self, learning: list[nn.Parameter]) -> None:
        """Remember everything as it is at the end of ``Pruner.step()``; ``learning`` beside the weights by now."""
        weight = self._weight()
        self.late = 0
        self.evaluated = False
        self.before = _version(weight)
        self.last = self.before
        self.place = None if weight is None else (weight.device, weight.dtype)
        self.learnt = _versions(learning)
        if self.hook is None and self.open:
            self.hook = self._follow_backward()

    def step(self, learning: list[nn.Parameter]) -> None:
        """Look at what has happened since the last ``settle()``."""
        if not self.placed:
            self._check_places()
        moved = _version(self._weight()) != self.before
        if moved:
            self._after_update(learning)
        self.idle = not moved

    def _after_update(self, learning: list[nn.Parameter]) -> None:
        """Look at the loop after an optimizer step."""
        self.doubled = self.doubled + 1 if self.idle else 0
        if self.doubled >= LATE:
            self._say("step() must come once per optimizer step, got two or more: budget and temperature run ahead")
        if self.evaluated and _minds_mode(self.masked.model):
            self._say("the model was trained in eval mode, without dropout and new averages: call model.train()")
        if self.learnt:
            self.alive |= self.learnt != _versions(learning)
            self.still += 1
        if self.still >= STILL:
            self._check_learning()

    def _check_places(self) -> None:
        """Look for the masked layers: whoever has exchanged a module after the pruner was made prunes nothing there."""
        self.placed = True
        there = set(self.masked.model.modules())
        lost = [name for name, layer in self.places.items() if layer not in there]
        if lost:
            names = ", ".join(lost[:3])
            self._say(f"the model must keep its modules, got others in the place of {names}: exchange them before")

    def _check_learning(self) -> None:
        if self.still and not self.alive:
            self._say(
                "the scores never change while the weights do: no optimizer has them; "
                "make it after the pruner, with pruner.param_group() beside pruner.weights()"
            )

    def close(self) -> None:
        """Look for the last time, before the masks are fixed."""
        self._check_learning()
        self._check_places()
        self.open = False
        if self.hook is not None:
            self.hook.remove()

    def zeros(self) -> None:
        """Look once more, after ``finalize()``, when an optimizer has moved a weight: are its zeros still there?"""
        layer = next((layer for layer in self.masked.layers.values() if layer.weight.requires_grad), None)
        if layer is None:
            return
        shape, version, zeros = layer.weight.shape, layer.weight._version, _zeros(layer.weight)
        pruned = ref(layer)

        def hook(weight):
            if weight._version == version:
                return
            handle.remove()
            again = pruned() is None or hasattr(pruned(), "raw_weight")  # another pruner holds them by now
            if not again and weight.shape == shape and _zeros(weight) < zeros:
                warnings.warn(
                    "pruned weights come back: train before finalize(), which leaves plain layers", stacklevel=2
                )

        handle = layer.weight.register_post_accumulate_grad_hook(hook)

    def _follow_backward(self):
        weight = self._weight()
        watch = ref(self)

        def hook(_):
            if (own := watch()) is not None:
                own._backward()

        return None if weight is None else weight.register_post_accumulate_grad_hook(hook)

    def _backward(self) -> None:
        weight = self._weight()
        self.evaluated |= not self.masked.model.training
        if (weight.device, weight.dtype) != self.place:
            self._say(f"the model was moved to {weight.device}, {weight.dtype} after step(): move it before")
        self.late += self.last != _version(weight)
        self.last = _version(weight)
        if self.late >= LATE:
            self._say(f"step() must come before the forward of each optimizer step, got {LATE} steps without it")

    def _weight(self) -> nn.Parameter | None:
        weights = (layer.raw_weight for layer in self.masked.layers.values())
        return next((weight for weight in weights if weight.requires_grad), None)

    def _say(self, text: str) -> None:
        if self.open and text not in self.said:
            self.said.add(text)
            warnings.warn(text, stacklevel=4)


def _version(weight: nn.Parameter | None) -> int:
    return 0 if weight is None else weight._version


def _zeros(weight: nn.Parameter) -> int:
    return weight.numel() - int(weight.detach().count_nonzero())


def _versions(learning: list[nn.Parameter]) -> list[int]:
    return [each._version for each in learning if each.requires_grad]


def _minds_mode(model: nn.Module) -> bool:
    return any(isinstance(module, _NormBase | _DropoutNd) for module in model.modules())
