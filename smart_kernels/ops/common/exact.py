"""Whether the persistent form of a product with stored blocks is right on this device, found by running it.

As the 2:4 kernels it is Gluon, which triton calls experimental: nothing is chosen because of a version.
"""

import functools

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

from smart_kernels.kernels.common.tuner import TUNING

from .axis import Axis
from .blocks import Product
from .launch import NOTHING
from .persistent import Form, configurations, launched
from .plan import forced

TRIAL = (272, 16, 4)  # M, rows and columns of blocks
TRIAL_PROGRAMS = 5  # so that each walks many tiles


@functools.cache
def verified(device: torch.device, form: Form) -> str | None:
    """Return why the kernel must not be used; None after each of its configurations has proved right.

    They have then multiplied random integers exactly, with rows without blocks and with tiles beyond the last row of x.
    Remembered per process; compiles what the tuner will need, and synchronises.
    """
    if device.type != "cuda" or torch.version.hip is not None or torch.cuda.get_device_capability(device) != (9, 0):
        return "wgmma exists on sm_90 only"
    version = f"triton {triton.__version__}"
    try:
        for config in configurations(form):
            if not right(device, form, config):
                return f"persistent_matmul_kernel is wrong with {version}, {form}: {config}"
    except Exception as error:  # whatever a triton to come may raise
        return f"persistent_matmul_kernel does not run with {version}: {type(error).__name__}: {error}"[:200]
    return None


def right(device: torch.device, form: Form, config: triton.Config) -> bool:
    """Return whether the kernel multiplies random integers exactly in this configuration."""
    from smart_kernels.kernels.common.persistent import persistent_matmul_kernel

    tensors, product, expected = trial(device, form)
    y = torch.empty_like(expected)
    with TUNING, forced(persistent_matmul_kernel, config):
        try:
            launched(tensors, product, form, TRIAL_PROGRAMS)(*tensors, y)
        except OutOfResources:
            return True  # the tuner drops it
    return torch.equal(y, expected)


def trial(device: torch.device, form: Form) -> tuple[tuple, Product, Tensor]:
    """Return the tensors of a product of integers, the product, and y: exact in any order of the sums.

    Every second block is there, none in the last row but one. Sizes are multiples of 16 as those of most layers, so
    that what is compiled serves them.
    """
    (M, rows, columns), (bn, bk) = TRIAL, form.block
    draw = functools.partial(torch.randint, -4, 5, device=device)
    mask = torch.rand(rows, columns, device=device) < 0.5
    mask[-2], mask[0, 0] = False, True
    x, bias, residual = draw((M, columns * bk)), draw((rows * bn,)), draw((M, rows * bn))
    blocks = draw((int(mask.sum()), bn, bk))
    dense = torch.zeros(rows, columns, bn, bk, dtype=torch.float64, device=device)
    dense[mask] = blocks.double()
    y = x.double() @ dense.transpose(1, 2).reshape(rows * bn, columns * bk).T
    y = y + bias * form.bias + residual * (form.residual is not None)
    others = (
        bias.to(form.dtype) if form.bias else NOTHING,
        NOTHING if form.residual is None else residual.to(form.residual),
    )
    values, lists = _stored(blocks.to(form.dtype), mask, form)
    n, k = Axis.separate(rows * bn, bn, bn), Axis.separate(columns * bk, bk, bk)
    product = Product(n, k, True, None, form.out, "ieee")
    return (x.to(form.dtype), values, *lists, NOTHING, *others), product, y.to(form.out)


def _stored(blocks: Tensor, mask: Tensor, form: Form) -> tuple[Tensor, tuple]:
    """Return values and start, end, cols, slots and order, as the form has them."""
    count = mask.sum(1)
    end = count.cumsum(0)
    slots = torch.randperm(len(blocks), device=blocks.device) if form.slots else NOTHING
    order = count.argsort(descending=True).int() if form.order else NOTHING
    if form.slots:
        blocks = blocks[slots.argsort()]
        slots = slots.int()
    values = blocks.mT.contiguous().mT if form.transposed else blocks
    return values, ((end - count).int(), end.int(), mask.nonzero()[:, 1].int(), slots, order)
