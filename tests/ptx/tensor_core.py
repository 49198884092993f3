"""mma.sp, wgmma.sp and wgmma. With .sp, A is stored 2:4: of every four elements along k two are kept, and 2 bits say
where each was.

lane 4g + t                  word r of A (m16)             word r of B               sums
                             row g + 8 (r & 1)             column g                  row g + 8 (r >> 1)
                             kept columns 4-byte word      k: 4-byte word            column 2t + (r & 1)
                             t + 4 (r >> 1)                t + 4 r

Metadata of 16 x 32 (16-bit elements): lanes 4g + 2 selector + j, j = 0, 1. The low half is row g, the high half row
g + 8; nibble c is group 4j + c of four columns: the first kept index in its low two bits, the second above.

Metadata of 16 x 64 (8-bit elements): all lanes, selector 0. Lane 4g + j is row g + 8 (j & 1); nibble c is group
8 (j >> 1) + c.
"""

import re

import numpy as np
import torch

from .arithmetic import bf16_to_f32
from .copies import commit, submit, swizzled, wait
from .warp import LANES, Fault, instruction

G, T = LANES >> 2, LANES & 3
ROW_BYTES = {1: 128, 2: 64, 3: 32}  # layout field of a matrix descriptor


FP8 = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn).float().numpy()  # by its bits


def values(words: np.ndarray, type: str) -> np.ndarray:
    """(..., w) 32-bit words -> (..., 2w) fp32, or (..., 4w) of 8 bits."""
    if type in ("s8", "e4m3"):
        octets = np.ascontiguousarray(words).view(np.uint8)
        return FP8[octets] if type == "e4m3" else octets.view(np.int8).astype(np.float32)
    halves = np.ascontiguousarray(words).view(np.uint16)
    return bf16_to_f32(halves) if type == "bf16" else halves.view(np.float16).astype(np.float32)


def expand(kept: np.ndarray, metadata: np.ndarray, selector: int, ordered: bool) -> np.ndarray:
    """(16, 16) kept values and a word per lane -> the dense (16, 32)."""
    words = metadata.reshape(8, 4)[:, 2 * selector : 2 * selector + 2]  # g, j
    halves = np.stack([words & 0xFFFF, words >> 16])  # half, g, j
    nibbles = (halves[..., None] >> (4 * np.arange(4, dtype=np.uint32))) & 15  # half, g, j, c
    return spread(kept, nibbles.reshape(16, 8), ordered)


def expand_wide(kept: np.ndarray, metadata: np.ndarray, ordered: bool) -> np.ndarray:
    """(16, 32) kept values of 8 bits and a word per lane -> the dense (16, 64)."""
    words = metadata.reshape(8, 2, 2).transpose(2, 0, 1)  # g, column half, row half -> row half, g, column half
    nibbles = (words[..., None] >> (4 * np.arange(8, dtype=np.uint32))) & 15
    return spread(kept, nibbles.reshape(16, 16), ordered)


def spread(kept: np.ndarray, nibbles: np.ndarray, ordered: bool) -> np.ndarray:
    """(rows, 2 G) kept values and the (rows, G) places of each two -> the dense (rows, 4 G)."""
    (rows, groups), first, second = nibbles.shape, nibbles & 3, nibbles >> 2
    if (first == second).any() or (ordered and (first > second).any()):
        raise Fault("metadata must name two places, with ordered_metadata in ascending order")
    dense, pairs = np.zeros((rows, groups, 4), np.float32), kept.reshape(rows, groups, 2)
    for place, index in enumerate((first, second)):
        np.put_along_axis(dense, index[..., None].astype(np.int64), pairs[..., place, None], axis=2)
    return dense.reshape(rows, 4 * groups)


def fragment_a(words: list[np.ndarray], type: str) -> np.ndarray:
    """Four words per lane -> (16, 16) kept values, (16, 32) of 8 bits."""
    matrix = np.zeros((16, 8), np.uint32)
    for r, word in enumerate(words):
        matrix[G + 8 * (r & 1), T + 4 * (r >> 1)] = word
    return values(matrix, type)


