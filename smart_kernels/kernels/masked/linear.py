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

from smart_kernels.kernels.common.block_grad import GRAD_KEY, columns_of, held, sums_of_blocks
from smart_kernels.kernels.common.blocks import block_start
from smart_kernels.kernels.common.tuning import autotune

from .live_blocks import block_lives, block_span, element_tiles, is_live, load_mask, of_elements, tiles_of

CONFIGS = [  # the first is valid for every shape
    triton.Config({"BLOCK_M": 16, "WIDTH": 16}, num_warps=4, num_stages=2, maxnreg=255),
    triton.Config({"BLOCK_M": 32, "WIDTH": 16}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_M": 64, "WIDTH": 16}, num_warps=4, num_stages=3, maxnreg=255),
    triton.Config({"BLOCK_M": 64, "WIDTH": 16}, num_warps=8, num_stages=3),
    triton.Config({"BLOCK_M": 32, "WIDTH": 256}, num_warps=8, num_stages=4),
    triton.Config({"BLOCK_M": 64, "WIDTH": 256}, num_warps=4, num_stages=2),
]
SUMS = 64  # of several blocks that a thread may hold: two such programs share the registers of a multiprocessor
BIAS = tl.constexpr(8192)  # entries of dy that a program of the bias loads at once


def worth_trying(configs, args, **kwargs):
    """Keep the configurations whose threads have room for blocks of this size.

    Of one block four warps cannot hold more than 64 x 64 beside 64 rows of M. Eight run out of predicates for many
    tiles, of work for less than 64 x 64, and of registers for the addresses of the narrow copies of fp32. Several
    blocks have a tile each.
    """
    n, k = kwargs["BLOCK_N"], kwargs["BLOCK_K"]
    one_tile = kwargs["TILES_N"] == kwargs["TILES_K"] == 1
    many = kwargs["TILES_N"] > 1 and kwargs["TILES_K"] > 1
    starved = many or n * k < 64 * 64 or args["x_ptr"].element_size() == 4
    unfit = {(64, 4)} if n * k > 64 * 64 else {(64, 8)} if starved else set()

    def warps(config):
        return max(4, n * config.kwargs["WIDTH"] // (32 * SUMS)) if one_tile else 0

    found = held(configs, args, kwargs, args["C"], warps, SUMS)
    several = [c for c in found if c.kwargs["WIDTH"] > k]
    return [c for c in found if c in several or (c.kwargs["BLOCK_M"], c.num_warps) not in unfit]


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

    tile_n = element_tiles(row, TILE_N, TILES_N, STRIDE_N, PARTS_N, BLOCK_N, 1)
    tile_k = element_tiles(col, TILE_K, TILES_K, STRIDE_K, PARTS_K, BLOCK_K, 1)
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
               BLOCK_K: tl.constexpr, PER_TILE_N: tl.constexpr, PER_TILE_K: tl.constexpr, GROUP: tl.constexpr):
    """Return the tiles, where each block's part of the gradient of its tiles is, and which tiles there are."""
    start_n = block_start(row, STRIDE_N, PARTS_N, BLOCK_N)
    start_k = block_start(col, STRIDE_K, PARTS_K, BLOCK_K)
    tile_n, tile_k = tiles_of(start_n, TILE_N, TILES_N, 1), tiles_of(start_k, TILE_K, TILES_K, GROUP)
    part = (start_n % TILE_N // BLOCK_N) * PER_TILE_K + start_k % TILE_K // BLOCK_K
    tile = tile_n.to(tl.int64)[:, None] * tl.cdiv(K, TILE_K) + tile_k[None, :]
    in_tile = (tile_n * TILE_N < N)[:, None] & (tile_k * TILE_K < K)[None, :]
    place = tile * (PER_TILE_N * PER_TILE_K) + (part if GROUP == 1 else part[None, :])
    return tile_n, tile_k, dmask_ptr + place, in_tile


@triton.jit
def store_gradients(
    g, row, col, left,
    weight_ptr, mask_ptr, threshold_ptr, temperature_ptr, dweight_ptr, dmask_ptr,
    N, K, group_n, group_k,
    stride_wn, stride_wk, stride_maskn, stride_maskk, stride_tn, stride_tk,
    eps,
    TILE_N: tl.constexpr, TILES_N: tl.constexpr, STRIDE_N: tl.constexpr, PARTS_N: tl.constexpr, BLOCK_N: tl.constexpr,
    TILE_K: tl.constexpr, TILES_K: tl.constexpr, STRIDE_K: tl.constexpr, PARTS_K: tl.constexpr, BLOCK_K: tl.constexpr,
    PER_TILE_N: tl.constexpr, PER_TILE_K: tl.constexpr,
    EVEN_N: tl.constexpr, EVEN_K: tl.constexpr, DEAD_GRAD: tl.constexpr, GROUP: tl.constexpr,
):
    """Store dweight = mask * g and dmask = sum over a tile of g * weight; g is the gradient of blocks of weight * mask.

    With one block ``col`` is a number. Several, of one tile each, have an entry each; the first ``left`` exist, None:
    all.

    Blocks that share a tile write their part of its sum to dmask[tile row, tile column, part]. Where the mask is
    soft, dmask is the gradient of the score.
    """
    offs_n, in_n = block_span(row, N, STRIDE_N, PARTS_N, BLOCK_N, EVEN_N)
    own = of_elements(col, BLOCK_K, GROUP)
    offs_k, in_k = columns_of(own, left, K, STRIDE_K, PARTS_K, BLOCK_K, GROUP, EVEN_K)
    inside = in_n[:, None] & in_k[None, :]
    tile_n = element_tiles(row, TILE_N, TILES_N, STRIDE_N, PARTS_N, BLOCK_N, 1)
    tile_k = element_tiles(own, TILE_K, TILES_K, STRIDE_K, PARTS_K, BLOCK_K, GROUP)
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
        g = tl.reshape(g, (TILES_N, BLOCK_N // TILES_N, GROUP * TILES_K, BLOCK_K // TILES_K))
        dmask = tl.sum(tl.sum(g, axis=3), axis=1)

        tile_n, tile_k, p, in_tile = mask_parts(
            row, col, dmask_ptr, N, K, TILE_N, TILES_N, STRIDE_N, PARTS_N, BLOCK_N,
            TILE_K, TILES_K, STRIDE_K, PARTS_K, BLOCK_K, PER_TILE_N, PER_TILE_K, GROUP)
        mask = load_mask(mask_ptr, threshold_ptr, temperature_ptr, tile_n, tile_k, in_tile,
                         stride_maskn, stride_maskk, stride_tn, stride_tk, group_n, group_k)
        if threshold_ptr is not None:
            dmask *= mask * (1 - mask) / tl.load(temperature_ptr).to(tl.float32)
        if not DEAD_GRAD:
            dmask = tl.where(is_live(mask, eps), dmask, 0.0)
        tl.store(p, dmask, mask=in_tile if left is None else in_tile & (tl.arange(0, GROUP) < left)[None, :])


@triton.jit
def store_zeros(row, col, live, dweight_ptr, dmask_ptr, N, K,
                TILE_N: tl.constexpr, TILES_N: tl.constexpr, STRIDE_N: tl.constexpr, PARTS_N: tl.constexpr,
                BLOCK_N: tl.constexpr,
                TILE_K: tl.constexpr, TILES_K: tl.constexpr, STRIDE_K: tl.constexpr, PARTS_K: tl.constexpr,
                BLOCK_K: tl.constexpr,
                PER_TILE_N: tl.constexpr, PER_TILE_K: tl.constexpr, GROUP: tl.constexpr):
    """Store the gradients of blocks without a live tile, and the part of a block that an edge tile lacks.

    With one block ``col`` is a number, and it is dead; of several, with an entry each, those that are not live.
    """
    if dweight_ptr is not None:
        offs_n, in_n = block_span(row, N, STRIDE_N, PARTS_N, BLOCK_N, False)
        own = of_elements(col, BLOCK_K, GROUP)
        offs_k, in_k = columns_of(own, None, K, STRIDE_K, PARTS_K, BLOCK_K, GROUP, False)
        if GROUP > 1:
            in_k = in_k & tl.max_constancy(of_elements(live, BLOCK_K, GROUP) == 0, BLOCK_K)
        p = dweight_ptr + offs_n.to(tl.int64)[:, None] * K + offs_k[None, :]
        zeros = tl.zeros((BLOCK_N, GROUP * BLOCK_K), dweight_ptr.dtype.element_ty)
        tl.store(p, zeros, mask=in_n[:, None] & in_k[None, :])
    if dmask_ptr is not None:
        _, _, p, in_tile = mask_parts(
            row, col, dmask_ptr, N, K, TILE_N, TILES_N, STRIDE_N, PARTS_N, BLOCK_N,
            TILE_K, TILES_K, STRIDE_K, PARTS_K, BLOCK_K, PER_TILE_N, PER_TILE_K, GROUP)
        zeros = tl.zeros((TILES_N, GROUP * TILES_K), tl.float32)
        tl.store(p, zeros, mask=in_tile if GROUP == 1 else in_tile & (live == 0)[None, :])


@triton.jit
def store_bias_gradient(row, dy_ptr, dbias_ptr, M, N, stride_dym, stride_dyn,
                        STRIDE_N: tl.constexpr, PARTS_N: tl.constexpr, BLOCK_N: tl.constexpr, EVEN_N: tl.constexpr):
    """Store the sum of dy over M for the outputs of a block row."""
    ROWS: tl.constexpr = BIAS // BLOCK_N
    offs_n, in_n = block_span(row, N, STRIDE_N, PARTS_N, BLOCK_N, EVEN_N)
    offs_m = tl.arange(0, ROWS)
    dy_p = dy_ptr + offs_m.to(tl.int64)[:, None] * stride_dym + offs_n.to(tl.int64)[None, :] * stride_dyn
    sums = tl.zeros((ROWS, BLOCK_N), tl.float32)
    for m in range(0, M, ROWS):
        inside = (m + offs_m < M)[:, None] & in_n[None, :]
        sums += tl.load(dy_p, mask=inside, other=0.0).to(tl.float32)
        dy_p += tl.cast(ROWS, tl.int64) * stride_dym
    tl.store(dbias_ptr + offs_n, tl.sum(sums, 0).to(dbias_ptr.dtype.element_ty), mask=in_n)


@triton.jit
def live_columns(row, first, C, mask_ptr, threshold_ptr, temperature_ptr, N, K,
                 stride_maskn, stride_maskk, stride_tn, stride_tk, group_n, group_k, eps,
                 TILE_N: tl.constexpr, STRIDE_N: tl.constexpr, PARTS_N: tl.constexpr, BLOCK_N: tl.constexpr,
                 TILE_K: tl.constexpr, STRIDE_K: tl.constexpr, PARTS_K: tl.constexpr, BLOCK_K: tl.constexpr,
                 DEAD_GRAD: tl.constexpr, GROUP: tl.constexpr, CHUNK: tl.constexpr):
    """Return the columns of GROUP live blocks of a row, from its ``first`` on, how many are left there, and if any.

    Every program reads the mask of its whole row, which takes as long as a list would that a launch had made before.
    """
    wanted = first + tl.arange(0, GROUP)
    col = tl.zeros((GROUP,), tl.int32)
    before = 0
    for start in range(0, C, CHUNK):
        block = start + tl.arange(0, CHUNK)
        live = block_lives(row, block, mask_ptr, threshold_ptr, temperature_ptr, N, K,
                           stride_maskn, stride_maskk, stride_tn, stride_tk, group_n, group_k, eps,
                           TILE_N, 1, STRIDE_N, PARTS_N, BLOCK_N, TILE_K, 1, STRIDE_K, PARTS_K, BLOCK_K,
                           DEAD_GRAD, CHUNK).to(tl.int32)
        place = before + tl.cumsum(live, axis=0) - live
        hit = (live != 0)[None, :] & (place[None, :] == wanted[:, None])
        col += tl.sum(tl.where(hit, block[None, :], 0), axis=1)
        before += tl.sum(live)
    return col, before - first, before > first


@autotune(CONFIGS, [*GRAD_KEY, "TILES_N", "TILES_K", "C"], worth_trying)
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
    # compile-time; WHOLE_COPIES: blocks and rows lie so that each copy may have 16 bytes; CHUNK: of a row's blocks
    TILE_N: tl.constexpr, TILES_N: tl.constexpr, STRIDE_N: tl.constexpr, PARTS_N: tl.constexpr, BLOCK_N: tl.constexpr,
    TILE_K: tl.constexpr, TILES_K: tl.constexpr, STRIDE_K: tl.constexpr, PARTS_K: tl.constexpr, BLOCK_K: tl.constexpr,
    PER_TILE_N: tl.constexpr, PER_TILE_K: tl.constexpr,
    EVEN_N: tl.constexpr, EVEN_K: tl.constexpr, WHOLE_COPIES: tl.constexpr,
    DEAD_GRAD: tl.constexpr, PRECISION: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_M: tl.constexpr, WIDTH: tl.constexpr,
):
    """Compute the gradients of GROUP live blocks of a row from g = dy.T @ x, and store zeros for dead ones.

    Program i of a row computes its (i * GROUP)th live block and those after it, if it has so many, and writes the zeros
    of the dead among its blocks i * GROUP and on. Programs of the bias come first: each reads as much dy as those of
    live blocks do, and has less to do.
    """
    GROUP: tl.constexpr = WIDTH // BLOCK_K if WIDTH > BLOCK_K and TILES_N * TILES_K == 1 else 1
    pid = tl.program_id(0)
    slot = pid if dbias_ptr is None else pid - R
    if slot < 0:
        if dbias_ptr is not None:
            store_bias_gradient(
                pid, dy_ptr, dbias_ptr, M, N, stride_dym, stride_dyn, STRIDE_N, PARTS_N, BLOCK_N, EVEN_N)
    else:
        groups = tl.cdiv(C, GROUP)
        row, first = slot // groups, slot % groups * GROUP
        own = first if GROUP == 1 else first + tl.arange(0, GROUP)
        live = block_lives(row, own, mask_ptr, threshold_ptr, temperature_ptr, N, K,
                           stride_maskn, stride_maskk, stride_tn, stride_tk, group_n, group_k, eps,
                           TILE_N, TILES_N, STRIDE_N, PARTS_N, BLOCK_N, TILE_K, TILES_K, STRIDE_K, PARTS_K, BLOCK_K,
                           DEAD_GRAD, GROUP)
        if GROUP > 1 or live == 0:
            store_zeros(row, own, live.to(tl.int32), dweight_ptr, dmask_ptr, N, K,
                        TILE_N, TILES_N, STRIDE_N, PARTS_N, BLOCK_N, TILE_K, TILES_K, STRIDE_K, PARTS_K, BLOCK_K,
                        PER_TILE_N, PER_TILE_K, GROUP)
        if GROUP == 1:
            col, left, some = own, None, live
        else:
            col, left, some = live_columns(
                row, first, C, mask_ptr, threshold_ptr, temperature_ptr, N, K,
                stride_maskn, stride_maskk, stride_tn, stride_tk, group_n, group_k, eps,
                TILE_N, STRIDE_N, PARTS_N, BLOCK_N, TILE_K, STRIDE_K, PARTS_K, BLOCK_K,
                DEAD_GRAD, GROUP, CHUNK if CHUNK * GROUP <= 4096 else 4096 // GROUP)
        if some:
            offs_n, in_n = block_span(row, N, STRIDE_N, PARTS_N, BLOCK_N, EVEN_N)
            offs_k, in_k = columns_of(
                of_elements(col, BLOCK_K, GROUP), left, K, STRIDE_K, PARTS_K, BLOCK_K, GROUP, EVEN_K)
            g = sums_of_blocks(
                dy_ptr, x_ptr, offs_n, in_n, offs_k, in_k, M, stride_dym, stride_dyn, stride_xm, stride_xk,
                EVEN_N, EVEN_K and GROUP == 1, PRECISION, BLOCK_M, BLOCK_N, GROUP * BLOCK_K)
            if GROUP == 1:
                store_gradients(
                    g, row, col, left,
                    weight_ptr, mask_ptr, threshold_ptr, temperature_ptr, dweight_ptr, dmask_ptr,
                    N, K, group_n, group_k,
                    stride_wn, stride_wk, stride_maskn, stride_maskk, stride_tn, stride_tk,
                    eps,
                    TILE_N, TILES_N, STRIDE_N, PARTS_N, BLOCK_N,
                    TILE_K, TILES_K, STRIDE_K, PARTS_K, BLOCK_K,
                    PER_TILE_N, PER_TILE_K, EVEN_N, EVEN_K, DEAD_GRAD, 1,
                )
            else:  # half by half: a thread has no registers for all weights beside all sums
                HALF: tl.constexpr = GROUP // 2
                halves = tl.split(tl.permute(tl.reshape(g, (BLOCK_N, 2, HALF * BLOCK_K)), (0, 2, 1)))
                cols = tl.split(tl.permute(tl.reshape(col, (2, HALF)), (1, 0)))
                for i in tl.static_range(2):
                    store_gradients(
                        halves[i], row, tl.sum(cols[i]) if HALF == 1 else cols[i], left - i * HALF,
                        weight_ptr, mask_ptr, threshold_ptr, temperature_ptr, dweight_ptr, dmask_ptr,
                        N, K, group_n, group_k,
                        stride_wn, stride_wk, stride_maskn, stride_maskk, stride_tn, stride_tk,
                        eps,
                        TILE_N, TILES_N, STRIDE_N, PARTS_N, BLOCK_N,
                        TILE_K, TILES_K, STRIDE_K, PARTS_K, BLOCK_K,
                        PER_TILE_N, PER_TILE_K, EVEN_N, EVEN_K, DEAD_GRAD, HALF,
                    )
