"""y = activation(scale * (x @ W.T) + bias + residual), W 2:4, on wgmma.sp (sm_90).

Three roles in a persistent block: one warp copies with TMA, two groups of four warps multiply, 64 rows of W each.

    producer    TMA: x (BLOCK_M, 64), and W (128, 32 kept) when it comes through shared memory -> full[s]
    consumers   wait full[s]; fence, 2 x wgmma.sp (k = 32 each), commit, wait; arrive empty[s]

W_SHARED: W is (N, K / 2) row-major and read by TMA; else it is stored as the fragments of mma.py, which go straight to
registers. Metadata: one word per thread and 64 columns, as in mma.py, loaded one step ahead.

Of int8 (summed in int32) and fp8 e4m3, two columns count as one, as in mma.py; x and W are described as int16.
Each of the two products has a word of metadata of its own. The fp8 products of a step are summed by themselves and then
added in fp32: tensor cores keep fewer bits while they add up.

Gluon tells nobody where a buffer is, so the assembly adds the offset that Triton's allocator gives it (``offset``).
"""

from dataclasses import replace

import triton

from smart_kernels.kernels.common.gluon import fence_async_shared, finish, gl, gluon, mbarrier, tma, tma_load, tma_store
from smart_kernels.kernels.common.tuning import autotune

from .mma import bytewise

X_DESCRIPTOR, W_DESCRIPTOR = "0x40000040", "0x80000020"  # high words: K-major, 128- and 64-byte swizzle, 8 rows apart


def boxed(name):
    """Make a heuristic that gives the descriptor boxes of BLOCK_M rows.

    A pre_hook could do so, but Triton stores no choice among configs that have one.
    """
    return lambda args: replace(args[name], block_shape=[args["BLOCK_M"], 64])


def config(block_m, stages):
    return triton.Config({"BLOCK_M": block_m, "STAGES": stages}, num_warps=4)


CONFIGS = [config(16, 8), config(32, 8), config(64, 6), config(128, 6), config(256, 4)]
KEY = ["M_CLASS", "N", "K", "W_SHARED", "TYPE", "ACTIVATION"]


def worth_trying(configs, args, **kwargs):
    """Keep blocks no taller than M whose sums have room.

    Beside 128 sums in a thread an erf or the second sums of fp8 would spill, and an fp32 result of 8 bits finds no
    room.
    """
    few = kwargs["ACTIVATION"] == "gelu" or kwargs["TYPE"] in ("s8", "e4m3")
    return [c for c in configs if c.kwargs["BLOCK_M"] <= args["M_CLASS"] and (few_sums(c) or not few)]


def few_sums(config):
    """Return whether each thread has at most 64 sums."""
    return config.kwargs["BLOCK_M"] <= 128


@gluon.constexpr_function
def offset(buffer, BLOCK_M, STAGES, W_SHARED, Y):
    """Return the bytes before a buffer: the allocator places them by falling size, equals in the order of the
    program."""
    sizes = {"x": STAGES * BLOCK_M * 128, "y": 2 * BLOCK_M * 8 * Y.primitive_bitwidth}
    sizes |= {"w": STAGES * 128 * 64} if W_SHARED else {}
    order = sorted(sizes, key=lambda name: -sizes[name])
    return sum(sizes[name] for name in order[:order.index(buffer)])


