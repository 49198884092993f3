"""y = activation(x @ W.T + bias + residual) with stored blocks of W, in programs that stay (sm_90, fp16 and bf16).

One program for each multiprocessor walks tiles of y, the longest block rows first, in three roles:

    producer    TMA: for 64 columns of a block, rows of x and of the block -> full[s], ahead across tiles
    consumers   two groups of four warps: wait full[s], wgmma with W as left operand (64 rows of W, BLOCK_M / SHARE of
                x), the step before is done: arrive at its empty. After the last step: epilogue, TMA store.

                      groups                          empty[s] expects
    PING_PONG         take turns, a tile each: while  1: whoever has the tile
                      one ends its tile, the other
                      multiplies
    else              share a tile: 64 rows of W      2
                      each, or where a block has only
                      64 half of x's rows each

So the loads of the next tile, and with PING_PONG its products as well, hide the end of a tile. The lists of blocks are
those of block_matmul.py, to which blocks are left that are not multiples of 64 x 64.
"""

from dataclasses import replace

import triton

from .gluon import fence_async_shared, finish, gl, gluon, mbarrier, tma, tma_load, tma_store, warpgroup_mma, wgmma_wait
from .producing import next_stage, tile_at
from .tuning import autotune

TALLEST = 128  # rows of W that a tile takes: a block of 256 is two tiles
BOX = 256  # rows that TMA copies at once


@gluon.jit
def place(turn, start_ptr, end_ptr, order_ptr, tiles, rows_n, tiles_m, HALVES: gl.constexpr):
    """Return row and tile of M of this program's tile number ``turn``, and start and end in the list of blocks.

    Every other turn goes backwards through the programs: tiles get shorter along a turn. Beyond the last tile there is
    one without blocks.
    """
    programs = gl.num_programs(0)
    pid = gl.program_id(0)
    number = turn * programs + gl.where(turn % 2 == 0, pid, programs - 1 - pid)
    there = number < tiles
    row, tile_m = tile_at(gl.minimum(number, tiles - 1), rows_n, tiles_m)
    block_row = row // HALVES
    if order_ptr is not None:
        block_row = gl.load(order_ptr + block_row)
    start = gl.load(start_ptr + block_row)
    end = gl.load(end_ptr + block_row)
    return block_row * HALVES + row % HALVES, gl.where(there, tile_m, tiles_m), start, gl.where(there, end, start)


@gluon.jit
def stage_before(s, STAGES: gl.constexpr):
    """Return the stage before.

    A loop that carried it would not see it change: triton takes a variable that starts as s and becomes s for constant.
    """
    return gl.where(s == 0, STAGES, s) - 1


