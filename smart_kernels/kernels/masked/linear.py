"""y = x @ (weight * mask).T with one mask value per tile of weight.

                K                        ceil(K / TILE_K)
           +---------+                 +---+---+---+
    weight |         | N          mask | . | # | # | ceil(N / TILE_N)
           +---------+                 +---+---+---+

TILE_* is what one mask value covers, BLOCK_* is what one program works on; either may be the larger. Live blocks are
packed as weight * mask and multiplied by the block-sparse matmul, so the cost follows the density.
"""

import triton
import triton.language as tl

from smart_kernels.kernels.common.blocks import block_start
from smart_kernels.kernels.common.tuning import KEY, autotune, worth_trying_grad

from .live_blocks import block_span, element_tiles, is_live, load_mask

CONFIGS = [  # the first is valid for every shape
    triton.Config({"BLOCK_M": 16}, num_warps=4, num_stages=2, maxnreg=255),
    triton.Config({"BLOCK_M": 32}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_M": 64}, num_warps=4, num_stages=3, maxnreg=255),
    triton.Config({"BLOCK_M": 64}, num_warps=8, num_stages=3),
]


def worth_trying(configs, args, **kwargs):
    """Keep the configurations whose threads have room for a block of this size.

    Four warps cannot hold more than 64 x 64 beside 64 rows of M. Eight run out of predicates for many tiles, of work
    for less than 64 x 64, and of registers for the addresses of the narrow copies of fp32.
    """
    size = kwargs["BLOCK_N"] * kwargs["BLOCK_K"]
    many = kwargs["TILES_N"] > 1 and kwargs["TILES_K"] > 1
    starved = many or size < 64 * 64 or args["x_ptr"].element_size() == 4
    unfit = {(64, 4)} if size > 64 * 64 else {(64, 8)} if starved else set()
    held = worth_trying_grad(configs, args, **kwargs)
    return [c for c in held if (c.kwargs["BLOCK_M"], c.num_warps) not in unfit]


@triton.jit
def put_in_order(line, lines, room, end_ptr, order_ptr, LINES: tl.constexpr):
    """Put a line of blocks into ``order``: by falling length, equal ones as they come; each owns ``room`` entries."""
    length = tl.load(end_ptr + line) - line * room
    place = 0
    for first in range(0, lines, LINES):
        other = first + tl.arange(0, LINES)
        more = tl.load(end_ptr + other, mask=other < lines, other=0) - other * room - length
        place += tl.sum(((other < lines) & ((more > 0) | ((more == 0) & (other < line)))).to(tl.int32))
    tl.store(order_ptr + place, line)


@triton.jit
def pack_block(
    # tensors of the layer
    weight_ptr, mask_ptr, threshold_ptr, temperature_ptr, packed_ptr,
    # the block, where it goes, sizes, tiles per group, strides
    row, col, slot, N, K, group_n, group_k,
    stride_wn, stride_wk, stride_maskn, stride_maskk, stride_tn, stride_tk,
    eps,
    TILE_N, TILES_N: tl.constexpr, STRIDE_N, PARTS_N, BLOCK_N: tl.constexpr,
    TILE_K, TILES_K: tl.constexpr, STRIDE_K, PARTS_K, BLOCK_K: tl.constexpr,
    EVEN_N: tl.constexpr, EVEN_K: tl.constexpr,
):
    """Store packed[slot] = weight * mask of a block that lives, zeros in its dead tiles and beyond the edge."""
    offs_n, in_n = block_span(row, N, STRIDE_N, PARTS_N, BLOCK_N, EVEN_N)
    offs_k, in_k = block_span(col, K, STRIDE_K, PARTS_K, BLOCK_K, EVEN_K)
    inside = in_n[:, None] & in_k[None, :]

    tile_n = element_tiles(row, TILE_N, TILES_N, STRIDE_N, PARTS_N, BLOCK_N)
    tile_k = element_tiles(col, TILE_K, TILES_K, STRIDE_K, PARTS_K, BLOCK_K)
    in_tile = (tile_n * TILE_N < N)[:, None] & (tile_k * TILE_K < K)[None, :]
    mask = load_mask(mask_ptr, threshold_ptr, temperature_ptr, tile_n, tile_k, in_tile,
                     stride_maskn, stride_maskk, stride_tn, stride_tk, group_n, group_k)
    w_p = weight_ptr + offs_n.to(tl.int64)[:, None] * stride_wn + offs_k.to(tl.int64)[None, :] * stride_wk
    if TILES_N * TILES_K == 1:
        w = tl.load(w_p, mask=inside, other=0.0)  # (BLOCK_N, BLOCK_K)
    else:
        live = tl.broadcast_to(is_live(mask, eps), (BLOCK_N, BLOCK_K))
        live = tl.max_constancy(live, [BLOCK_N // TILES_N, BLOCK_K // TILES_K])  # a load may be as wide as a tile
        w = tl.load(w_p, mask=inside & live, other=0.0)
        mask = tl.where(is_live(mask, eps), mask, 0.0)
    w = w.to(tl.float32) * mask

    i, j = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    p = packed_ptr + slot.to(tl.int64) * (BLOCK_N * BLOCK_K) + i[:, None] * BLOCK_K + j[None, :]
    tl.store(p, w.to(packed_ptr.dtype.element_ty))


@triton.jit
def pack_kernel(
    # tensors: inputs, then outputs
    weight_ptr, mask_ptr, threshold_ptr, temperature_ptr, end_ptr, cols_ptr, packed_ptr, order_ptr,
    # sizes of the weight, block rows and columns, tiles per group
    N, K, R, C, group_n, group_k,
    # strides
    stride_wn, stride_wk, stride_maskn, stride_maskk, stride_tn, stride_tk,
    # scalars
    eps,
    # compile-time
    TILE_N: tl.constexpr, TILES_N: tl.constexpr, STRIDE_N: tl.constexpr, PARTS_N: tl.constexpr, BLOCK_N: tl.constexpr,
    TILE_K: tl.constexpr, TILES_K: tl.constexpr, STRIDE_K: tl.constexpr, PARTS_K: tl.constexpr, BLOCK_K: tl.constexpr,
    EVEN_N: tl.constexpr, EVEN_K: tl.constexpr, ROWS: tl.constexpr,
):
    """Pack the live block of a slot; the first program of a row also puts the row into ``order``, if there is one."""
    slot = tl.program_id(0)
    row = slot // C
    if order_ptr is not None:  # noqa: SIM102, the compiler knows the first and not the second
        if slot == row * C:
            put_in_order(row, R, C, end_ptr, order_ptr, ROWS)
    if slot >= tl.load(end_ptr + row):
        return
    pack_block(
        weight_ptr, mask_ptr, threshold_ptr, temperature_ptr, packed_ptr,
        row, tl.load(cols_ptr + slot), slot, N, K, group_n, group_k,
        stride_wn, stride_wk, stride_maskn, stride_maskk, stride_tn, stride_tk, eps,
        TILE_N, TILES_N, STRIDE_N, PARTS_N, BLOCK_N, TILE_K, TILES_K, STRIDE_K, PARTS_K, BLOCK_K, EVEN_N, EVEN_K,
    )


@triton.jit
def mask_parts(row, col, dmask_ptr, N, K,
               TILE_N: tl.constexpr, TILES_N: tl.constexpr, STRIDE_N: tl.constexpr, PARTS_N: tl.constexpr,
               BLOCK_N: tl.constexpr,
               TILE_K: tl.constexpr, TILES_K: tl.constexpr, STRIDE_K: tl.constexpr, PARTS_K: tl.constexpr,
               BLOCK_K: tl.constexpr, PER_TILE_N: tl.constexpr, PER_TILE_K: tl.constexpr):
    """Return where the block's part of the gradient of each of its tiles is, and which tiles there are."""
    start_n = block_start(row, STRIDE_N, PARTS_N, BLOCK_N)
    start_k = block_start(col, STRIDE_K, PARTS_K, BLOCK_K)
    tile_n = start_n // TILE_N + tl.arange(0, TILES_N)
    tile_k = start_k // TILE_K + tl.arange(0, TILES_K)
    part = (start_n % TILE_N // BLOCK_N) * PER_TILE_K + start_k % TILE_K // BLOCK_K
    tile = tile_n.to(tl.int64)[:, None] * tl.cdiv(K, TILE_K) + tile_k[None, :]
    in_tile = (tile_n * TILE_N < N)[:, None] & (tile_k * TILE_K < K)[None, :]
    return dmask_ptr + tile * (PER_TILE_N * PER_TILE_K) + part, in_tile


@triton.jit
def store_gradients(
    g, row, col,
    weight_ptr, mask_ptr, threshold_ptr, temperature_ptr, dweight_ptr, dmask_ptr,
    N, K, group_n, group_k,
    stride_wn, stride_wk, stride_maskn, stride_maskk, stride_tn, stride_tk,
    eps,
    TILE_N: tl.constexpr, TILES_N: tl.constexpr, STRIDE_N: tl.constexpr, PARTS_N: tl.constexpr, BLOCK_N: tl.constexpr,
    TILE_K: tl.constexpr, TILES_K: tl.constexpr, STRIDE_K: tl.constexpr, PARTS_K: tl.constexpr, BLOCK_K: tl.constexpr,
    PER_TILE_N: tl.constexpr, PER_TILE_K: tl.constexpr,
    EVEN_N: tl.constexpr, EVEN_K: tl.constexpr, DEAD_GRAD: tl.constexpr,
):
    """Store dweight = mask * g and dmask = sum over a tile of g * weight; g is the gradient of a block of weight *
    mask.

    Blocks that share a tile write their part of its sum to dmask[tile row, tile column, part]. Where the mask is
    soft, dmask is the gradient of the score.
    """
    offs_n, in_n = block_span(row, N, STRIDE_N, PARTS_N, BLOCK_N, EVEN_N)
    offs_k, in_k = block_span(col, K, STRIDE_K, PARTS_K, BLOCK_K, EVEN_K)
    inside = in_n[:, None] & in_k[None, :]
    tile_n = element_tiles(row, TILE_N, TILES_N, STRIDE_N, PARTS_N, BLOCK_N)
    tile_k = element_tiles(col, TILE_K, TILES_K, STRIDE_K, PARTS_K, BLOCK_K)
    in_tile = (tile_n * TILE_N < N)[:, None] & (tile_k * TILE_K < K)[None, :]
    mask = load_mask(mask_ptr, threshold_ptr, temperature_ptr, tile_n, tile_k, in_tile,
                     stride_maskn, stride_maskk, stride_tn, stride_tk, group_n, group_k)
    live = is_live(mask, eps)
    if dweight_ptr is not None:
        p = dweight_ptr + offs_n.to(tl.int64)[:, None] * K + offs_k[None, :]
        tl.store(p, (g * tl.where(live, mask, 0.0)).to(dweight_ptr.dtype.element_ty), mask=inside)
    if dmask_ptr is not None:
        w_p = weight_ptr + offs_n.to(tl.int64)[:, None] * stride_wn + offs_k.to(tl.int64)[None, :] * stride_wk
        if TILES_N * TILES_K > 1 and not DEAD_GRAD:  # a block of one tile is live
            live = tl.broadcast_to(live, (BLOCK_N, BLOCK_K))
            inside = inside & tl.max_constancy(live, [BLOCK_N // TILES_N, BLOCK_K // TILES_K])
        g *= tl.load(w_p, mask=inside, other=0.0).to(tl.float32)
        g = tl.reshape(g, (TILES_N, BLOCK_N // TILES_N, TILES_K, BLOCK_K // TILES_K))
        dmask = tl.sum(tl.sum(g, axis=3), axis=1)

        tile_n = block_start(row, STRIDE_N, PARTS_N, BLOCK_N) // TILE_N + tl.arange(0, TILES_N)
        tile_k = block_start(col, STRIDE_K, PARTS_K, BLOCK_K) // TILE_K + tl.arange(0, TILES_K)
        p, in_tile = mask_parts(row, col, dmask_ptr, N, K, TILE_N, TILES_N, STRIDE_N, PARTS_N, BLOCK_N,
                                TILE_K, TILES_K, STRIDE_K, PARTS_K, BLOCK_K, PER_TILE_N, PER_TILE_K)
        mask = load_mask(mask_ptr, threshold_ptr, temperature_ptr, tile_n, tile_k, in_tile,
                         stride_maskn, stride_maskk, stride_tn, stride_tk, group_n, group_k)
        if threshold_ptr is not None:
            dmask *= mask * (1 - mask) / tl.load(temperature_ptr).to(tl.float32)
        if not DEAD_GRAD:
            dmask = tl.where(is_live(mask, eps), dmask, 0.0)
        tl.store(p, dmask, mask=in_tile)


@triton.jit
def block_lives(row, col, mask_ptr, threshold_ptr, temperature_ptr, N, K,
                stride_maskn, stride_maskk, stride_tn, stride_tk, group_n, group_k, eps,
                TILE_N, TILES_N: tl.constexpr, STRIDE_N, PARTS_N, BLOCK_N: tl.constexpr,
                TILE_K, TILES_K: tl.constexpr, STRIDE_K, PARTS_K, BLOCK_K: tl.constexpr, DEAD_GRAD: tl.constexpr):
    """Return whether there is something to compute for the block: it has a live tile, or DEAD_GRAD; and it exists."""
    start_n = block_start(row, STRIDE_N, PARTS_N, BLOCK_N)
    start_k = block_start(col, STRIDE_K, PARTS_K, BLOCK_K)
    exists = (start_n < N) & (start_k < K)
    if DEAD_GRAD:
        return exists
    else:
        tile_n = start_n // TILE_N + tl.arange(0, TILES_N)
        tile_k = start_k // TILE_K + tl.arange(0, TILES_K)
        in_tile = (tile_n * TILE_N < N)[:, None] & (tile_k * TILE_K < K)[None, :]
        mask = load_mask(mask_ptr, threshold_ptr, temperature_ptr, tile_n, tile_k, in_tile,
                         stride_maskn, stride_maskk, stride_tn, stride_tk, group_n, group_k)
        live = (in_tile & is_live(mask, eps)).to(tl.int32)
        return exists & (tl.max(tl.max(live, 1), 0) > 0)


@triton.jit
def store_zeros(row, col, dweight_ptr, dmask_ptr, N, K,
                TILE_N: tl.constexpr, TILES_N: tl.constexpr, STRIDE_N: tl.constexpr, PARTS_N: tl.constexpr,
                BLOCK_N: tl.constexpr,
                TILE_K: tl.constexpr, TILES_K: tl.constexpr, STRIDE_K: tl.constexpr, PARTS_K: tl.constexpr,
                BLOCK_K: tl.constexpr,
                PER_TILE_N: tl.constexpr, PER_TILE_K: tl.constexpr):
    """Store the gradients of a block without a live tile, and the part of a block that an edge tile lacks."""
    if dweight_ptr is not None:
        offs_n, in_n = block_span(row, N, STRIDE_N, PARTS_N, BLOCK_N, False)
        offs_k, in_k = block_span(col, K, STRIDE_K, PARTS_K, BLOCK_K, False)
        p = dweight_ptr + offs_n.to(tl.int64)[:, None] * K + offs_k[None, :]
        zeros = tl.zeros((BLOCK_N, BLOCK_K), dweight_ptr.dtype.element_ty)
        tl.store(p, zeros, mask=in_n[:, None] & in_k[None, :])
    if dmask_ptr is not None:
        p, in_tile = mask_parts(row, col, dmask_ptr, N, K, TILE_N, TILES_N, STRIDE_N, PARTS_N, BLOCK_N,
                                TILE_K, TILES_K, STRIDE_K, PARTS_K, BLOCK_K, PER_TILE_N, PER_TILE_K)
        tl.store(p, tl.zeros((TILES_N, TILES_K), tl.float32), mask=in_tile)


@triton.jit
def store_bias_gradient(row, dy_ptr, dbias_ptr, M, N, stride_dym, stride_dyn,
                        STRIDE_N: tl.constexpr, PARTS_N: tl.constexpr, BLOCK_N: tl.constexpr, EVEN_N: tl.constexpr,
                        EVEN_M: tl.constexpr, BLOCK_M: tl.constexpr):
    """Store the sum of dy over M for the outputs of a block row."""
    offs_n, in_n = block_span(row, N, STRIDE_N, PARTS_N, BLOCK_N, EVEN_N)
    offs_m = tl.arange(0, BLOCK_M)
    dy_p = dy_ptr + offs_m.to(tl.int64)[:, None] * stride_dym + offs_n.to(tl.int64)[None, :] * stride_dyn
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for m in range(0, M, BLOCK_M):
        in_m = tl.full((BLOCK_M,), 1, tl.int1) if EVEN_M else m + offs_m < M
        sums += tl.load(dy_p, mask=in_m[:, None] & in_n[None, :], other=0.0).to(tl.float32)
        dy_p += tl.cast(BLOCK_M, tl.int64) * stride_dym
    tl.store(dbias_ptr + offs_n, tl.sum(sums, 0).to(dbias_ptr.dtype.element_ty), mask=in_n)


@autotune(CONFIGS, KEY, worth_trying)
@triton.heuristics({"EVEN_M": lambda args: args["M"] % args["BLOCK_M"] == 0})
@triton.jit
def weight_grad_kernel(
    # tensors: inputs, then outputs, of which dweight, dmask and dbias are None where not needed
    dy_ptr, x_ptr, weight_ptr, mask_ptr, threshold_ptr, temperature_ptr, dweight_ptr, dmask_ptr, dbias_ptr,
    # sizes, block rows with a bias, block columns, tiles per group
    M, N, K, R, C, group_n, group_k,
    # strides; dweight is (N, K) and dmask (tile rows, tile columns, parts), both contiguous
    stride_dym, stride_dyn, stride_xm, stride_xk, stride_wn, stride_wk,
    stride_maskn, stride_maskk, stride_tn, stride_tk,
    # scalars; M_CLASS is M rounded, for the choice of the config
    eps, M_CLASS,
    # compile-time
    TILE_N: tl.constexpr, TILES_N: tl.constexpr, STRIDE_N: tl.constexpr, PARTS_N: tl.constexpr, BLOCK_N: tl.constexpr,
    TILE_K: tl.constexpr, TILES_K: tl.constexpr, STRIDE_K: tl.constexpr, PARTS_K: tl.constexpr, BLOCK_K: tl.constexpr,
    PER_TILE_N: tl.constexpr, PER_TILE_K: tl.constexpr,
    EVEN_N: tl.constexpr, EVEN_K: tl.constexpr, DEAD_GRAD: tl.constexpr, PRECISION: tl.constexpr,
    EVEN_M: tl.constexpr, BLOCK_M: tl.constexpr,
):
    """Compute the gradients of one block from g = dy.T @ x, zeros if it is dead; one program more a row for the bias.

    Those of the bias come first: each reads as much as a live block does, and has less to do.
    """
    pid = tl.program_id(0)
    slot = pid if dbias_ptr is None else pid - R
    if slot < 0:
        if dbias_ptr is not None:
            store_bias_gradient(pid, dy_ptr, dbias_ptr, M, N, stride_dym, stride_dyn,
                                STRIDE_N, PARTS_N, BLOCK_N, EVEN_N, EVEN_M, BLOCK_M)
    else:
        row, col = slot // C, slot % C
        live = block_lives(row, col, mask_ptr, threshold_ptr, temperature_ptr, N, K,
                           stride_maskn, stride_maskk, stride_tn, stride_tk, group_n, group_k, eps,
                           TILE_N, TILES_N, STRIDE_N, PARTS_N, BLOCK_N, TILE_K, TILES_K, STRIDE_K, PARTS_K, BLOCK_K,
                           DEAD_GRAD)
        if live:
            offs_n, in_n = block_span(row, N, STRIDE_N, PARTS_N, BLOCK_N, EVEN_N)
            offs_k, in_k = block_span(col, K, STRIDE_K, PARTS_K, BLOCK_K, EVEN_K)

            offs_m = tl.arange(0, BLOCK_M)
            dy_p = dy_ptr + offs_m.to(tl.int64)[None, :] * stride_dym + offs_n.to(tl.int64)[:, None] * stride_dyn
            x_p = x_ptr + offs_m.to(tl.int64)[:, None] * stride_xm + offs_k.to(tl.int64)[None, :] * stride_xk
            g = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
            if M > 0:  # proves that the loop runs: wgmma stays asynchronous
                for m in range(0, M, BLOCK_M):
                    in_m = tl.full((BLOCK_M,), 1, tl.int1) if EVEN_M else m + offs_m < M
                    dy = tl.load(dy_p, mask=in_m[None, :] & in_n[:, None], other=0.0)  # (BLOCK_N, BLOCK_M)
                    x = tl.load(x_p, mask=in_m[:, None] & in_k[None, :], other=0.0)    # (BLOCK_M, BLOCK_K)
                    g = tl.dot(dy, x, g, input_precision=PRECISION)
                    dy_p += tl.cast(BLOCK_M, tl.int64) * stride_dym
                    x_p += tl.cast(BLOCK_M, tl.int64) * stride_xm

            store_gradients(
                g, row, col,
                weight_ptr, mask_ptr, threshold_ptr, temperature_ptr, dweight_ptr, dmask_ptr,
                N, K, group_n, group_k,
                stride_wn, stride_wk, stride_maskn, stride_maskk, stride_tn, stride_tk,
                eps,
                TILE_N, TILES_N, STRIDE_N, PARTS_N, BLOCK_N,
                TILE_K, TILES_K, STRIDE_K, PARTS_K, BLOCK_K,
                PER_TILE_N, PER_TILE_K, EVEN_N, EVEN_K, DEAD_GRAD,
            )
        else:
            store_zeros(row, col, dweight_ptr, dmask_ptr, N, K,
                        TILE_N, TILES_N, STRIDE_N, PARTS_N, BLOCK_N, TILE_K, TILES_K, STRIDE_K, PARTS_K, BLOCK_K,
                        PER_TILE_N, PER_TILE_K)