def fragment_b(words: list[np.ndarray], type: str) -> np.ndarray:
    """Four words per lane -> (8, 32), (8, 64) of 8 bits; rows are columns of B."""
    matrix = np.zeros((8, 16), np.uint32)
    for r, word in enumerate(words):
        matrix[G, T + 4 * r] = word
    return values(matrix, type)


def dtype(parts: tuple[str, ...]) -> str:
    return next(type for type in ("bf16", "f16", "s8", "e4m3") if type in parts)


@instruction("mma")
def mma_sp(warp, i):
    """``mma.sp.m16n8k32 d, a, b, c, metadata, selector``; m16n8k64 for 8 bits. Integer sums wrap around."""
    ordered, type, selector = "ordered_metadata" in i.text, dtype(i.parts), int(i.operands[5], 0)
    wide = type in ("s8", "e4m3")
    if not i.parts[1].startswith("sp") or f"m16n8k{64 if wide else 32}" not in i.parts or (wide and selector):
        raise Fault("only mma.sp.m16n8k32, or m16n8k64 for 8 bits with selector 0")
    a = fragment_a([warp.get(name, "u32") for name in i.names(1)], type)
    b = fragment_b([warp.get(name, "u32") for name in i.names(2)], type)
    metadata, sums = warp.get(i.operands[4], "u32"), "s32" if type == "s8" else "f32"
    a = expand_wide(a, metadata, ordered) if wide else expand(a, metadata, selector, ordered)
    product = a.astype(np.float64) @ b.T
    for r, (d, c) in enumerate(zip(i.names(0), i.names(3), strict=True)):
        total = warp.get(c, sums) + product[G + 8 * (r >> 1), 2 * T + (r & 1)]
        warp.put(d, total.astype(np.int64).astype(np.int32) if type == "s8" else total.astype(np.float32))
    warp.block.count["mma.sp", selector] += 1


def rows_at(warp, descriptor: int, rows: int, width: int) -> np.ndarray:
    """The (rows, width bytes) that a K-major matrix descriptor points at, as the asynchronous proxy sees them."""
    start, stride = (descriptor & 0x3FFF) << 4, ((descriptor >> 32) & 0x3FFF) << 4
    row_bytes = ROW_BYTES[descriptor >> 62]
    row, offset = np.ogrid[:rows, :width]
    address = start + row // 8 * stride + row % 8 * row_bytes + offset
    return warp.block.seen_by_copies[swizzled(address, row_bytes)]


@instruction("wgmma")
def wgmma(warp, i):
    if i.parts[1] == "fence":
        warp.written.clear()
    elif i.parts[1] == "commit_group":
        commit(warp.products)
    elif i.parts[1] == "wait_group":
        wait(warp.products, int(i.operands[0], 0))
    elif i.parts[1:3] == ("mma_async", "sp"):
        wgmma_sp(warp, i)
    else:
        wgmma_dense(warp, i)


def columns_at(warp, descriptor: int, rows: int) -> np.ndarray:
    """The (rows, 32 bytes) of 16 elements each that a descriptor points at whose rows lie next to each other.

    64 rows of one column are 128 bytes, 8 columns an atom: the next 8 are a stride further, the next 64 rows a leading
    offset.
    """
    start, leading, stride = (((descriptor >> shift) & 0x3FFF) << 4 for shift in (0, 16, 32))
    if descriptor >> 62 != 1:
        raise Fault("only a swizzle of 128 bytes where rows lie next to each other")
    row, column = np.ogrid[:rows, :16]
    address = start + row // 64 * leading + column // 8 * stride + column % 8 * 128 + row % 64 * 2
    address = swizzled(address, 128)[..., None] + np.arange(2)
    return warp.block.seen_by_copies[address].reshape(rows, 32)


