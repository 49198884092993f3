"""y = activation(scale * (x @ W.T) + bias + residual), W 2:4, on wgmma.sp (sm_90).

Three roles in a persistent block: one warp copies with TMA, two groups of four warps multiply, 64 rows of W each.

    producer    TMA: x (BLOCK_M, 64), and W (128, 32 kept) when it comes through shared memory -> full[s]
    consumers   ROUND times: wait full[s]; first group of products; the step before is done, arrive at its empty;
                second group. Then wait for all.

A group is issued and the one before it waited for, so that tensor cores do not wait for instructions: the two groups of
a step are its two products (k = 32 each). Around the loop nothing stays in flight: ptxas would serialise every wgmma.sp
because its metadata changes, as it does not with dense ones. The metadata of a round is loaded during the round before.

W_SHARED: W is (N, K / 2) row-major and read by TMA; else it is stored as the fragments of mma.py, which go straight to
registers. Metadata: one word per thread and 64 columns, as in mma.py.

Of int8 (summed in int32) and fp8 e4m3, two columns count as one, as in mma.py; x and W are described as int16.
Each of the two products has a word of metadata of its own. The fp8 products of a step are summed by themselves and then
added in fp32: tensor cores keep fewer bits while they add up. There, the groups are the two halves of x's rows, both
products each, and one half is added while the other is multiplied.

Gluon tells nobody where a buffer is, so the assembly adds the offset that Triton's allocator gives it (``offset``).
"""

from dataclasses import replace

import triton

from smart_kernels.kernels.common.gluon import fence_async_shared, finish, gl, gluon, mbarrier, tma, tma_load, tma_store
from smart_kernels.kernels.common.producing import next_stage, tile_at
from smart_kernels.kernels.common.tuning import autotune

from .mma import TRIED, bytewise

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
    """Keep the tallest blocks, at most ``TRIED``, no taller than M and whose sums have room.

    The tallest was always the fastest on an H200. Beside 128 sums in a thread an erf or the second sums of fp8 would
    spill, and an fp32 result of 8 bits finds no room.
    """
    few = kwargs["ACTIVATION"] == "gelu" or kwargs["TYPE"] in ("s8", "e4m3")
    return [c for c in configs if c.kwargs["BLOCK_M"] <= args["M_CLASS"] and (few_sums(c) or not few)][-TRIED:]


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
def round_of(W_SHARED, TYPE):
    """Return how many steps keep products in flight: W in registers takes 16 of them for each, fp8 has two sums."""
    return 4 if W_SHARED and TYPE != "e4m3" else 2


