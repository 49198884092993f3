"""How an op meets torch.library: one name, one launcher, one reference."""

from collections.abc import Callable

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
        op = custom_op(f"smart_kernels::{name}", launch, mutates_args=(), device_types=TRITON_DEVICES)
        op.register_fake(fake or reference)
        if "cpu" not in TRITON_DEVICES:
            op.register_kernel("cpu")(reference)
        return op

    return decorate
