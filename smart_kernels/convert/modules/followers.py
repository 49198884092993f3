"""Which BatchNorm alone reads the output of which layer: proven on every path of the code, or seen in a run."""

import inspect
from collections import Counter
from collections.abc import Iterator

import torch.fx
from torch import nn

from .graph import call, evaluating
from .outputs import same_random_numbers
from .plain import BATCHNORMS, plain_batchnorm
from .readers import Readers
from .transaction import Snapshot

PATHS = 16  # branches that depend on data are followed both ways, up to this many ways through a forward

Pairs = dict[nn.Module, nn.Module]  # layer -> the BatchNorm


def following_batchnorms(model: nn.Module, example_input=None) -> Pairs | None:
    """Find layers whose output goes into a BatchNorm and nowhere else, both called once, with that BatchNorm.

    The forward is traced; an ``if`` that depends on data is followed both ways. Where tracing fails, the model is run
    on the example, and who reads what is observed.

    Args:
        model: any.
        example_input: what to run it on; without one, nothing is run.

    Returns:
        None where nothing could be found out.
    """
    if not any(plain_batchnorm(module) for module in model.modules()):
        return {}
    before = Snapshot(model)  # a forward may leave something in its module
    try:
        with same_random_numbers():
            found = _traced(model)
    finally:
        before.put_back()
    if found is None and example_input is not None:
        found = _observed(model, example_input)
    return found


def _traced(model: nn.Module) -> Pairs | None:
    """Return what holds on every path, with defaults of arguments and without; None where no trace succeeds."""
    if "forward" in vars(model):  # the tracer would follow that of the class
        return None
    parameters = inspect.signature(model.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    runs = [_on_every_path(model, defaults)] + ([_on_every_path(model, {})] if defaults else [])
    found = [pairs for pairs in runs if pairs is not None]
    if not found:
        return None
    return {layer: norm for layer, norm in found[0].items() if all(pairs.get(layer) is norm for pairs in found)}


def _on_every_path(model: nn.Module, defaults: dict) -> Pairs | None:
    try:
        paths = [_Path(model, graph) for graph in _graphs(model, defaults)]
    except Exception:  # tracing runs the user's forward, which may raise anything
        return None
    pairs = {layer: norm for path in paths for layer, norm in path.pairs.items()}
    return {layer: norm for layer, norm in pairs.items() if all(path.allows(layer, norm) for path in paths)}


class _Path:
    """What one way through a forward says."""

    def __init__(self, model: nn.Module, graph: torch.fx.Graph):
        called = {node: model.get_submodule(node.target) for node in graph.nodes if node.op == "call_module"}
        self.times = Counter(called.values())
        read = {node.target.rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
        self.read = {module for node, module in called.items() if node.target in read}  # their weights, directly
        self.pairs: Pairs = {}
        for node, module in called.items():
            source = node.args[0] if node.args else node.kwargs.get("input")
            if plain_batchnorm(module) and source in called and len(source.users) == 1:
                self.pairs[called[source]] = module

    def allows(self, layer: nn.Module, norm: nn.Module) -> bool:
        """Return whether the BatchNorm alone reads the layer here, or neither is called."""
        if self.pairs.get(layer) is norm:
            return self.times[layer] == self.times[norm] == 1 and not {layer, norm} & self.read
        return layer not in self.times and norm not in self.times


def _graphs(model: nn.Module, defaults: dict) -> Iterator[torch.fx.Graph]:
    """Yield a graph for each way through the forward; a way that the user's own checks end has none.

    Raises:
        RuntimeError: there are more than ``PATHS``.
    """
    decisions: list[bool] = []
    for _ in range(PATHS):
        try:
            yield _Tracer(decisions).trace(model, defaults or None)
        except torch.fx.proxy.TraceError:
            raise
        except (AssertionError, ValueError):
            if not decisions:
                raise
        while decisions and decisions[-1]:
            decisions.pop()
        if not decisions:
            return
        decisions[-1] = True
    raise RuntimeError(f"the forward must have at most {PATHS} ways through it, got more")


class _Tracer(torch.fx.Tracer):
    """A tracer that answers questions about data as it is told, and then with no."""

    proxy_buffer_attributes = True

    def __init__(self, decisions: list[bool]):
        super().__init__()
        self._decisions = decisions
        self._asked = 0

    def to_bool(self, obj) -> bool:
        if self._asked == len(self._decisions):
            self._decisions.append(False)
        self._asked += 1
        return self._decisions[self._asked - 1]

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return (isinstance(module, BATCHNORMS) and plain_batchnorm(module)) or super().is_leaf_module(module, name)


@torch.no_grad()
def _observed(model: nn.Module, example_input) -> Pairs:
    readers = Readers(model)
    try:
        with evaluating(model), same_random_numbers(), readers:
            returned = call(model, example_input)
        return readers.pairs(returned)
    finally:
        readers.remove_hooks()