def wgmma_dense(warp, i):
    """``wgmma.mma_async.m64nNk16 d, a-desc, b-desc, scale-d, scale-a, scale-b, transpose-a, transpose-b`` of 16 bits.

    As ``wgmma_sp`` otherwise.
    """
    sums, type = i.names(0), dtype(i.parts)
    columns = int(next(m[1] for part in i.parts if (m := re.fullmatch(r"m64n(\d+)k16", part))))
    if set(sums) & warp.written:
        raise Fault("registers of wgmma were written after the last wgmma.fence")
    if "f32" not in i.parts or i.operands[4:6] != ["1", "1"] or not set(i.operands[6:]) <= {"0", "1"}:
        raise Fault("only fp32 sums, no signs")
    a, b = warp.one(i.operands[1], "u64"), warp.one(i.operands[2], "u64")
    goes_on = bool(warp.one(i.operands[3], "pred"))
    transposes = [operand == "1" for operand in i.operands[6:]]

    def matrix(descriptor, rows, transposed):
        raw = columns_at(warp, descriptor, rows) if transposed else rows_at(warp, descriptor, rows, 32)
        return values(np.ascontiguousarray(raw), type).astype(np.float64)

    def work():
        left = matrix(a, 64, transposes[0])[16 * (warp.index % 4) :][:16]
        product = left @ matrix(b, columns, transposes[1]).T
        for r, name in enumerate(sums):
            before = warp.get(name, "f32") if goes_on else 0
            total = before + product[G + 8 * (r >> 1 & 1), 8 * (r >> 2) + 2 * T + (r & 1)]
            warp.registers[name] = total.astype(np.float32).view(np.uint32)

    submit(warp, warp.products, work)
    warp.block.count["wgmma", columns] += 1


def wgmma_sp(warp, i):
    """``wgmma.mma_async.sp.m64nNk32 d, a, b-desc, metadata, selector, scale-d, scale-a, scale-b, transposes``; m64nNk64
    for 8 bits, which knows no transposes, and of s8 no signs. ``scale-d`` 0: new sums. A row is as many bytes in both.

    A warp does 16 of the 64 rows. Its own registers must not be touched between wgmma.fence and the wait; operands in
    registers and in shared memory are read when the product is done.
    """
    sums, type, selector = i.names(0), dtype(i.parts), int(i.operands[4])
    wide, kind = type in ("s8", "e4m3"), "s32" if type == "s8" else "f32"
    columns = int(next(m[1] for part in i.parts if (m := re.fullmatch(rf"m64n(\d+)k{64 if wide else 32}", part))))
    in_registers = i.operands[1].startswith("{")
    used = {*sums, i.operands[3], *(i.names(1) if in_registers else ())}
    if used & warp.written:
        raise Fault("registers of wgmma were written after the last wgmma.fence")
    signs, transposes = ([], 0) if type == "s8" else (["1", "1"], 0 if wide else 1 if in_registers else 2)
    if i.operands[5] not in ("0", "1") or i.operands[6:] != signs + ["0"] * transposes or kind not in i.parts:
        raise Fault("only sums that begin or go on, no signs, no transposes")
    if wide and selector:
        raise Fault("only selector 0 for 8 bits")
    b = warp.one(i.operands[2], "u64")
    a = None if in_registers else warp.one(i.operands[1], "u64")

    def work():
        if in_registers:
            kept = fragment_a([warp.get(name, "u32") for name in i.names(1)], type)
        else:
            kept = values(rows_at(warp, a, 64, 32), type)[16 * (warp.index % 4) :][:16]
        metadata = warp.get(i.operands[3], "u32")
        dense = expand_wide(kept, metadata, ordered=True) if wide else expand(kept, metadata, selector, ordered=True)
        product = dense.astype(np.float64) @ values(rows_at(warp, b, columns, 64), type).T
        for r, name in enumerate(sums):
            before = warp.get(name, kind) if i.operands[5] == "1" else 0
            total = before + product[G + 8 * (r >> 1 & 1), 8 * (r >> 2) + 2 * T + (r & 1)]
            total = total.astype(np.int64).astype(np.int32) if type == "s8" else total.astype(np.float32)
            warp.registers[name] = total.view(np.uint32)

    submit(warp, warp.products, work)
    warp.block.count["wgmma.sp", columns, selector] += 1