@gluon.constexpr_function
def wgmma_sp(COLUMNS, TYPE, X_OFFSET, W_OFFSET, W_SHARED):
    """Write the instructions of one step, two products.

    Operands: sums, sums before, metadata, the byte of x's stage, the byte of W's stage or 8 words of W, the metadata of
    the second product; each as often as sums.
    """
    count = COLUMNS // 2
    wide = TYPE in ("s8", "e4m3")
    shape = f"m64n{COLUMNS}k{64 if wide else 32}.{'s32' if TYPE == 's8' else 'f32'}.{TYPE}.{TYPE}"
    signs = {"s8": "", "e4m3": ", 1, 1"}.get(TYPE, ", 1, 1, 0, 0" if W_SHARED else ", 1, 1, 0")
    sums = "{" + ",".join(f"${i}" for i in range(count)) + "}"
    x = f"${3 * count}"
    w = 4 * count
    lines = ["{", ".reg .b32 xs, ws;", ".reg .b64 xd, wd;", "mov.b32 xs, global_smem;"]
    if W_SHARED:
        lines += [f"add.s32 ws, xs, ${w};", f"add.s32 ws, ws, {W_OFFSET};", "shr.u32 ws, ws, 4;"]
    lines += [f"add.s32 xs, xs, {x};", f"add.s32 xs, xs, {X_OFFSET};", "shr.u32 xs, xs, 4;"]
    lines += ["wgmma.fence.sync.aligned;"]
    for k in range(2):
        lines += [f"mov.b64 xd, {{xs, {X_DESCRIPTOR}}};"]
        if W_SHARED:
            lines += [f"mov.b64 wd, {{ws, {W_DESCRIPTOR}}};"]
        weight = "wd" if W_SHARED else "{" + ",".join(f"${w + 4 * k + i}" for i in range(4)) + "}"
        meta, selector = (f"${(2 + 3 * k) * count}", 0) if wide else (f"${2 * count}", k)
        onto = int(TYPE != "e4m3" or k > 0)  # the sums before
        lines += [
            f"wgmma.mma_async.sp.sync.aligned.{shape} {sums}, {weight}, xd, {meta}, {selector}, {onto}{signs};"
        ]
        if k == 0:  # 64 bytes of x, 32 of W further, in units of 16
            lines += ["add.s32 xs, xs, 4;"] + (["add.s32 ws, ws, 2;"] if W_SHARED else [])
    return " ".join([*lines, "wgmma.commit_group.sync.aligned;", "wgmma.wait_group.sync.aligned 0;", "}"])


@gluon.constexpr_function
def operands(COLUMNS, TYPE):
    """Return the constraints of its operands: sums go on in their registers, but those of fp8 are new ones."""
    count = COLUMNS // 2
    sums = {"s8": "=r", "e4m3": "=&f"}.get(TYPE, "=f")
    before = [str(i) for i in range(count)]
    return ",".join([sums] * count + (["f"] * count if TYPE == "e4m3" else before) + ["r"] * (4 * count))


@gluon.jit
def tile_at(number, tiles_n, tiles_m):
    # eight tiles of M side by side share the tiles of W in L2
    group = number // (8 * tiles_n)
    height = gl.minimum(tiles_m - group * 8, 8)
    within = number - group * (8 * tiles_n)
    return within // height, group * 8 + within % height


@gluon.jit
def next_stage(s, phase, STAGES: gl.constexpr):
    s += 1
    if s == STAGES:
        s = 0
        phase ^= 1
    return s, phase


@gluon.jit
def produce(
    x_desc, w_desc, x_s, w_s, full, empty, tiles_n, tiles_m, steps,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr, W_SHARED: gl.constexpr,
):
    BYTES: gl.constexpr = BLOCK_M * 128 + (128 * 64 if W_SHARED else 0)
    s = 0
    phase = 1
    for number in range(gl.program_id(0), tiles_n * tiles_m, gl.num_programs(0)):
        tile_n, tile_m = tile_at(number, tiles_n, tiles_m)
        for step in range(0, steps):
            mbarrier.wait(empty.index(s), phase)
            mbarrier.expect(full.index(s), BYTES)
            tma_load(x_desc, [tile_m * BLOCK_M, step * 64], full.index(s), x_s.index(s))
            if W_SHARED:
                tma_load(w_desc, [tile_n * 128, step * 32], full.index(s), w_s.index(s))
            s, phase = next_stage(s, phase, STAGES)


