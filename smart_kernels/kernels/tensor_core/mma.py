"""y = activation(scale * (x @ W.T) + bias + residual), W 2:4, on mma.sp (sm_80 and later).

The transposed product runs: W is the instruction's A (16 rows of W), x.T its B (8 rows of x). Everything is 32-bit
words, so that one instruction is one call of inline assembly on 4 words of each operand.

    W      int32 (N / 16, K / 32, 32 lanes, 4)     what each lane needs for 16 rows x 32 columns
    meta   int32 (N / 64, K / 64, 4, 32 lanes)     one word serves 16 rows x 64 columns: lanes 4g, 4g + 1 the first 32
                                                   (selector 0), lanes 4g + 2, 4g + 3 the others (selector 1)
    x      fp16 or bf16 (M, K) as int32 (M, K / 2)

Of int8 (summed in int32) and fp8 e4m3 (sm_89 and later), two columns count as one: the words are the same but for

    meta   int32 (N / 64, K / 64, 2, 4, 32 lanes)  one word serves 32 real columns of a row: lanes 4g, 4g + 1 of rows g
                                                   and g + 8, lanes 4g + 2, 4g + 3 the next 32 of these

An fp8 product is summed by itself and then added in fp32: tensor cores keep fewer bits while they add up.

Few rows of x make few blocks; programs then share the columns of one (SPLIT) and leave their sums to
``sum_pieces_kernel``. Rows of a small block that x does not have are not copied: read again and again by every program,
one line of L2 would be what all wait for.

N and K of the packed W are padded to 128 and 64. A warp does 64 rows of W and BLOCK_M / WARPS_M rows of x. Dimensions
of the tensors of fragments: (8 rows of x each, warps along N, warps along M, lanes, words); size 1 is broadcast.
"""

import triton

from smart_kernels.kernels.common.gluon import async_copy, barrier, copy_to_shared, finish, gl, gluon, reinterpret
from smart_kernels.kernels.common.tuning import autotune


def config(block_n, block_m, warps_n, warps_m, stages):
    sizes = {"BLOCK_N": block_n, "BLOCK_M": block_m, "WARPS_N": warps_n, "WARPS_M": warps_m, "STAGES": stages}
    return triton.Config(sizes, num_warps=warps_n * warps_m)


CONFIGS = [  # the first is valid for every shape and device
    config(128, 16, 2, 1, 4),
    config(128, 64, 2, 1, 4),
    config(128, 128, 2, 4, 3),
    config(256, 128, 4, 2, 2),
    config(128, 128, 2, 2, 3),
    config(256, 64, 4, 1, 3),
    config(256, 128, 4, 2, 3),
]
KEY = ["M_CLASS", "N", "K", "EVEN_K", "TYPE", "ACTIVATION", "SPLIT"]
LITTLE_SHARED = 86, 89, 120, 121  # architectures whose blocks may have SHARED bytes; others at least 1.6 times that
SHARED = 101376
FEW_ROWS = 64  # of x: up to here the first configuration was fastest on an H200, from 512 on the two before the last
TRIED = 3


def worth_trying(configs, args, **kwargs):
    """Keep blocks that divide the packed rows, none taller than M, whose stages fit into shared memory.

    At most ``TRIED``: the first for few rows of x, the last for many; the first alone where programs share columns.
    """
    little = triton.runtime.driver.active.get_current_target().arch in LITTLE_SHARED
    row = 80 if kwargs["TYPE"] in ("s8", "e4m3") else 72
    found = []
    for c in configs:
        stages = c.kwargs["STAGES"] * (row * c.kwargs["BLOCK_N"] + 128 * c.kwargs["BLOCK_M"])
        if (
            stages <= (1 if little else 1.6) * SHARED
            and c.kwargs["BLOCK_M"] <= args["M_CLASS"]
            and args["N_PACKED"] % c.kwargs["BLOCK_N"] == 0
            # erf, or the second sums of fp8, beside 128 sums a thread would spill
            and (few_sums(c) or (kwargs["ACTIVATION"] != "gelu" and kwargs["TYPE"] != "e4m3"))
        ):
            found.append(c)
    if kwargs["SPLIT"]:
        return found[:1]
    return found[:TRIED] if args["M_CLASS"] <= FEW_ROWS else found[-TRIED:]


def few_sums(config):
    """Return whether each thread has at most 64 sums."""
    return config.kwargs["BLOCK_M"] <= 32 * config.kwargs["WARPS_M"]


