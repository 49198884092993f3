"""Where a model cuts channels into heads of an attention, and by which numbers, found by running it once."""

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from smart_kernels.convert.modules import call, evaluating

from .numbers import SHAPES, Number, marked, sizes_given
from .operands import first, plain_name, tensors_of
from .output import copied
from .places import Place, Places

ATTENDS = ("scaled_dot_product_attention", "matmul", "bmm", "baddbmm")
STARTS = ("linear", "conv1d", "conv2d", "conv3d", "embedding")  # what comes out has heads of its own


class HeadFinder(TorchFunctionMode):
    """Find the views whose result goes into an attention, or what is computed from it does.

    A view of (.., C) as (.., H, D) says nothing by itself: D channels of each of H heads, or H parts that are treated
    alike. Where two activations are multiplied, channels of D are summed up, so all of a head live or die together.

    Attributes:
        found: the places of these views.
        sizes: place of any view -> dimensions of its result whose size a module keeps as a number, and which.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self._model = model
        self._places = Places()
        self._cut = WeakTensorKeyDictionary()  # tensor -> the places of the views that it comes from
        self._numbers: dict[int, Number] = {}
        self.found: set[Place] = set()
        self.sizes: dict[Place, dict[int, Number]] = {}

    @classmethod
    def of(cls, model: nn.Module, example_input) -> "HeadFinder":
        """Run the model; of one that does not run with its numbers marked, those stay, and of others after an error."""
        finder = cls(model)
        with marked(model) as finder._numbers:
            if finder._runs(example_input):
                return finder
        finder = cls(model)
        finder._runs(example_input)
        return finder

    def _runs(self, example_input) -> bool:
        try:
            with evaluating(self._model), self._places.watching(self._model, lambda *_: None), self:
                call(self._model, copied(example_input))
        except Exception:  # the user's forward may raise anything, and does so again where it is followed
            return False
        return True

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        place = self._places.next(plain_name(function))
        out = function(*args, **kwargs)
        inputs = tensors_of((args, kwargs))
        if place.operator in SHAPES:
            self._note_sizes(place, sizes_given(place.operator, args, kwargs), out)
        cut = frozenset().union(*(self._cut.get(t, ()) for t in inputs))
        if place.operator in ATTENDS:
            self.found |= cut
        if place.operator in (*ATTENDS, *STARTS):
            return out
        if place.operator in SHAPES and _is_cut(first(args, kwargs).shape, out.shape):
            cut |= {place}
        for y in tensors_of(out) if cut else ():
            self._cut[y] = cut
        return out

    def _note_sizes(self, place: Place, given: dict[int, object], out: Tensor) -> None:
        """Note the sizes that are numbers of modules; -1 for instance is one that says nothing."""
        kept = {dim: self._numbers[id(size)] for dim, size in given.items() if id(size) in self._numbers}
        self.sizes[place] = {dim: number for dim, number in kept.items() if out.shape[dim] == given[dim]}


def _is_cut(before, after) -> bool:
    return len(after) > len(before) and before[0] == after[0] and max(before[1:], default=1) > 1
