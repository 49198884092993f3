"""Which BatchNorm alone reads the output of which layer: proven on every path of the code, or seen in a run."""

import gc
import inspect
import weakref
from collections import Counter
from collections.abc import Iterator

import torch.fx
from torch import nn

from .before import same_random_numbers
from .graph import call, evaluating
from .plain import BATCHNORMS, plain_batchnorm
from .readers import LOOKS, Readers
from .twin import twin

PATHS = 16  # branches that depend on data are followed both ways, up to this many ways through a forward

ATTRIBUTES = {"shape", "dtype", "device", "ndim", "is_cuda", "layout", "requires_grad"}  # of a tensor, not its values

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
    copied = twin(model)  # a forward may leave something in its module
    names = dict(zip(copied.modules(), model.modules(), strict=True))
    with same_random_numbers():
        found = _traced(copied)
    if found is not None:
        return {names[layer]: names[norm] for layer, norm in found.items()}
    return None if example_input is None else _observed(model, example_input)


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
        paths = [_Path(model, *graph_and_kept) for graph_and_kept in _graphs(model, defaults)]
    except Exception:  # tracing runs the user's forward, which may raise anything
        return None
    if not paths:
        return None
    pairs = {layer: norm for path in paths for layer, norm in path.pairs.items()}
    return {layer: norm for layer, norm in pairs.items() if all(path.allows(layer, norm) for path in paths)}


class _Path:
    """Describe one way through a forward.

    Args:
        model: that was traced.
        graph: of this way.
        kept: nodes that the forward has put away somewhere.
    """

    def __init__(self, model: nn.Module, graph: torch.fx.Graph, kept: set[torch.fx.Node]):
        called = {node: model.get_submodule(node.target) for node in graph.nodes if node.op == "call_module"}
        self._times = Counter(called.values())
        holders = {node.target.rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
        self._opened = {model.get_submodule(name) for name in holders}  # whose weights are read directly
        self._readers: dict[nn.Module, set] = {}  # None stands for whoever is no module
        self._sources: dict[nn.Module, nn.Module | None] = {}
        for node, module in called.items():
            readers = {called.get(user) for user in node.users if not _looks(user)}
            self._readers[module] = readers | ({None} if node in kept else set())
            self._sources[module] = called.get(node.args[0] if node.args else node.kwargs.get("input"))

    @property
    def pairs(self) -> Pairs:
        """Return what comes before each BatchNorm."""
        return {layer: norm for norm, layer in self._sources.items() if layer is not None and plain_batchnorm(norm)}

    def allows(self, layer: nn.Module, norm: nn.Module) -> bool:
        """Return whether nobody but the BatchNorm reads the layer here, and it reads nothing else."""
        once = self._times[layer] <= 1 and self._times[norm] <= 1 and not {layer, norm} & self._opened
        return once and self._readers.get(layer, set()) <= {norm} and self._sources.get(norm, layer) is layer


def _looks(node: torch.fx.Node) -> bool:
    """Return whether a node asks for the shape of a tensor, or the like, and not for what is in it."""
    if node.op == "call_method":
        return node.target in LOOKS
    return node.op == "call_function" and node.target is getattr and node.args[1] in ATTRIBUTES


def _graphs(model: nn.Module, defaults: dict) -> Iterator[tuple[torch.fx.Graph, set[torch.fx.Node]]]:
    """Yield the graph of each way through the forward with the nodes that it keeps.

    A way that the user's own checks end has none.

    Raises:
        RuntimeError: there are more than ``PATHS``.
    """
    decisions: list[bool] = []
    for _ in range(PATHS):
        tracer = _Tracer(decisions)
        try:
            graph = tracer.trace(model, defaults or None)
            yield graph, tracer.kept()
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
        self._proxies: list[tuple[weakref.ref, torch.fx.Node]] = []

    def proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
        made = super().proxy(node)
        self._proxies.append((weakref.ref(made), node))
        return made

    def kept(self) -> set[torch.fx.Node]:
        """Return the nodes that somebody holds although the forward has ended."""
        if any(proxy() is not None for proxy, _ in self._proxies):
            gc.collect()
        return {node for proxy, node in self._proxies if proxy() is not None}

    def to_bool(self, obj) -> bool:
        if self._asked == PATHS:  # so many questions in a row have more answers than are followed
            raise torch.fx.proxy.TraceError(f"a way through the forward must ask less than {PATHS} questions")
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
