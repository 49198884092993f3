"""How an op meets torch.library: one name, one launcher, one reference; cheap to call, visible to ``torch.compile``."""

import functools
from collections.abc import Callable

import torch
import triton
from torch._C import _dispatch_key_for_device as key_of
from torch._C._dynamo import eval_frame
from torch._ops import OpOverload
from torch._subclasses.functional_tensor import FunctionalTensorMode
from torch.library import Library, infer_schema

from .launch import traced

current_device = getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)  # one call where there are four
INTERPRETED = triton.knobs.runtime.interpret
TRITON_DEVICES = ("cuda", "cpu") if INTERPRETED else ("cuda",)
LIBRARY = Library("smart_kernels", "FRAGMENT")
GRADIENTS: dict[str, tuple[Callable, Callable]] = {}  # backward and setup_context, by name of the op
LAUNCHERS: dict[str, Callable] = {}  # what a GPU runs, by name of the op
ON_CPU: dict[str, Callable] = {}  # what a CPU runs


def define(
    name: str, *, reference: Callable, fake: Callable | None = None, visible: Callable[..., bool] | None = None
) -> Callable[[Callable], OpOverload]:
    """Register the decorated Triton launcher as ``smart_kernels::<name>``.

    =============  ====================  ======================
    tensors on     TRITON_INTERPRET=0    TRITON_INTERPRET=1
    =============  ====================  ======================
    cuda           launcher              launcher, interpreted
    cpu            ``reference``         launcher, interpreted
    meta, fake     ``fake``              ``fake``
    cuda, in a     the launches of the   the op
    compiled       launcher, if
    graph          ``visible``
    =============  ====================  ======================

    Args:
        name: of the op; its schema is that of the launcher's annotations.
        reference: the definition, on any device.
        fake: shapes and dtypes of the result; the reference itself unless that iterates on data.
        visible: of the arguments: whether a compiler may see into the launcher, which then makes tensors and calls
            ``Launch`` and nothing else. None: never.
    """

    def decorate(launch: Callable) -> OpOverload:
        LIBRARY.define(name + infer_schema(launch, mutates_args=()), tags=(torch.Tag.pt2_compliant_tag,))
        op = getattr(torch.ops.smart_kernels, name).default
        LAUNCHERS[name] = on_device(launch)
        ON_CPU[name] = LAUNCHERS[name] if INTERPRETED else reference
        LIBRARY.impl(name, LAUNCHERS[name], key_of("cuda"))
        LIBRARY.impl(name, on_cpu(name), key_of("cpu"))
        torch.library.register_fake(op, fake or reference, lib=LIBRARY)
        torch.library.register_autograd(op, _formula(name), setup_context=_context(name), lib=LIBRARY)
        if visible is not None and not INTERPRETED:
            rule = functools.partial(_decompose, launch, visible)
            torch.library.register_torch_dispatch(op, FunctionalTensorMode, rule, lib=LIBRARY)
        return op

    return decorate


def on_device(launch: Callable) -> Callable:
    """Return the launcher on the GPU of its first tensor: Triton launches on the current one."""

    def launch_there(*args):
        index = args[0].get_device()
        if index < 0 or index == current_device():
            return launch(*args)
        with torch.cuda.device(index):
            return launch(*args)

    return launch_there


def on_cpu(name: str) -> Callable:
    """Return what a CPU runs, behind a frame that Dynamo leaves alone; a driver that claims a GPU changes the table."""

    def call_on_cpu(*args):
        return ON_CPU[name](*args)

    return call_on_cpu


def _decompose(launch, visible, mode, op, types, args, kwargs):
    """Put into a graph the launches where there is a GPU, else the op."""
    if args[0].device.type != "cuda" or not visible(*args):
        return mode.__torch_dispatch__(op, types, args, kwargs)
    with mode, traced():
        return launch(*args, **kwargs)


def _leave_alone(code) -> None:
    """Tell Dynamo to compile neither such a frame nor what it calls: C++ calls kernels while it looks on."""
    skip = eval_frame._FrameAction.SKIP
    eval_frame.set_code_exec_strategy(code, eval_frame._FrameExecStrategy(skip, skip))


for _wrapper in (on_device(len), on_cpu("")):  # all that these two make share their code
    _leave_alone(_wrapper.__code__)


def always(*args) -> bool:
    """Say that a compiler may see into a launcher whatever its arguments."""
    return True


def differentiable(op: OpOverload, backward: Callable, setup_context: Callable) -> None:
    """Give an op its gradient: both functions as in ``torch.library.register_autograd``."""
    GRADIENTS[op._opname] = backward, setup_context


def _context(name: str) -> Callable:
    def setup_context(ctx, inputs, output):
        if name in GRADIENTS:
            GRADIENTS[name][1](ctx, inputs, output)

    return setup_context


def _formula(name: str) -> Callable:
    def backward(ctx, *grads):
        if name not in GRADIENTS:  # silently without a gradient is what an op without a formula would be
            raise RuntimeError(f"smart_kernels::{name} is the end of differentiation: it has no gradient of its own")
        return GRADIENTS[name][0](ctx, *grads)

    return backward
