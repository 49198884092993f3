"""block_sparse_linear: every dtype, block and launch configuration against float64, empty block rows included; then
what may follow the sums, inputs that are far apart or not aligned, and few rows."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
import triton

from smart_kernels.ops import block_sparse_linear
from smart_kernels.ops.block_sparse import block_index

from ..block_sparse_linear import to_bsr, to_dense
from ..case import TOLERANCE, Shape
from ..linear import expand
from . import decode
from .check import Check, Context, Setting, compare, configuration, relative_error
from .masked import SHAPES, SMALL_SHAPES

BLOCKS = ((64, 64), (128, 128), (128, 16), (256, 128), (32, 32), (64, 16), (16, 16), (24, 40), (128, 8), (1, 16))
BLOCKS += ((128, 32), (256, 16))
SMALL_BLOCKS = ((32, 32), (24, 40))
TALL = Shape("tall", 70, 72, 96, "more rows than the kernel for few takes")
KERNELS = ("block_matmul_kernel", "block_gather_kernel", "block_decode_kernel", "block_grad_kernel")
FEW_ROWS = 64  # of x, up to which the kernel for decoding takes them
STEP = 128  # bytes of a row of a block, below which it is gathered
ACTIVATIONS = ("gelu", "relu", "relu6", "silu")


def cases(context: Context) -> Iterator[Check]:
    """Yield per shape blocks, epilogues and tensors that are not aligned; then rows of x far apart, and decode."""
    for shape in (*SMALL_SHAPES, TALL) if context.small else (*SHAPES, *decode.SHAPES):
        for block in SMALL_BLOCKS if context.small else BLOCKS:
            for setting in context.settings(*KERNELS):
                label = f"block_sparse_linear {shape.name} {block[0]}x{block[1]} {setting}"
                kernel = kernel_of(shape, block, setting)
                check = partial(run, setting, shape, block)
                tall = " tall" * (block[0] == 128)  # W may be the left operand there, in copies of twice the height
                covers = f"{kernel}{tall} {setting}"
                yield Check(label, check, family=f"block_sparse_linear {kernel}", covers=covers)
        for name in context.dtypes:
            for activation in ACTIVATIONS[:1] if context.small else ACTIVATIONS:
                for setting in context.settings(*KERNELS, dtypes=[name]):
                    label = f"block_sparse_linear {shape.name} 128x128 {name} {activation} config {setting.config}"
                    check = partial(epilogue, setting, shape, activation)
                    yield Check(label, check, family="epilogue", covers=f"{activation} {name}")
            for offset in (1, 4):
                label = f"block_sparse_linear {shape.name} 64x64 {name} {offset} elements off 16 bytes"
                yield Check(label, partial(unaligned, Setting(context.device, context.small, name), shape, offset))
    if context.device != "cpu":
        yield Check("block_sparse_linear rows 2^31 elements apart", partial(far, context.device))
    yield from decode.cases(context)


def kernel_of(shape: Shape, block: tuple[int, int], setting: Setting) -> str:
    """Name the kernel that takes the product: for few rows, for narrow blocks, or for the others."""
    if shape.M <= FEW_ROWS:
        return "decode"
    return "gather" if block[1] * setting.dtype.itemsize < STEP else "matmul"


def stored(
    device: str, shape: Shape, block: tuple[int, int], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return values, crow_indices, col_indices and mask of a random W; its first block row is empty if it has two."""
    mask = (torch.rand(-(-shape.N // block[0]), -(-shape.K // block[1]), device=device) < 0.4).float()
    mask[-1, -1] = 1
    mask[:-1][:1] = 0  # an empty block row where there are two
    weight = torch.randn(shape.N, shape.K, device=device).div_(shape.K**0.5).mul_(expand(mask, block, shape)).to(dtype)
    return *to_bsr(weight, mask, block), mask


def run(setting: Setting, shape: Shape, block: tuple[int, int]) -> dict:
    """Check the product, its bias and all gradients."""
    x = setting.randn(shape.M, shape.K)
    bias = setting.randn(shape.N)
    values, crow, col, mask = stored(setting.device, shape, block, setting.dtype)
    index = block_index(crow, col, mask.shape[1])

    def function(x, values, bias):
        return block_sparse_linear(x, values, crow, col, bias, out_features=shape.N, index=index)

    def definition(x, values, bias):
        return F.linear(x, to_dense(values, mask, block, shape), bias)

    return compare(function, definition, (x, values, bias), setting.config)


def epilogue(setting: Setting, shape: Shape, activation: str) -> dict:
    """Check the fused form, which runs where no gradient is needed."""
    block = (128, 128)
    values, crow, col, mask = stored(setting.device, shape, block, setting.dtype)
    x = setting.randn(shape.M, shape.K)
    bias = setting.randn(shape.N)
    residual = torch.randn(shape.M, shape.N, device=setting.device)
    options = {"out_features": shape.N, "activation": activation, "residual": residual, "out_dtype": torch.float32}
    with torch.no_grad(), configuration(setting.config):
        try:
            y = block_sparse_linear(x, values, crow, col, bias, **options)
        except triton.runtime.errors.OutOfResources as error:
            return {"ok": True, "skipped": str(error)}  # the tuner would drop this configuration here
    sums = F.linear(x.double(), to_dense(values, mask, block, shape).double(), bias.double()) + residual
    error = relative_error(y, getattr(F, activation)(sums))
    return {"ok": error <= TOLERANCE[setting.dtype], "errors": [error]}


def unaligned(setting: Setting, shape: Shape, offset: int) -> dict:
    """Check tensors that start beside a 16-byte address."""
    values, crow, col, mask = stored(setting.device, shape, (64, 64), setting.dtype)
    x = setting.randn(shape.M, shape.K)
    bias = setting.randn(shape.N)

    def shift(t):
        return torch.cat([t.new_zeros(offset), t.flatten()])[offset:].view(t.shape)

    def function(x, values, bias):
        return block_sparse_linear(shift(x), shift(values), crow, col, shift(bias), out_features=shape.N)

    def definition(x, values, bias):
        return F.linear(x, to_dense(values, mask, (64, 64), shape), bias)

    return compare(function, definition, (x, values, bias))


def far(device: str) -> dict:
    """Check two rows of x whose distance needs 64-bit offsets."""
    shape = Shape("far", 2, 64, 64, "64-bit offsets")
    stride = 2**31 + 8
    values, crow, col, mask = stored(device, shape, (16, 16), torch.float16)
    x = torch.empty(stride + shape.K, device=device, dtype=torch.float16).as_strided((2, shape.K), (stride, 1))
    x.normal_()
    y = block_sparse_linear(x, values, crow, col, out_features=shape.N)
    error = relative_error(y, F.linear(x.double(), to_dense(values, mask, (16, 16), shape).double()))
    return {"ok": error <= TOLERANCE[x.dtype], "errors": [error]}