@gluon.constexpr_function
def wgmma_sp(COLUMNS, TYPE, X_OFFSET, W_OFFSET, W_SHARED, group, pending, passes):
    """Write a group of products, and a wait until ``pending`` groups are not done.

    Of fp8 both products on half of the sums; where ``passes``, the other half goes through. Operands:

    sums | fp8, passes: the other half | sums before, or of the other half | metadata of the product (fp8: of both) |
    byte of x's stage | byte of W's stage, or 4 words of W for each product; each as often as sums.
    """
    fp8, wide = TYPE == "e4m3", TYPE in ("s8", "e4m3")
    columns = COLUMNS // 2 if fp8 else COLUMNS
    count = columns // 2
    shape = f"m64n{columns}k{64 if wide else 32}.{'s32' if TYPE == 's8' else 'f32'}.{TYPE}.{TYPE}"
    signs = {"s8": "", "e4m3": ", 1, 1"}.get(TYPE, ", 1, 1, 0, 0" if W_SHARED else ", 1, 1, 0")
    sums = "{" + ",".join(f"${i}" for i in range(count)) + "}"
    products = (0, 1) if fp8 else (group,)
    meta = (1 + 2 * passes if fp8 else 2) * count
    x = meta + len(products) * count
    w = x + count
    x_byte = X_OFFSET + (group * columns * 128 if fp8 else group * 64)  # rows of 128 bytes; 64 are 32 columns
    lines = ["{", ".reg .b32 xs, ws;", ".reg .b64 xd, wd;", "mov.b32 xs, global_smem;"]
    if W_SHARED:
        w_byte = W_OFFSET + (0 if fp8 else group * 32)
        lines += [f"add.s32 ws, xs, ${w};", f"add.s32 ws, ws, {w_byte};", "shr.u32 ws, ws, 4;"]
    lines += [f"add.s32 xs, xs, ${x};", f"add.s32 xs, xs, {x_byte};", "shr.u32 xs, xs, 4;"]
    lines += ["wgmma.fence.sync.aligned;"]
    for i, k in enumerate(products):
        if i > 0:  # 64 bytes of x, 32 of W further, in units of 16
            lines += ["add.s32 xs, xs, 4;"] + (["add.s32 ws, ws, 2;"] if W_SHARED else [])
        lines += [f"mov.b64 xd, {{xs, {X_DESCRIPTOR}}};"]
        if W_SHARED:
            lines += [f"mov.b64 wd, {{ws, {W_DESCRIPTOR}}};"]
        weight = "wd" if W_SHARED else "{" + ",".join(f"${w + i * count + word}" for word in range(4)) + "}"
        selector, onto = (0 if wide else k), int(not fp8 or k > 0)  # the sums before
        lines += [
            f"wgmma.mma_async.sp.sync.aligned.{shape} {sums}, {weight}, xd, ${meta + i * count}, {selector}, {onto}"
            f"{signs};"
        ]
    return " ".join([*lines, "wgmma.commit_group.sync.aligned;", f"wgmma.wait_group.sync.aligned {pending};", "}"])


@gluon.constexpr_function
def operands(COLUMNS, TYPE, W_SHARED, passes):
    """Return the constraints of its operands: sums go on in their registers.

    Those of a group of fp8 are new ones, and the other half's stay in theirs.
    """
    fp8 = TYPE == "e4m3"
    count = COLUMNS // (4 if fp8 else 2)
    kind = "=r" if TYPE == "s8" else "=f"
    inputs = (4 if W_SHARED else 5) if fp8 else 3
    new = ["=&f"] * count if fp8 else []
    kept = [kind] * count if passes or not fp8 else []
    return ",".join(new + kept + [str(len(new) + i) for i in range(len(kept))] + ["r"] * (inputs * count))


@gluon.jit
def multiply(
    sums, meta, x_byte, w,
    BLOCK_M: gl.constexpr, TYPE: gl.constexpr, W_SHARED: gl.constexpr, X_OFFSET: gl.constexpr, W_OFFSET: gl.constexpr,
    GROUP: gl.constexpr, LAST: gl.constexpr, PASSES: gl.constexpr,
):
    """Issue a group on ``sums``; meta and w are those of both products.

    Returns the sums; of fp8 new ones, and where PASSES ``sums``, the other half. What was issued must not be read
    before a wait.
    """
    ASM: gl.constexpr = wgmma_sp(BLOCK_M, TYPE, X_OFFSET, W_OFFSET, W_SHARED, GROUP, 0 if LAST else 1, PASSES)
    OPERANDS: gl.constexpr = operands(BLOCK_M, TYPE, W_SHARED, PASSES)
    LAYOUT: gl.constexpr = sums.type.layout
    PACK: gl.constexpr = sums.shape[1] * 4
    meta_0 = gl.convert_layout(meta[0], LAYOUT, assert_trivial=True)
    meta_1 = gl.convert_layout(meta[1], LAYOUT, assert_trivial=True)
    if W_SHARED:
        w_0 = w
        w_1 = w
    else:
        w_0 = gl.convert_layout(w[0], LAYOUT, assert_trivial=True)
        w_1 = gl.convert_layout(w[1], LAYOUT, assert_trivial=True)
    if TYPE != "e4m3":
        arguments = [sums, meta_0 if GROUP == 0 else meta_1, x_byte, w_0 if GROUP == 0 else w_1]
        return gl.inline_asm_elementwise(ASM, OPERANDS, arguments, dtype=sums.dtype, is_pure=False, pack=PACK)
    elif PASSES:
        arguments = [sums, meta_0, meta_1, x_byte, w_0] if W_SHARED else [sums, meta_0, meta_1, x_byte, w_0, w_1]
        return gl.inline_asm_elementwise(ASM, OPERANDS, arguments, dtype=(sums.dtype, sums.dtype), is_pure=False,
                                         pack=PACK)
    else:
        x_byte = gl.full(sums.shape, x_byte, gl.int32, LAYOUT)                # as many as the sums that come out
        arguments = [meta_0, meta_1, x_byte, w_0] if W_SHARED else [meta_0, meta_1, x_byte, w_0, w_1]
        return gl.inline_asm_elementwise(ASM, OPERANDS, arguments, dtype=sums.dtype, is_pure=False, pack=PACK)


