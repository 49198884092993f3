"""Where a model cuts channels into heads of an attention, found by running it once."""

from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from smart_kernels.convert.modules import call, evaluating

from .operands import first, plain_name, tensors_of
from .output import copied
from .places import Place, Places

CUTS = ("view", "reshape", "unflatten")
ATTENDS = ("scaled_dot_product_attention", "matmul", "bmm", "baddbmm")
STARTS = ("linear", "conv1d", "conv2d", "conv3d", "embedding")  # what comes out has heads of its own


class HeadFinder(TorchFunctionMode):
    """Find the views whose result goes into an attention, or what is computed from it does.

    A view of (.., C) as (.., H, D) says nothing by itself: D channels of each of H heads, or H parts that are treated
    alike. Where two activations are multiplied, channels of D are summed up, so all of a head live or die together.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self._model = model
        self._places = Places()
        self._cut = WeakTensorKeyDictionary()  # tensor -> the places of the views that it comes from
        self.found: set[Place] = set()

    def run(self, example_input) -> frozenset[Place]:
        """Run the model and return the places; of one that does not run, those up to its error."""
        try:
            with evaluating(self._model), self._places.watching(self._model, lambda *_: None), self:
                call(self._model, copied(example_input))
        except Exception:  # the user's forward may raise anything, and does so again where it is followed
            return frozenset(self.found)
        return frozenset(self.found)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        place = self._places.next(plain_name(function))
        out = function(*args, **kwargs)
        inputs = tensors_of((args, kwargs))
        cut = frozenset().union(*(self._cut.get(t, ()) for t in inputs))
        if place.operator in ATTENDS:
            self.found |= cut
        if place.operator in (*ATTENDS, *STARTS):
            return out
        if place.operator in CUTS and _is_cut(first(args, kwargs).shape, out.shape):
            cut |= {place}
        for y in tensors_of(out) if cut else ():
            self._cut[y] = cut
        return out


def _is_cut(before, after) -> bool:
    return len(after) > len(before) and before[0] == after[0] and max(before[1:], default=1) > 1
