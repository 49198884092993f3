"""How an op meets torch.library: one name, one launcher, one reference."""

import functools
from collections.abc import Callable

import torch
import triton
from torch.library import CustomOpDef, custom_op

TRITON_DEVICES = ("cuda", "cpu") if triton.knobs.runtime.interpret else ("cuda",)


def define(name: str, *, reference: Callable, fake: Callable | None = None) -> Callable[[Callable], CustomOpDef]:
    """Register the decorated Triton launcher as ``smart_kernels::<name>``.

    ===========  ====================  ======================
    tensors on   TRITON_INTERPRET=0    TRITON_INTERPRET=1
    ===========  ====================  ======================
    cuda         launcher              launcher, interpreted
    cpu          ``reference``         launcher, interpreted
    meta, fake   ``fake``              ``fake``
    ===========  ====================  ======================

    ``fake`` is the reference itself unless the reference iterates on data, which fake tensors do not have.
    """

    def decorate(launch: Callable) -> CustomOpDef:
        op = custom_op(f"smart_kernels::{name}", _on_device(launch), mutates_args=(), device_types=TRITON_DEVICES)
        op.register_fake(fake or reference)
        if "cpu" not in TRITON_DEVICES:
            op.register_kernel("cpu")(reference)
        return op

    return decorate


def _on_device(launch: Callable) -> Callable:
    """Launch on the device of the first argument: Triton takes the current GPU, not that of the tensors."""

    @functools.wraps(launch)
    def on_device(*args, **kwargs):
        with torch.cuda.device_of(args[0]):
            return launch(*args, **kwargs)

    return on_device