@gluon.jit
def multiply_round(
    acc, metas, words, full, empty, s, phase,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr, TYPE: gl.constexpr, W_SHARED: gl.constexpr,
    X_OFFSET: gl.constexpr, W_OFFSET: gl.constexpr, COUNT: gl.constexpr,
):
    """Multiply COUNT steps whose metadata and words of W are here.

    Returns sums, of fp8 their halves, stage and phase.
    """
    HALVES: gl.constexpr = bytewise(TYPE)
    before = s
    for step in gl.static_range(COUNT):
        mbarrier.wait(full.index(s), phase)
        x_byte = s * (BLOCK_M * 128)
        meta = (metas[step * HALVES], metas[step * HALVES + HALVES - 1])
        w = s * (128 * 64) if W_SHARED else (words[2 * step], words[2 * step + 1])
        if TYPE == "e4m3":
            low_sum, high_sum = acc
            if step == 0:
                high = high_sum                                               # none of it is in flight
                low = multiply(low_sum, meta, x_byte, w,
                               BLOCK_M, TYPE, W_SHARED, X_OFFSET, W_OFFSET, 0, False, False)
            else:
                low, high = multiply(high, meta, x_byte, w,
                                     BLOCK_M, TYPE, W_SHARED, X_OFFSET, W_OFFSET, 0, False, True)
                high_sum += high
        else:
            acc = multiply(acc, meta, x_byte, w, BLOCK_M, TYPE, W_SHARED, X_OFFSET, W_OFFSET, 0, False, False)
        if step > 0:
            mbarrier.arrive(empty.index(before), count=1)
        if TYPE == "e4m3":
            high, low = multiply(low, meta, x_byte, w,
                                 BLOCK_M, TYPE, W_SHARED, X_OFFSET, W_OFFSET, 1, step == COUNT - 1, True)
            low_sum += low
            if step == COUNT - 1:
                high_sum += high
            acc = (low_sum, high_sum)
        else:
            acc = multiply(acc, meta, x_byte, w,
                           BLOCK_M, TYPE, W_SHARED, X_OFFSET, W_OFFSET, 1, step == COUNT - 1, False)
        before = s
        s, phase = next_stage(s, phase, STAGES)
    mbarrier.arrive(empty.index(before), count=1)
    return acc, s, phase