@gluon.jit
def consume(
    w_ptr, meta_ptr, scale_ptr, bias_ptr, residual_ptr, y_desc, y_s, full, empty,
    M, N, tiles_n, tiles_m, steps, stride_s, stride_rm, stride_rn,
    GROUP: gl.constexpr, TYPE: gl.constexpr, ACTIVATION: gl.constexpr,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr, W_SHARED: gl.constexpr,
):
    SUMS: gl.constexpr = gl.BlockedLayout([1, BLOCK_M // 16, 8], [32, 1, 1], [4, 1, 1], [2, 1, 0])
    WORD: gl.constexpr = gl.BlockedLayout([1, 1, 1], [32, 1, 1], [4, 1, 1], [2, 1, 0])
    WORDS: gl.constexpr = gl.BlockedLayout([1, 1, 8], [32, 1, 1], [4, 1, 1], [2, 1, 0])
    X_OFFSET: gl.constexpr = offset("x", BLOCK_M, STAGES, W_SHARED, y_desc.dtype)
    W_OFFSET: gl.constexpr = offset("w", BLOCK_M, STAGES, W_SHARED, y_desc.dtype) + GROUP * 4096 if W_SHARED else 0
    ASM: gl.constexpr = wgmma_sp(BLOCK_M, TYPE, X_OFFSET, W_OFFSET, W_SHARED)
    SUM: gl.constexpr = gl.int32 if TYPE == "s8" else gl.float32
    HALVES: gl.constexpr = bytewise(TYPE)
    thread = gl.arange(0, 128, layout=gl.SliceLayout(1, gl.SliceLayout(2, WORD)))[:, None][:, :, None]
    lane = gl.arange(0, 128, layout=gl.SliceLayout(1, gl.SliceLayout(2, WORDS)))[:, None][:, :, None]
    word = gl.arange(0, 8, layout=gl.SliceLayout(0, gl.SliceLayout(1, WORDS)))[None, :][:, None, :]
    s = 0
    phase = 0
    for number in range(gl.program_id(0), tiles_n * tiles_m, gl.num_programs(0)):
        tile_n, tile_m = tile_at(number, tiles_n, tiles_m)
        acc = gl.full([128, BLOCK_M // 16, 8], 0, SUM, SUMS)
        meta_p = meta_ptr + ((tile_n * 2 + GROUP).to(gl.int64) * steps) * (128 * HALVES) + thread
        meta = gl.load(meta_p)
        second = gl.load(meta_p + 128) if HALVES == 2 else meta
        if not W_SHARED:
            rows = (tile_n * 8 + GROUP * 4 + lane // 32).to(gl.int64) * (steps * 256)
            w_p = w_ptr + rows + (lane % 32) * 4 + (word // 4) * 128 + word % 4
            w = gl.load(w_p)
        for step in range(0, steps):
            ahead = gl.minimum(step + 1, steps - 1)
            next_meta = gl.load(meta_p + ahead * (128 * HALVES))
            next_second = gl.load(meta_p + ahead * 256 + 128) if HALVES == 2 else next_meta
            if not W_SHARED:
                next_w = gl.load(w_p + ahead * 256)
            mbarrier.wait(full.index(s), phase)
            if W_SHARED:  # noqa: SIM108 (the two have no common type)
                third = s * (128 * 64)
            else:
                third = gl.convert_layout(w, SUMS, assert_trivial=True)
            sums = gl.inline_asm_elementwise(
                ASM, operands(BLOCK_M, TYPE),
                [acc, gl.convert_layout(meta, SUMS, assert_trivial=True), s * (BLOCK_M * 128), third,
                 gl.convert_layout(second, SUMS, assert_trivial=True)],
                dtype=acc.dtype, is_pure=False, pack=BLOCK_M // 2)
            mbarrier.arrive(empty.index(s), count=1)
            acc = acc + sums if TYPE == "e4m3" else sums
            meta = next_meta
            second = next_second
            if not W_SHARED:
                w = next_w
            s, phase = next_stage(s, phase, STAGES)

        # (warp g t, n16, n8 half j) -> (n16 n8 t j, warp half g)
        y = acc.reshape([4, 8, 4, BLOCK_M // 16, 2, 2, 2]).permute([3, 4, 2, 6, 0, 5, 1]).reshape([BLOCK_M, 64])
        m0 = tile_m * BLOCK_M
        n0 = tile_n * 128 + GROUP * 64
        HALF: gl.constexpr = BLOCK_M // 2
        halves = y.reshape([2, HALF, 64]).permute([1, 2, 0]).split()
        tma.store_wait(0)  # the store of the tile before has left the buffer
        for half in gl.static_range(2):  # one after the other: all at once would spill
            y = halves[half].to(gl.float32)
            rows = m0 + half * HALF + gl.arange(0, HALF, layout=gl.SliceLayout(1, y.type.layout))
            cols = n0 + gl.arange(0, 64, layout=gl.SliceLayout(0, y.type.layout))
            if scale_ptr is not None:
                y *= gl.load(scale_ptr + cols * stride_s, mask=cols < N, other=0.0)[None, :]
            y = finish(y, bias_ptr, residual_ptr, rows, cols, M, N, stride_rm, stride_rn, ACTIVATION)
            y_s.index(GROUP).slice(half * HALF, HALF).store(y.to(y_desc.dtype))
        fence_async_shared()
        tma_store(y_desc, [m0, n0], y_s.index(GROUP))
    tma.store_wait(0)


@autotune(CONFIGS, KEY, worth_trying)
@triton.heuristics({name: boxed(name) for name in ("x_desc", "y_desc")})
@gluon.jit
def sparse_wgmma_kernel(
    # tensors; w_desc serves W_SHARED, w_ptr the other form; scale, fp32, bias and residual may be None
    w_desc, w_ptr, meta_ptr, scale_ptr, bias_ptr, residual_ptr,
    # sizes; rows and columns of the packed W; columns of two bytes
    M, N, K, N_PACKED, K_PACKED,
    # strides
    stride_s, stride_rm, stride_rn,
    # scalars; M_CLASS is M rounded, for the choice of the config
    M_CLASS,
    # tensors, by name
    x_desc, y_desc,
    # compile-time
    TYPE: gl.constexpr, ACTIVATION: gl.constexpr, W_SHARED: gl.constexpr,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr,
):
    x_s = gl.allocate_shared_memory(x_desc.dtype, [STAGES, BLOCK_M, 64], x_desc.layout)
    y_s = gl.allocate_shared_memory(y_desc.dtype, [2, BLOCK_M, 64], y_desc.layout)
    if W_SHARED:  # noqa: SIM108
        w_s = gl.allocate_shared_memory(w_desc.dtype, [STAGES, 128, 32], w_desc.layout)
    else:
        w_s = x_s  # not used
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=2)
    fence_async_shared()
    tiles_n = N_PACKED // 128
    tiles_m = gl.cdiv(M, BLOCK_M)
    steps = K_PACKED // 64
    gl.warp_specialize([
        (consume, (w_ptr, meta_ptr, scale_ptr, bias_ptr, residual_ptr, y_desc, y_s, full, empty,
                   M, N, tiles_n, tiles_m, steps, stride_s, stride_rm, stride_rn,
                   0, TYPE, ACTIVATION, BLOCK_M, STAGES, W_SHARED)),
        (consume, (w_ptr, meta_ptr, scale_ptr, bias_ptr, residual_ptr, y_desc, y_s, full, empty,
                   M, N, tiles_n, tiles_m, steps, stride_s, stride_rm, stride_rn,
                   1, TYPE, ACTIVATION, BLOCK_M, STAGES, W_SHARED)),
        (produce, (x_desc, w_desc, x_s, w_s, full, empty, tiles_n, tiles_m, steps, BLOCK_M, STAGES, W_SHARED)),
    ], [4, 1], [240, 24])
