"""mma.sp and wgmma.sp against plain products."""

import numpy as np
import pytest
import torch

from .arithmetic import f32_to_bf16
from .snippet import run
from .tensor_core import G, T, expand
from .warp import Fault

MMA = (
    "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.{type}.{type}.f32 {{%d0,%d1,%d2,%d3}}, "
    "{{%a0,%a1,%a2,%a3}}, {{%b0,%b1,%b2,%b3}}, {{%c0,%c1,%c2,%c3}}, %e, {selector};"
)


def bits(values, type):
    return f32_to_bf16(values) if type == "bf16" else values.astype(np.float16).view(np.uint16)


def words(matrix, rows, words, type):
    """One 32-bit word of each lane: two neighbours of a row."""
    pairs = np.ascontiguousarray(bits(matrix.astype(np.float32), type)).view(np.uint32)
    return pairs[rows, words]


def sparse(rng, rows=16, columns=32):
    """A dense 2:4 matrix, what is kept of it, and the metadata halfword of each 16 columns, bit by bit."""
    dense, kept = np.zeros((rows, columns)), np.zeros((rows, columns // 2))
    halves = np.zeros((rows, columns // 16), np.uint32)
    for row in range(rows):
        for group in range(columns // 4):
            first, second = sorted(rng.choice(4, 2, replace=False))
            kept[row, 2 * group : 2 * group + 2] = rng.integers(-8, 9, 2)
            dense[row, 4 * group + first], dense[row, 4 * group + second] = kept[row, 2 * group : 2 * group + 2]
            halves[row, group // 4] |= (first | second << 2) << 4 * (group % 4)
    return dense, kept, halves


@pytest.mark.parametrize("type", ["bf16", "f16"])
@pytest.mark.parametrize("selector", [0, 1])
def test_mma_sp(type, selector):
    rng = np.random.default_rng(0)
    dense, kept, halves = sparse(rng)
    b, c = rng.integers(-8, 9, (32, 8)), rng.integers(-8, 9, (16, 8)).astype(np.float32)
    registers = {f"%a{r}": words(kept, G + 8 * (r & 1), T + 4 * (r >> 1), type) for r in range(4)}
    registers |= {f"%b{r}": words(b.T, G, T + 4 * r, type) for r in range(4)}
    registers |= {f"%c{r}": c[G + 8 * (r >> 1), 2 * T + (r & 1)] for r in range(4)}
    metadata = np.full(32, 0x44444444, np.uint32)  # what the other lanes hold must not matter
    for g in range(8):
        for j in range(2):
            metadata[4 * g + 2 * selector + j] = halves[g, j] | halves[g + 8, j] << 16
    warp = run(MMA.format(type=type, selector=selector), registers | {"%e": metadata}).warps[0]
    expected = dense @ b + c
    for r in range(4):
        assert (warp.get(f"%d{r}", "f32") == expected[G + 8 * (r >> 1), 2 * T + (r & 1)]).all()


def octets(matrix, rows, words, type):
    """One 32-bit word of each lane: four neighbours of a row, in 8 bits."""
    narrow = torch.from_numpy(matrix.astype(np.float32)).to(torch.int8 if type == "s8" else torch.float8_e4m3fn)
    return narrow.view(torch.int8).contiguous().numpy().view(np.uint32)[rows, words]


@pytest.mark.parametrize("type", ["s8", "e4m3"])
def test_mma_sp_of_eight_bits(type):
    rng, sums = np.random.default_rng(0), "s32" if type == "s8" else "f32"
    dense, kept, halves = sparse(rng, columns=64)
    b = rng.integers(-8, 9, (64, 8))
    c = rng.integers(-8, 9, (16, 8)).astype(np.int32 if type == "s8" else np.float32)
    if type == "s8":
        c[3, 4] = 2**31 - 1  # wraps around
    registers = {f"%a{r}": octets(kept, G + 8 * (r & 1), T + 4 * (r >> 1), type) for r in range(4)}
    registers |= {f"%b{r}": octets(b.T, G, T + 4 * r, type) for r in range(4)}
    registers |= {f"%c{r}": c[G + 8 * (r >> 1), 2 * T + (r & 1)] for r in range(4)}
    metadata = np.zeros(32, np.uint32)
    for g, j in np.ndindex(8, 4):
        row, first = g + 8 * (j % 2), 2 * (j // 2)
        metadata[4 * g + j] = halves[row, first] | halves[row, first + 1] << 16
    text = MMA.replace("m16n8k32", "m16n8k64").replace("f32.{type}.{type}.f32", f"{sums}.{type}.{type}.{sums}")
    warp = run(text.format(selector=0), registers | {"%e": metadata}).warps[0]
    expected = (dense @ b + c).astype(np.int64).astype(c.dtype)
    for r in range(4):
        assert (warp.get(f"%d{r}", sums) == expected[G + 8 * (r >> 1), 2 * T + (r & 1)]).all()
    with pytest.raises(Fault, match="selector 0"):
        run(text.format(selector=1), registers | {"%e": metadata})


def test_metadata_must_name_two_places_in_order():
    kept = np.ones((16, 16), np.float32)
    assert expand(kept, np.full(32, 0xEEEEEEEE, np.uint32), 0, True)[0].tolist() == [0, 0, 1, 1] * 8
    for nibble in ("4" * 7 + "5", "4" * 7 + "1"):  # 1 and 1; 1 and 0
        with pytest.raises(Fault, match="two places"):
            expand(kept, np.full(32, int(nibble, 16), np.uint32), 0, True)
    assert expand(kept, np.full(32, 0x11111111, np.uint32), 0, False)[0].tolist() == [1, 1, 0, 0] * 8


WGMMA = """
    bar.sync 0;
    {fence}
    wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.bf16.bf16 {{%d0,%d1,%d2,%d3}}, {a}, %bd, %e, 1, 1, 1, 1, 0{more};
    wgmma.commit_group.sync.aligned;
    {wait}
    mov.b32 %o0, %d0; mov.b32 %o1, %d1; mov.b32 %o2, %d2; mov.b32 %o3, %d3;
"""
FENCE, WAIT = "wgmma.fence.sync.aligned;", "wgmma.wait_group.sync.aligned 0;"


def descriptor(start, layout, row_bytes):
    return start >> 4 | (8 * row_bytes >> 4) << 32 | layout << 62


def place(shared, start, matrix, row_bytes, type="bf16"):
    """Rows at a 128- or 64-byte swizzle, written chunk by chunk."""
    if type == "bf16":
        rows = bits(matrix.astype(np.float32), "bf16")
    else:
        rows = octets(matrix, *np.ogrid[: len(matrix), : matrix.shape[1] // 4], type)
    rows = np.ascontiguousarray(rows).view(np.uint8).reshape(len(matrix), -1, 16)
    for row, chunks in enumerate(rows):
        for number, chunk in enumerate(chunks):
            exchanged = number ^ (row % 8 if row_bytes == 128 else row // 2 % 4)
            at = start + row * row_bytes + 16 * exchanged
            shared[at : at + 16] = chunk


def product(shared_a, fence=FENCE, wait=WAIT, timing="late"):
    """64 x 8 with k = 32, from four warps; and what it must be."""
    from .snippet import block

    rng = np.random.default_rng(1)
    dense, kept, halves = sparse(rng, rows=64)
    b, c = rng.integers(-8, 9, (8, 32)), rng.integers(-8, 9, (64, 8)).astype(np.float32)
    a = "%ad" if shared_a else "{%a0,%a1,%a2,%a3}"
    done = block(WGMMA.format(a=a, more=", 0" if shared_a else "", fence=fence, wait=wait), warps=4, timing=timing)
    place(done.seen_by_copies, 4096, b, 128)
    place(done.seen_by_copies, 8192, kept, 64)
    for warp in done.warps:
        rows = 16 * warp.index + G
        lane = dict(enumerate(4 * g + 2 + j for g in range(8) for j in range(2)))
        metadata = np.zeros(32, np.uint32)
        for (g, j), at in zip(np.ndindex(8, 2), lane.values(), strict=True):
            metadata[at] = halves[16 * warp.index + g, j] | halves[16 * warp.index + g + 8, j] << 16
        warp.registers |= {f"%a{r}": words(kept, rows + 8 * (r & 1), T + 4 * (r >> 1), "bf16") for r in range(4)}
        warp.registers |= {f"%d{r}": c[rows + 8 * (r >> 1), 2 * T + (r & 1)] for r in range(4)}
        warp.registers |= {"%e": metadata, "%bd": np.full(32, descriptor(4096, 1, 128), np.uint64)}
        warp.registers |= {"%ad": np.full(32, descriptor(8192, 2, 64), np.uint64)}
    if not fence:
        for warp in done.warps:
            warp.written |= {"%d0"}
    done.run()
    got = np.zeros((64, 8), np.float32)
    for warp in done.warps:
        for r in range(4):
            got[16 * warp.index + G + 8 * (r >> 1), 2 * T + (r & 1)] = warp.get(f"%o{r}", "f32")
    return got, dense @ b.T + c


@pytest.mark.parametrize("shared_a", [True, False], ids=["A shared", "A in registers"])
@pytest.mark.parametrize("timing", ["early", "late"])
def test_wgmma_sp(shared_a, timing):
    got, expected = product(shared_a, timing=timing)
    assert (got == expected).all()


@pytest.mark.parametrize("onto", [0, 1])
@pytest.mark.parametrize("type", ["s8", "e4m3"])
def test_wgmma_sp_of_eight_bits(type, onto):
    """All four lanes of a row give metadata; ``scale-d`` 0 begins new sums."""
    from .snippet import block

    rng, kind = np.random.default_rng(2), "s32" if type == "s8" else "f32"
    dense, kept, halves = sparse(rng, rows=64, columns=64)
    b, c = rng.integers(-8, 9, (8, 64)), rng.integers(-8, 9, (64, 8)).astype(np.int32 if type == "s8" else np.float32)
    text = WGMMA.replace("n8k32.f32.bf16.bf16", f"n8k64.{kind}.{type}.{type}")
    text = text.replace("%e, 1, 1, 1, 1, 0{more};", f"%e, 0, {onto}{', 1, 1' if type == 'e4m3' else ''};")
    done = block(text.format(a="{%a0,%a1,%a2,%a3}", fence=FENCE, wait=WAIT), warps=4)
    place(done.seen_by_copies, 4096, b, 128, type)
    for warp in done.warps:
        rows, metadata = 16 * warp.index + G, np.zeros(32, np.uint32)
        for g, j in np.ndindex(8, 4):
            row, first = 16 * warp.index + g + 8 * (j % 2), 2 * (j // 2)
            metadata[4 * g + j] = halves[row, first] | halves[row, first + 1] << 16
        warp.registers |= {f"%a{r}": octets(kept, rows + 8 * (r & 1), T + 4 * (r >> 1), type) for r in range(4)}
        warp.registers |= {f"%d{r}": c[rows + 8 * (r >> 1), 2 * T + (r & 1)] for r in range(4)}
        warp.registers |= {"%e": metadata, "%bd": np.full(32, descriptor(4096, 1, 128), np.uint64)}
    done.run()
    expected = dense @ b.T + onto * c
    for warp in done.warps:
        for r in range(4):
            rows = 16 * warp.index + G + 8 * (r >> 1)
            assert (warp.get(f"%o{r}", kind) == expected[rows, 2 * T + (r & 1)]).all()


def test_wgmma_needs_its_fence_and_its_wait():
    got, expected = product(True, wait="wgmma.wait_group.sync.aligned 1;")
    assert (got != expected).any()
    with pytest.raises(Fault, match="after the last wgmma"):
        product(True, fence="")