@gluon.jit
def produce(
    x_desc, w_desc, x_s, w_s, full, empty, start_ptr, end_ptr, cols_ptr, slots_ptr, order_ptr, tiles, rows_n, tiles_m,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr,
    W_TRANSPOSED: gl.constexpr,
):
    TALL: gl.constexpr = BLOCK_N if BLOCK_N < 128 else 128
    HALVES: gl.constexpr = BLOCK_N // TALL
    BOXES_M: gl.constexpr = x_s.shape[0] // STAGES
    BOXES_N: gl.constexpr = TALL // 64
    BYTES: gl.constexpr = (BLOCK_M + TALL) * 128
    s = 0
    phase = 1
    turns = gl.cdiv(tiles, gl.num_programs(0))
    row, tile_m, start, end = place(0, start_ptr, end_ptr, order_ptr, tiles, rows_n, tiles_m, HALVES)
    for turn in range(0, turns):
        # the next tile is looked up while the copies of this one are on their way
        next_row, next_m, next_start, next_end = place(turn + 1, start_ptr, end_ptr, order_ptr, tiles, rows_n, tiles_m,
                                                       HALVES)
        m0 = tile_m * BLOCK_M
        n0 = row % HALVES * TALL
        col = gl.load(cols_ptr + start, mask=start < end, other=0)
        slot = start
        if slots_ptr is not None:
            slot = gl.load(slots_ptr + start, mask=start < end, other=0)
        for j in range(start, end):
            ahead = gl.minimum(j + 1, end - 1)
            next_col = gl.load(cols_ptr + ahead)
            next_slot = ahead
            if slots_ptr is not None:
                next_slot = gl.load(slots_ptr + ahead)
            for part in gl.static_range(BLOCK_K // 64):
                mbarrier.wait(empty.index(s), phase)
                mbarrier.expect(full.index(s), BYTES)
                k0 = col * BLOCK_K + part * 64
                for i in gl.static_range(BOXES_M):
                    tma_load(x_desc, [m0 + i * (BLOCK_M // BOXES_M), k0], full.index(s), x_s.index(s * BOXES_M + i))
                for i in gl.static_range(BOXES_N):
                    if W_TRANSPOSED:
                        at = [slot * BLOCK_K + part * 64, n0 + i * 64]
                    else:
                        at = [slot * BLOCK_N + n0 + i * 64, part * 64]
                    tma_load(w_desc, at, full.index(s), w_s.index(s * BOXES_N + i))
                s, phase = next_stage(s, phase, STAGES)
            col = next_col
            slot = next_slot
        row = next_row
        tile_m = next_m
        start = next_start
        end = next_end


@gluon.jit
def awaited(accs, PENDING: gl.constexpr):
    """Wait until at most so many products are on their way, and return the sums."""
    if len(accs) == 1:
        return (wgmma_wait(PENDING, deps=[accs[0]]),)
    else:
        return wgmma_wait(PENDING, deps=[accs[0], accs[1]])


@gluon.jit
def halved(acc):
    """Split sums (64, m) into those of the first and the second half of x's rows, which lie in other registers."""
    return acc.reshape([acc.shape[0], 2, acc.shape[1] // 2]).permute([0, 2, 1]).split()


@gluon.jit
def store_rows(
    acc, m0, n0, bias_ptr, residual_ptr, y_desc, y_s, M, N, stride_rm, stride_rn, turn,
    ACTIVATION: gl.constexpr, BUFFER: gl.constexpr, BUFFERS: gl.constexpr,
):
    """Finish and store sums (64, m) in pieces that have a buffer; returns how many pieces were stored so far."""
    if acc.shape[1] > y_s.shape[1]:
        first, second = halved(acc)
        turn = store_rows(first, m0, n0, bias_ptr, residual_ptr, y_desc, y_s, M, N, stride_rm, stride_rn, turn,
                          ACTIVATION, BUFFER, BUFFERS)
        return store_rows(second, m0 + acc.shape[1] // 2, n0, bias_ptr, residual_ptr, y_desc, y_s, M, N, stride_rm,
                          stride_rn, turn, ACTIVATION, BUFFER, BUFFERS)
    else:
        y = acc.permute([1, 0])
        rows = m0 + gl.arange(0, y.shape[0], layout=gl.SliceLayout(1, y.type.layout))
        cols = n0 + gl.arange(0, 64, layout=gl.SliceLayout(0, y.type.layout))
        y = finish(y, bias_ptr, residual_ptr, rows, cols, M, N, stride_rm, stride_rn, ACTIVATION)
        tma.store_wait(BUFFERS - 1)  # the store before the last has left the buffer
        buffer = y_s.index(BUFFER + turn % BUFFERS)
        buffer.store(y.to(y_desc.dtype))
        fence_async_shared()
        tma_store(y_desc, [m0, n0], buffer)
        return turn + 1


@gluon.jit
def consume(
    x_s, w_s, y_s, full, empty, turns_s, start_ptr, end_ptr, order_ptr, bias_ptr, residual_ptr, y_desc,
    M, N, tiles, rows_n, tiles_m, stride_rm, stride_rn,
    GROUP: gl.constexpr, PING_PONG: gl.constexpr, ACTIVATION: gl.constexpr,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr, BUFFERS: gl.constexpr,
    W_TRANSPOSED: gl.constexpr,
):
    TALL: gl.constexpr = BLOCK_N if BLOCK_N < 128 else 128
    HALVES: gl.constexpr = BLOCK_N // TALL
    BOXES_M: gl.constexpr = x_s.shape[0] // STAGES
    BOXES_N: gl.constexpr = TALL // 64
    SHARE_M: gl.constexpr = 2 if not PING_PONG and TALL == 64 else 1          # groups that x's rows are for
    COLUMNS: gl.constexpr = BLOCK_M // SHARE_M
    PRODUCTS: gl.constexpr = BOXES_N if PING_PONG else 1                      # of 64 rows of W
    OF_M: gl.constexpr = GROUP if SHARE_M == 2 else 0                         # which half of x, and which box of W
    OF_N: gl.constexpr = GROUP if not PING_PONG and TALL > 64 else 0
    STRIDE: gl.constexpr = 2 if PING_PONG else 1
    SUMS: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, COLUMNS, 16])
    PARTS: gl.constexpr = BLOCK_K // 64
    turns = gl.cdiv(tiles, gl.num_programs(0))
    done = 0                                                                  # steps of tiles before, of both groups
    stored = 0
    for turn in range(GROUP if PING_PONG else 0, turns, STRIDE):
        if PING_PONG:  # steps of the other group's tile
            _, _, start, end = place(gl.maximum(turn - 1, 0), start_ptr, end_ptr, order_ptr, tiles, rows_n, tiles_m,
                                     HALVES)
            done += gl.where(turn > 0, end - start, 0) * PARTS
        row, tile_m, start, end = place(turn, start_ptr, end_ptr, order_ptr, tiles, rows_n, tiles_m, HALVES)
        steps = (end - start) * PARTS
        s = done % STAGES
        phase = done // STAGES & 1
        done += steps
        accs = ()
        for _ in gl.static_range(PRODUCTS):
            accs += (gl.zeros([64, COLUMNS], gl.float32, SUMS),)
        if PING_PONG:  # whoever waits must be no more than one round of the ring ahead, which a parity cannot tell
            mbarrier.wait(turns_s.index(GROUP), (turn // 2 + 1 - GROUP) & 1)
        for step in range(0, steps):
            mbarrier.wait(full.index(s), phase)
            x = x_s.index(s * BOXES_M + OF_M).permute((1, 0))
            new = ()
            for i in gl.static_range(PRODUCTS):
                w = w_s.index(s * BOXES_N + OF_N + i)
                if W_TRANSPOSED:
                    w = w.permute((1, 0))
                new += (warpgroup_mma(w, x, accs[i], is_async=True),)
            accs = awaited(new, PRODUCTS)
            mbarrier.arrive(empty.index(stage_before(s, STAGES)), count=1, pred=step > 0)
            s, phase = next_stage(s, phase, STAGES)
        if PING_PONG:
            mbarrier.arrive(turns_s.index(1 - GROUP), count=1)
        accs = awaited(accs, 0)
        mbarrier.arrive(empty.index(stage_before(s, STAGES)), count=1, pred=steps > 0)

        m0 = tile_m * BLOCK_M + OF_M * COLUMNS
        n0 = row * TALL + OF_N * 64
        for i in gl.static_range(PRODUCTS):
            stored = store_rows(accs[i], m0, n0 + i * 64, bias_ptr, residual_ptr, y_desc, y_s, M, N, stride_rm,
                                stride_rn, stored, ACTIVATION, GROUP * BUFFERS, BUFFERS)
    tma.store_wait(0)


def config(tall, block_m, ping_pong, stages, buffers):
    """Return a configuration for blocks of 64 rows, or of 128 and more."""
    kwargs = {"TALL": tall, "BLOCK_M": block_m, "PING_PONG": ping_pong, "STAGES": stages, "BUFFERS": buffers}
    return triton.Config(kwargs, num_warps=4)


CONFIGS = [
    config(64, 256, True, 5, 2),
    config(64, 512, False, 3, 1),
    config(64, 128, True, 6, 2),
    config(TALLEST, 256, False, 4, 2),
    config(TALLEST, 128, True, 6, 2),
]
KEY = ["M_CLASS", "N", "K", "BLOCK_N", "BLOCK_K", "W_TRANSPOSED", "ACTIVATION"]


def offered(block_n, residual):
    """Return the configurations for blocks of this height.

    What fetches a residual finds no registers where a group that waits for its turn has 128 rows of x.
    """
    tall = min(block_n, TALLEST)
    return [c for c in CONFIGS if c.kwargs["TALL"] == tall and (c.kwargs["BLOCK_M"] > 128 or not residual)]


def worth_trying(configs, args, **kwargs):
    """Keep the configurations for this height of blocks, no taller than M rounded up."""
    found = offered(kwargs["BLOCK_N"], args["residual_ptr"] is not None)
    found = [c for c in configs if c in found] or configs
    return [c for c in found if c.kwargs["BLOCK_M"] <= args["M_CLASS"]] or found[:1]


def boxed(name, rows):
    """Make a heuristic that gives a descriptor boxes of as many rows as the configuration wants.

    A pre_hook could do so, but Triton stores no choice among configs that have one.
    """
    return lambda args: replace(args[name], block_shape=[rows(args), 64])


@autotune(CONFIGS, KEY, worth_trying)
@triton.heuristics({"x_desc": boxed("x_desc", lambda args: min(args["BLOCK_M"], BOX))})
@gluon.jit
def persistent_matmul_kernel(
    # tensors; slots, order, bias and residual may be None
    start_ptr, end_ptr, cols_ptr, slots_ptr, order_ptr, bias_ptr, residual_ptr,
    # descriptors of W and, by name, x and y
    w_desc,
    # sizes
    M, N, K,
    # strides
    stride_rm, stride_rn,
    # scalars; M_CLASS is M rounded, for the choice of the config
    M_CLASS, blocks_n,
    x_desc, y_desc,
    # compile-time
    W_TRANSPOSED: gl.constexpr, ACTIVATION: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr,
    BLOCK_M: gl.constexpr, TALL: gl.constexpr, PING_PONG: gl.constexpr, STAGES: gl.constexpr, BUFFERS: gl.constexpr,
):
    BOXES: gl.constexpr = BLOCK_M // x_desc.block_type.shape[0]
    x_s = gl.allocate_shared_memory(x_desc.dtype, [STAGES * BOXES, BLOCK_M // BOXES, 64], x_desc.layout)
    w_s = gl.allocate_shared_memory(w_desc.dtype, [STAGES * (TALL // 64), 64, 64], w_desc.layout)
    y_s = gl.allocate_shared_memory(y_desc.dtype, [2 * BUFFERS, y_desc.block_type.shape[0], 64], y_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    turns_s = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(2):
        mbarrier.init(turns_s.index(i), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=1 if PING_PONG else 2)
    fence_async_shared()
    rows_n = blocks_n * (BLOCK_N // TALL)
    tiles_m = gl.cdiv(M, BLOCK_M)
    tiles = rows_n * tiles_m
    gl.warp_specialize([
        (consume, (x_s, w_s, y_s, full, empty, turns_s, start_ptr, end_ptr, order_ptr, bias_ptr, residual_ptr, y_desc,
                   M, N, tiles, rows_n, tiles_m, stride_rm, stride_rn,
                   0, PING_PONG, ACTIVATION, BLOCK_M, BLOCK_N, BLOCK_K, STAGES, BUFFERS, W_TRANSPOSED)),
        (consume, (x_s, w_s, y_s, full, empty, turns_s, start_ptr, end_ptr, order_ptr, bias_ptr, residual_ptr, y_desc,
                   M, N, tiles, rows_n, tiles_m, stride_rm, stride_rn,
                   1, PING_PONG, ACTIVATION, BLOCK_M, BLOCK_N, BLOCK_K, STAGES, BUFFERS, W_TRANSPOSED)),
        (produce, (x_desc, w_desc, x_s, w_s, full, empty, start_ptr, end_ptr, cols_ptr, slots_ptr, order_ptr,
                   tiles, rows_n, tiles_m, BLOCK_M, BLOCK_N, BLOCK_K, STAGES, W_TRANSPOSED)),
    ], [4, 1], [232, 40])