@gluon.constexpr_function
def mma_sp(TYPE, tile, selector):
    """Write the instruction: $0-3 sums, $4-7 W, $8-11 x, $12-15 metadata of four tiles, $16-19 sums before."""
    depth = 64 if TYPE in ("s8", "e4m3") else 32
    sums = "s32" if TYPE == "s8" else "f32"
    return (
        f"mma.sp::ordered_metadata.sync.aligned.m16n8k{depth}.row.col.{sums}.{TYPE}.{TYPE}.{sums} "
        f"{{$0,$1,$2,$3}}, {{$4,$5,$6,$7}}, {{$8,$9,$10,$11}}, {{$16,$17,$18,$19}}, ${12 + tile}, 0x{selector};"
    )


@gluon.constexpr_function
def operands(TYPE):
    """Return the constraints of its operands: sums go on in their registers, but those of fp8 are new ones."""
    before = ["f"] * 4 if TYPE == "e4m3" else ["0", "1", "2", "3"]
    return ",".join(["=r" if TYPE == "s8" else "=f"] * 4 + ["r"] * 12 + before)


@gluon.constexpr_function
def bytewise(TYPE):
    """Return the metadata words per lane, tile and 32 words of x."""
    return 2 if TYPE in ("s8", "e4m3") else 1


@gluon.constexpr_function
def fragments(TILES_M, WARPS_N, WARPS_M):
    return gl.BlockedLayout([TILES_M, 1, 1, 1, 4], [1, 1, 1, 32, 1], [1, WARPS_N, WARPS_M, 1, 1], [4, 3, 2, 1, 0])


@gluon.constexpr_function
def rows_of_x(TILES_M, WARPS_N, WARPS_M):
    """Return the layout of (BLOCK_M, 16) words as ldmatrix delivers them.

    Lane 4g + t has word t + 4r of row g, then of the next 8 rows.
    """

    def powers(count):
        return [1 << i for i in range(count.bit_length() - 1)]

    words = [[0, 4], [0, 8]] + [[8 * i, 0] for i in powers(TILES_M)]
    lanes = [[0, 1], [0, 2], [1, 0], [2, 0], [4, 0]]
    warps = [[8 * TILES_M * i, 0] for i in powers(WARPS_M)] + [[0, 0] for _ in powers(WARPS_N)]
    return gl.DistributedLinearLayout(words, lanes, warps, [], [8 * TILES_M * WARPS_M, 16])


