"""y = activation(x @ W.T + bias + residual), where every GROUP weights of W store KEEP of them; the portable form.

    values   a b | c d | ...          W row   . a . b | c . d . | ...      place 0..GROUP-1 in a group
    indices  1 3 | 0 2 | ...          a place holds the value whose index it is, or 0

The weight is spread out in registers, tile by tile and group by group, from the saved form, and goes into a dense
product: any KEEP of any GROUP, any dtype, any GPU. Saves memory, not arithmetic. TRANSPOSED multiplies by W instead of
W.T.
"""

import triton
import triton.language as tl

from .epilogue import finish
from .nm import stored, tile
from .tuning import autotune

CONFIGS = [  # the first is valid for every shape
    triton.Config({"BLOCK_M": 16, "BLOCK_O": 32, "BLOCK_R": 64}, num_warps=4, num_stages=2),
    triton.Config({"BLOCK_M": 16, "BLOCK_O": 64, "BLOCK_R": 64}, num_warps=8, num_stages=2),
    triton.Config({"BLOCK_M": 64, "BLOCK_O": 64, "BLOCK_R": 32}, num_warps=8, num_stages=2),
    triton.Config({"BLOCK_M": 64, "BLOCK_O": 64, "BLOCK_R": 64}, num_warps=8, num_stages=2),
    triton.Config({"BLOCK_M": 128, "BLOCK_O": 64, "BLOCK_R": 64}, num_warps=8, num_stages=2),
]


def worth_trying(configs, args, **kwargs):
    """Keep blocks no taller than M; where fp32 is exact, tall ones are shallow: its operands pass through registers."""
    exact = args["x_ptr"].element_size() == 4 and kwargs["PRECISION"] == "ieee"
    found = []
    for config in configs:
        m, r = config.kwargs["BLOCK_M"], config.kwargs["BLOCK_R"]
        if m <= args["M_CLASS"] and (m == 16 or exact == (r == 32)):
            found.append(config)
    return found


@autotune(
    CONFIGS, ["M_CLASS", "OUT", "SIZE", "KEEP", "GROUP", "TRANSPOSED", "EVEN", "PRECISION"],
    worth_trying)
@triton.jit
def semi_structured_kernel(
    # tensors; bias and residual may be None
    x_ptr, values_ptr, indices_ptr, bias_ptr, residual_ptr, y_ptr,
    # sizes: of y (M, OUT), and how many products each of its sums has
    M, OUT, SIZE,
    # strides
    stride_xm, stride_xr, stride_vn, stride_in, stride_rm, stride_ro, stride_ym,
    # scalars; M_CLASS is M rounded, for the choice of the config
    M_CLASS,
    # compile-time
    KEEP: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr, SPAN: tl.constexpr,
    TRANSPOSED: tl.constexpr, EVEN: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_R: tl.constexpr,
):
    # eight blocks of M side by side share the weights in L2
    pid = tl.program_id(0)
    blocks_o = tl.cdiv(OUT, BLOCK_O)
    pid_m, pid_o = tl.swizzle2d(pid // blocks_o, pid % blocks_o, tl.cdiv(M, BLOCK_M), blocks_o, 8)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_o = pid_o * BLOCK_O + tl.arange(0, BLOCK_O)
    in_o = offs_o < OUT
    # rows beyond M repeat the last one: they are not stored
    x_p = x_ptr + tl.minimum(offs_m, M - 1).to(tl.int64)[:, None] * stride_xm

    # the tiles of W that a program reads: row and group of the first, and how far the next one lies
    ROWS: tl.constexpr = BLOCK_R if TRANSPOSED else BLOCK_O
    GROUPS: tl.constexpr = (BLOCK_O if TRANSPOSED else BLOCK_R) // GROUP
    NEXT_ROW: tl.constexpr = ROWS if TRANSPOSED else 0
    NEXT_GROUP: tl.constexpr = 0 if TRANSPOSED else GROUPS
    row0, group0 = (0, pid_o * GROUPS) if TRANSPOSED else (pid_o * ROWS, 0)
    rows, groups = (SIZE, tl.cdiv(OUT, GROUP)) if TRANSPOSED else (OUT, tl.cdiv(SIZE, GROUP))

    # two steps ahead what a tile of W stores is loaded, one step ahead it is spread out, beside the products
    steps = tl.cdiv(SIZE, BLOCK_R)
    last = tl.maximum(steps - 1, 0)
    code, values = stored(
        values_ptr, indices_ptr, row0, group0, rows, groups, stride_vn, stride_in,
        KEEP, BITS, SPAN, EVEN, ROWS, GROUPS)
    w = tile(code, values, KEEP, GROUP, BITS, ROWS, GROUPS)
    ahead = tl.minimum(1, last)
    code, values = stored(
        values_ptr, indices_ptr, row0 + ahead * NEXT_ROW, group0 + ahead * NEXT_GROUP, rows, groups,
        stride_vn, stride_in, KEEP, BITS, SPAN, EVEN, ROWS, GROUPS)
    acc = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
    for e in range(0, steps):
        offs_r = e * BLOCK_R + tl.arange(0, BLOCK_R)
        in_x = None if EVEN else (offs_r < SIZE)[None, :]
        x = tl.load(x_p + offs_r.to(tl.int64)[None, :] * stride_xr, mask=in_x, other=None if EVEN else 0.0)
        ahead = tl.minimum(e + 2, last)
        next_code, next_values = stored(
            values_ptr, indices_ptr, row0 + ahead * NEXT_ROW, group0 + ahead * NEXT_GROUP, rows, groups,
            stride_vn, stride_in, KEEP, BITS, SPAN, EVEN, ROWS, GROUPS)
        acc = tl.dot(x, w if TRANSPOSED else tl.trans(w), acc, input_precision=PRECISION)
        w = tile(code, values, KEEP, GROUP, BITS, ROWS, GROUPS)
        code, values = next_code, next_values

    offs_m = offs_m.to(tl.int64)
    in_y = (offs_m < M)[:, None] & in_o[None, :]
    finish(
        acc, bias_ptr, residual_ptr, y_ptr, offs_m, offs_o, in_o, in_y, stride_rm, stride_ro, stride_ym, ACTIVATION, 0)
