"""Which candidates of a layer may be timed: those that are right, and that a CUDA graph holds if one is asked for."""

from functools import partial

from torch import Tensor, nn

from smart_kernels.convert.measure import agrees, timing

PLAIN = "dense"  # label of the layer itself


def usable(modules: dict[str, nn.Module], x: Tensor, cuda_graph: bool) -> tuple[dict[str, nn.Module], list[str]]:
    """Return the candidates whose output is the dense one and that can be timed, and a line about each other kind."""
    exact = modules[PLAIN](x)
    differ = [label for label, module in modules.items() if label != PLAIN and not agrees(module(x), exact)]
    loose = [label for label in modules if cuda_graph and label not in differ and not _capturable(modules[label], x)]
    reasons = {"output differs": differ, "not in a CUDA graph": loose}
    good = {label: module for label, module in modules.items() if label not in (*differ, *loose)}
    return good, [f"{reason}: {', '.join(wrong)}" for reason, wrong in reasons.items() if wrong]


def _capturable(module: nn.Module, x: Tensor) -> bool:
    try:
        timing.capture(partial(module, x))
    except RuntimeError:
        return False
    return True