@gluon.constexpr_function
def copies(COLUMNS, WARPS):
    """Return the layout of a copy: 16 bytes a lane along the columns."""
    across = min(COLUMNS // 4, 32)
    return gl.BlockedLayout([1, 4], [32 // across, across], [WARPS, 1], [1, 0])


@gluon.jit
def load_stage(
    w_s, meta_s, x_s, w_p, meta_p, x_p, chunk, in_m, step, STEPS, K_CHUNKS,
    EVEN_K: gl.constexpr, HALVES: gl.constexpr,
):
    if step < STEPS:
        copy_to_shared(w_s, w_p + step * 256)
        copy_to_shared(meta_s, meta_p + step * (128 * HALVES))
        FEW: gl.constexpr = x_s.shape[0] == 16
        if not EVEN_K:
            inside = step * 8 + chunk < K_CHUNKS
            copy_to_shared(x_s, x_p + step * 32, mask=inside & in_m if FEW else inside)
        elif FEW:
            copy_to_shared(x_s, x_p + step * 32, mask=in_m)
        else:
            copy_to_shared(x_s, x_p + step * 32)
    async_copy.commit_group()


@gluon.jit
def multiply_stage(
    w_s, meta_s, x_s, acc,
    TYPE: gl.constexpr, TILES_M: gl.constexpr, WARPS_N: gl.constexpr, WARPS_M: gl.constexpr,
):
    FRAGMENTS: gl.constexpr = fragments(TILES_M, WARPS_N, WARPS_M)
    PLAIN: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [4, 3, 2, 1, 0])
    HALVES: gl.constexpr = bytewise(TYPE)
    w_f = reinterpret(w_s, gl.int32, [WARPS_N, 4, 2, 32, 4], PLAIN)
    meta_f = reinterpret(meta_s, gl.int32, [WARPS_N, HALVES, 1, 4, 32], PLAIN)
    for half in gl.static_range(2):
        if half < HALVES:
            meta = meta_f.slice(half, 1, dim=1).permute([1, 0, 2, 4, 3]).load(FRAGMENTS)  # word r: tile r of 16 rows
        x = x_s.slice(half * 16, 16, dim=1).load(rows_of_x(TILES_M, WARPS_N, WARPS_M))
        x = x.reshape([WARPS_M, TILES_M, 8, 4, 4]).permute([1, 0, 2, 4, 3]).reshape([TILES_M, 1, WARPS_M, 32, 4])
        x = gl.convert_layout(x, FRAGMENTS, assert_trivial=True)
        sums = ()
        for tile in gl.static_range(4):
            w = w_f.slice(tile, 1, dim=1).slice(half, 1, dim=2).permute([1, 0, 2, 3, 4]).load(FRAGMENTS)
            before = gl.full(acc[tile].shape, 0.0, gl.float32, FRAGMENTS) if TYPE == "e4m3" else acc[tile]
            s = gl.inline_asm_elementwise(mma_sp(TYPE, tile, half if HALVES == 1 else 0), operands(TYPE),
                                          [w, x, meta, before], dtype=acc[tile].dtype, is_pure=True, pack=4)
            sums += (acc[tile] + s if TYPE == "e4m3" else s,)
        acc = sums
    return acc


@autotune(CONFIGS, KEY, worth_trying)
@gluon.jit
def sparse_mma_kernel(
    # tensors; scale, fp32, bias and residual may be None; y is (splits, M, N) fp32 or int32 where SPLIT
    x_ptr, w_ptr, meta_ptr, scale_ptr, bias_ptr, residual_ptr, y_ptr,
    # sizes; rows and columns of the packed W; columns of two bytes
    M, N, K, N_PACKED, K_PACKED,
    # strides, that of x in chunks of 16 bytes
    stride_xm, stride_s, stride_rm, stride_rn, stride_ym,
    # scalars; M_CLASS is M rounded, for the choice of the config
    M_CLASS,
    # compile-time
    EVEN_K: gl.constexpr, TYPE: gl.constexpr, ACTIVATION: gl.constexpr, SPLIT: gl.constexpr,
    BLOCK_N: gl.constexpr, BLOCK_M: gl.constexpr, WARPS_N: gl.constexpr, WARPS_M: gl.constexpr, STAGES: gl.constexpr,
):
    WARPS: gl.constexpr = WARPS_N * WARPS_M
    TILES_M: gl.constexpr = BLOCK_M // (8 * WARPS_M)
    # eight blocks of M side by side share the blocks of W in L2
    blocks_n = N_PACKED // BLOCK_N
    blocks_m = gl.cdiv(M, BLOCK_M)
    group = gl.program_id(0) // (8 * blocks_n)
    height = gl.minimum(blocks_m - group * 8, 8)
    within = gl.program_id(0) - group * (8 * blocks_n)
    n0 = within // height * BLOCK_N
    m0 = (group * 8 + within % height) * BLOCK_M

    COPY_W: gl.constexpr = copies(256, WARPS)
    rows = n0 // 16 + gl.arange(0, BLOCK_N // 16, layout=gl.SliceLayout(1, COPY_W))
    words = gl.arange(0, 256, layout=gl.SliceLayout(0, COPY_W))
    w_p = w_ptr + rows.to(gl.int64)[:, None] * (K_PACKED * 4) + words[None, :]
    HALVES: gl.constexpr = bytewise(TYPE)
    COPY_META: gl.constexpr = copies(128 * HALVES, WARPS)
    rows = n0 // 64 + gl.arange(0, BLOCK_N // 64, layout=gl.SliceLayout(1, COPY_META))
    words = gl.arange(0, 128 * HALVES, layout=gl.SliceLayout(0, COPY_META))
    meta_p = meta_ptr + rows.to(gl.int64)[:, None] * (K_PACKED * 2 * HALVES) + words[None, :]
    COPY_X: gl.constexpr = copies(32, WARPS)
    # rows beyond M repeat the last one or, in small blocks, are left out; they are not stored
    all_rows = m0 + gl.arange(0, BLOCK_M, layout=gl.SliceLayout(1, COPY_X))
    rows = gl.minimum(all_rows, M - 1)
    words = gl.arange(0, 32, layout=gl.SliceLayout(0, COPY_X))
    x_p = x_ptr + rows.to(gl.int64)[:, None] * stride_xm * 4 + words[None, :]
    chunk = (words // 4)[None, :] + rows[:, None] * 0                         # of 16 bytes
    in_m = all_rows[:, None] + chunk * 0 < M

    PLAIN: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    SWIZZLED: gl.constexpr = gl.SwizzledSharedLayout(4, 1, 8, [1, 0])
    w_s = ()
    meta_s = ()
    x_s = ()
    for _ in gl.static_range(STAGES):  # one allocation each: the compiler sees that they do not overlap
        w_s += (gl.allocate_shared_memory(gl.int32, [BLOCK_N // 16, 256], PLAIN),)
        meta_s += (gl.allocate_shared_memory(gl.int32, [BLOCK_N // 64, 128 * HALVES], PLAIN),)
        x_s += (gl.allocate_shared_memory(gl.int32, [BLOCK_M, 32], SWIZZLED),)
    acc = ()
    SUM: gl.constexpr = gl.int32 if TYPE == "s8" else gl.float32
    for _ in gl.static_range(4):
        acc += (gl.full([TILES_M, WARPS_N, WARPS_M, 32, 4], 0, SUM, fragments(TILES_M, WARPS_N, WARPS_M)),)

    STEPS = K_PACKED // 64
    K_CHUNKS = K // 8
    if SPLIT:
        first = STEPS * gl.program_id(1) // gl.num_programs(1)
        STEPS = STEPS * (gl.program_id(1) + 1) // gl.num_programs(1) - first
        K_CHUNKS -= first * 8
        w_p += first * 256
        meta_p += first * (128 * HALVES)
        x_p += first * 32
    for s in gl.static_range(STAGES - 1):
        load_stage(w_s[s], meta_s[s], x_s[s], w_p, meta_p, x_p, chunk, in_m, s, STEPS, K_CHUNKS, EVEN_K, HALVES)
    for round_ in range(0, STEPS // STAGES):
        for s in gl.static_range(STAGES):
            async_copy.wait_group(STAGES - 2)
            barrier()
            load_stage(w_s[(s + STAGES - 1) % STAGES], meta_s[(s + STAGES - 1) % STAGES],
                       x_s[(s + STAGES - 1) % STAGES], w_p, meta_p, x_p, chunk, in_m,
                       round_ * STAGES + s + STAGES - 1, STEPS, K_CHUNKS, EVEN_K, HALVES)
            acc = multiply_stage(w_s[s], meta_s[s], x_s[s], acc, TYPE, TILES_M, WARPS_N, WARPS_M)
    for s in gl.static_range(STAGES - 1):
        if s < STEPS % STAGES:
            async_copy.wait_group(0)
            barrier()
            acc = multiply_stage(w_s[s], meta_s[s], x_s[s], acc, TYPE, TILES_M, WARPS_N, WARPS_M)
    async_copy.wait_group(0)
    barrier()

    tiles = ()
    for tile in gl.static_range(4):  # one after the other: all at once would spill
        # (tile_m, warp_n, warp_m, g t, half j) -> (warp_m tile_m t j, warp_n half g)
        y = acc[tile].reshape([TILES_M, WARPS_N, WARPS_M, 8, 4, 2, 2]).permute([2, 0, 4, 6, 1, 5, 3])
        y = y.reshape([BLOCK_M, 16 * WARPS_N])
        rows = m0 + gl.arange(0, BLOCK_M, layout=gl.SliceLayout(1, y.type.layout))
        cols = gl.arange(0, 16 * WARPS_N, layout=gl.SliceLayout(0, y.type.layout))
        cols = n0 + cols // 16 * 64 + tile * 16 + cols % 16
        if not SPLIT:
            y = y.to(gl.float32)
            if scale_ptr is not None:
                y *= gl.load(scale_ptr + cols * stride_s, mask=cols < N, other=0.0)[None, :]
            y = finish(y, bias_ptr, residual_ptr, rows, cols, M, N, stride_rm, stride_rn, ACTIVATION)
        tiles += (y.to(y_ptr.dtype.element_ty),)
    y = gl.join(gl.join(tiles[0], tiles[1]), gl.join(tiles[2], tiles[3]))     # (m, warp_n 16, tile % 2, tile // 2)
    y = y.reshape([BLOCK_M, WARPS_N, 16, 2, 2]).permute([0, 1, 4, 3, 2]).reshape([BLOCK_M, BLOCK_N])
    STORE: gl.constexpr = gl.BlockedLayout([1, 8], [256 // BLOCK_N, BLOCK_N // 8], [WARPS, 1], [1, 0])
    y = gl.convert_layout(y, STORE)
    rows = m0 + gl.arange(0, BLOCK_M, layout=gl.SliceLayout(1, STORE))
    cols = n0 + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, STORE))
    if SPLIT:
        y_ptr += gl.program_id(1).to(gl.int64) * M * stride_ym
    y_p = y_ptr + rows.to(gl.int64)[:, None] * stride_ym + cols[None, :]
    gl.store(y_p, y, mask=(rows < M)[:, None] & (cols < N)[None, :])
