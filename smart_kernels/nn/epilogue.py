"""What a model does with the output of a layer before anybody else reads it, as far as the layer's kernel can do it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Epilogue(NamedTuple):
    """What follows a layer: ``activation(y + other)``, ``activation(y)`` or ``y + other``.

    Attributes:
        activation: a key of ``reference.common.epilogue.ACTIVATIONS``, or None.
        residual: whether another tensor is added first.
    """

    activation: str | None = None
    residual: bool = False

    def __bool__(self) -> bool:
        return self.residual or self.activation is not None

    def ends_with(self, activation: str | None, residual: bool) -> bool:
        """Return whether nothing of it is to come after these."""
        return self.activation == activation and self.residual == residual

    def seen(self, layer, activation: str | None, residual: bool) -> None:
        """Take note of what a layer has computed: nothing here, see ``convert.compress.fusing``."""

    def spoiled(self, layer) -> None:
        """Raise ``RuntimeError``: what the output of the layer depends on has changed before it was computed."""
        raise RuntimeError(
            f"the input of a {type(layer).__name__}, and what is added to its output, must stay as they are until the "
            f"output is read, for it is computed with its epilogue {self}; got a write into one. Set it to None"
        )

    def __str__(self) -> str:
        return "+".join([*["residual"] * self.residual, *filter(None, [self.activation])])


class Step(NamedTuple):
    """A function that an epilogue may consist of, as it was called.

    Attributes:
        y: what it was called on.
        activation: its name, or None.
        others: tensors, each with what may be added to it; of several one is taken.
        in_place: whether ``y`` itself changes.
    """

    y: object
    activation: str | None = None
    others: tuple[tuple[object, object], ...] = ()
    in_place: bool = False

    @property
    def nothing(self) -> bool:
        """Return whether it returns what it was called on."""
        return self.activation is None and not self.others


def _gelu(kwargs: dict) -> str | None:
    return {"none": "gelu", "tanh": "gelu_tanh"}.get(kwargs.get("approximate", "none"))


def _hardtanh(kwargs: dict) -> str | None:
    return "relu6" if (kwargs.get("min_val", -1.0), kwargs.get("max_val", 1.0)) == (0, 6) else None


def _named(name: str) -> Callable[[dict], str]:
    return lambda kwargs: name


RELU = (F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_)
ACTIVATIONS: dict[Callable, Callable[[dict], str | None]] = {
    **dict.fromkeys(RELU, _named("relu")),
    F.relu6: _named("relu6"),
    F.hardtanh: _hardtanh,
    F.gelu: _gelu,
    F.silu: _named("silu"),
}
ADDITIONS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)
ADDITIONS_IN_PLACE = (Tensor.add_, Tensor.__iadd__)
DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout)
SETTINGS = {"inplace", "approximate", "min_val", "max_val"}


def step_of(function: Callable, args: tuple, kwargs: dict) -> Step | None:
    """Say which step of an epilogue a call of a function of torch is, or None."""
    if function in ACTIVATIONS and len(args) == 1 and kwargs.keys() <= SETTINGS:
        name = ACTIVATIONS[function](kwargs)
        in_place = bool(kwargs.get("inplace")) or function.__name__.endswith("_")
        return None if name is None else Step(args[0], name, in_place=in_place)
    if function in DROPOUTS and len(args) == 1 and kwargs.get("training") is False:
        return Step(args[0])
    in_place = function in ADDITIONS_IN_PLACE
    tensors = len(args) == 2 and isinstance(args[0], Tensor) and isinstance(args[1], Tensor)
    if not tensors or not (in_place or function in ADDITIONS) or kwargs not in ({}, {"alpha": 1}):
        return None
    return Step(args[0], others=(args,) if in_place else (args, args[::-1]), in_place=in_place)