@gluon.jit
def load_round(meta_p, w_p, first, steps, HALVES: gl.constexpr, W_SHARED: gl.constexpr, COUNT: gl.constexpr):
    """Load the metadata of COUNT steps, and their words of W unless these come through shared memory.

    Where there are no more steps, the last one's again.
    """
    metas = ()
    words = ()
    for i in gl.static_range(COUNT):
        step = gl.minimum(first + i, steps - 1)
        meta = gl.load(meta_p + step * (128 * HALVES))
        metas += (meta,)
        if HALVES == 2:
            metas += (gl.load(meta_p + step * 256 + 128),)
        if not W_SHARED:
            words += (gl.load(w_p + step * 256), gl.load(w_p + step * 256 + 128))
    if W_SHARED:
        words = metas  # not used; a loop cannot carry an empty tuple
    return metas, words


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
    FP8: gl.constexpr = TYPE == "e4m3"
    EIGHTS: gl.constexpr = BLOCK_M // (16 if FP8 else 8)                      # rows of x, of one group of fp8
    SUMS: gl.constexpr = gl.BlockedLayout([1, EIGHTS, 4], [32, 1, 1], [4, 1, 1], [2, 1, 0])
    WORD: gl.constexpr = gl.BlockedLayout([1, 1, 1], [32, 1, 1], [4, 1, 1], [2, 1, 0])
    WORDS: gl.constexpr = gl.BlockedLayout([1, 1, 4], [32, 1, 1], [4, 1, 1], [2, 1, 0])
    X_OFFSET: gl.constexpr = offset("x", BLOCK_M, STAGES, W_SHARED, y_desc.dtype)
    W_OFFSET: gl.constexpr = offset("w", BLOCK_M, STAGES, W_SHARED, y_desc.dtype) + GROUP * 4096 if W_SHARED else 0
    SUM: gl.constexpr = gl.int32 if TYPE == "s8" else gl.float32
    HALVES: gl.constexpr = bytewise(TYPE)
    thread = gl.arange(0, 128, layout=gl.SliceLayout(1, gl.SliceLayout(2, WORD)))[:, None][:, :, None]
    lane = gl.arange(0, 128, layout=gl.SliceLayout(1, gl.SliceLayout(2, WORDS)))[:, None][:, :, None]
    word = gl.arange(0, 4, layout=gl.SliceLayout(0, gl.SliceLayout(1, WORDS)))[None, :][:, None, :]
    ROUND: gl.constexpr = round_of(W_SHARED, TYPE)
    whole = steps // ROUND * ROUND
    s = 0
    phase = 0
    for number in range(gl.program_id(0), tiles_n * tiles_m, gl.num_programs(0)):
        tile_n, tile_m = tile_at(number, tiles_n, tiles_m)
        acc = gl.full([128, EIGHTS, 4], 0, SUM, SUMS)
        if FP8:
            acc = (acc, acc)
        meta_p = meta_ptr + ((tile_n * 2 + GROUP).to(gl.int64) * steps) * (128 * HALVES) + thread
        if W_SHARED:
            w_p = meta_p  # not used
        else:
            rows = (tile_n * 8 + GROUP * 4 + lane // 32).to(gl.int64) * (steps * 256)
            w_p = w_ptr + rows + (lane % 32) * 4 + word
        metas, words = load_round(meta_p, w_p, 0, steps, HALVES, W_SHARED, ROUND)
        for first in range(0, whole, ROUND):
            next_metas, next_words = load_round(meta_p, w_p, first + ROUND, steps, HALVES, W_SHARED, ROUND)
            acc, s, phase = multiply_round(acc, metas, words, full, empty, s, phase,
                                           BLOCK_M, STAGES, TYPE, W_SHARED, X_OFFSET, W_OFFSET, ROUND)
            metas = next_metas
            words = next_words
        for step in range(whole, steps):
            last_metas, last_words = load_round(meta_p, w_p, step, steps, HALVES, W_SHARED, 1)
            acc, s, phase = multiply_round(acc, last_metas, last_words, full, empty, s, phase,
                                           BLOCK_M, STAGES, TYPE, W_SHARED, X_OFFSET, W_OFFSET, 1)
        if FP8:  # noqa: SIM108 (the two have no common type)
            halves = acc
        else:
            halves = acc.reshape([128, 2, EIGHTS // 2, 4]).permute([0, 2, 3, 1]).split()

        m0 = tile_m * BLOCK_M
        n0 = tile_n * 128 + GROUP * 64
        HALF: gl.constexpr = BLOCK_M // 2
        tma.store_wait(0)  # the store of the tile before has left the buffer
        for half in gl.static_range(2):  # one after the other: all at once would spill
            # (warp g t, n8, half j) -> (n8 t j, warp half g)
            y = halves[half].reshape([4, 8, 4, BLOCK_M // 16, 2, 2]).permute([3, 2, 5, 0, 4, 1]).reshape([HALF, 64])
            y = y.to(gl.float32)
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
