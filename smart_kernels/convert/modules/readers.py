"""Who reads the outputs and the weights of layers, observed while a model runs."""

import gc
from collections import Counter

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from .graph import input_of
from .plain import LAYERS, plain_batchnorm

LOOKS = {"dim", "size", "numel", "stride", "__get__", "__len__", "ndimension", "is_floating_point", "is_contiguous"}


class Readers(TorchFunctionMode):
    """A recorder of one forward, for the plain layers and BatchNorms of a model."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self._made = WeakTensorKeyDictionary()  # output -> the layer
        self._reads = WeakTensorKeyDictionary()  # output -> functions that read it
        self._weights: Counter[int] = Counter()  # id of a Parameter or buffer -> how many functions read it
        self._calls: Counter[nn.Module] = Counter()
        self._found: list[tuple[nn.Module, nn.Module, Tensor]] = []
        self._hooks = []
        for module in model.modules():
            if type(module) in LAYERS:
                self._hooks.append(module.register_forward_hook(self._layer, with_kwargs=True))
            elif plain_batchnorm(module):
                self._hooks.append(module.register_forward_pre_hook(self._norm, with_kwargs=True))

    def remove_hooks(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    def pairs(self, returned) -> dict[nn.Module, nn.Module]:
        """Return the layers that a BatchNorm alone has read, with it.

        Args:
            returned: what the model returned, held by the caller: an output that is still alive is in there, or has
                been put away elsewhere, and somebody may read it later.
        """
        if len(self._reads):
            gc.collect()
        alive = {id(self._made[y]) for y in self._made}
        return {
            layer: norm
            for layer, norm, reads in self._found
            if reads == [F.batch_norm]
            and id(layer) not in alive
            and self._calls[layer] == self._calls[norm] == 1
            and all(self._weights[id(t)] <= 1 for m in (layer, norm) for t in (*m.parameters(), *m.buffers()))
        }

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if function.__name__ not in LOOKS or any(isinstance(t, Tensor) for t in tree_leaves(out)):
            for t in inputs:
                self._weights[id(t)] += 1
                if t in self._reads:
                    self._reads[t].append(function)
        return out

    def _layer(self, module, args, kwargs, y) -> None:
        self._calls[module] += 1
        self._made[y] = module
        self._reads[y] = []

    def _norm(self, module, args, kwargs) -> None:
        self._calls[module] += 1
        x = input_of(args, kwargs)
        if x in self._made:
            self._found.append((self._made[x], module, self._reads[x]))
