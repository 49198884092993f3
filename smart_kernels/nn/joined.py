"""Layers that read the same tensor one after the other, such as query, key and value: one launch for all of them."""

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from smart_kernels.formats import Format, Zeros
from smart_kernels.formats.prepared import eager_inference, state


class Joined:
    """Layers whose weights are stored below each other as well, in the order in which the model calls them.

    In inference the first of them computes the outputs of all, as columns of one buffer, and the others, called with
    the same tensor, return theirs. A layer that is called with another one, or with the same after it has been written
    into, computes its own; so it does without the first. Under ``torch.inference_mode`` torch does not count what is
    written into a tensor. Gradients, autocast and compilers see the layers by themselves.

    The weights stay in the layers, which train, move and are saved as before; what is joined derives from them, and
    anew when they have changed. It takes as much memory again as these layers store.

    Args:
        layers: sparse linear ones of one format, with equal inputs.
        tile: of which all or nothing is kept in all of them, or None.
    """

    def __init__(self, layers: Sequence, tile: tuple[int, int] | None):
        self.layers = tuple(layers)
        self.tile = tile
        self._made: tuple[tuple, Format, Tensor | None] | None = None
        self._ready: tuple[weakref.ref, int, dict] | None = None

    def output(self, layer, x: Tensor) -> Tensor | None:
        """Return the output of one of the layers for x; None where it has to compute it alone."""
        if torch.compiler.is_compiling() or any(getattr(each, "joined", None) is not self for each in self.layers):
            return None  # one has become another since
        if not eager_inference(x, *self._tensors()):
            return None
        if layer is self.layers[0]:
            return self._first(x)
        ready = self._ready
        if ready is None or ready[0]() is not x or ready[1] != _version(x):
            return None
        y = ready[2].pop(id(layer), None)
        if not ready[2]:
            self._ready = None
        return y

    def _first(self, x: Tensor) -> Tensor:
        self._ready = None  # frees what was computed for another x before more is
        format, bias = self._format()
        y, begin, parts = format.linear(x, bias), 0, {}
        for layer in self.layers:
            parts[id(layer)] = y.narrow(-1, begin, layer.out_features)
            begin += layer.out_features
        first = parts.pop(id(self.layers[0]))
        self._ready = weakref.ref(x), _version(x), parts
        return first

    def _tensors(self) -> list[Tensor | None]:
        return [tensor for each in self.layers for tensor in (each.format.values, each._parameters["bias"])]

    def _format(self) -> tuple[Format, Tensor | None]:
        now = state(*self._tensors())
        if self._made is None or self._made[0] != now:
            with torch.inference_mode(False), torch.no_grad():
                self._made = now, *joined(self.layers, self.tile)
        return self._made[1:]

    def __getstate__(self):
        return {**self.__dict__, "_made": None, "_ready": None}


def joined(layers: Sequence, tile: tuple[int, int] | None) -> tuple[Format, Tensor | None]:
    """Return the weights of layers below each other in their format, and their biases likewise.

    Raises:
        ValueError: the format cannot hold them together.
    """
    first = layers[0].format
    weight = torch.cat([layer.format.to_dense().detach() for layer in layers])
    format = type(first).from_zeros(Zeros(weight, 1, tile), **first.options())
    biases = [layer.live_bias() for layer in layers]
    if all(bias is None for bias in biases):
        return format, None
    pairs = zip(biases, layers, strict=True)
    return format, torch.cat([weight.new_zeros(each.out_features) if bias is None else bias for bias, each in pairs])


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
