"""Integer, floating-point, comparison and conversion instructions."""

import numpy as np

from .warp import TYPES, UNSIGNED, Fault, instruction

COMPARE = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater}
COMPARE |= {"ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
WIDE = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}


def bf16_to_f32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def f32_to_bf16(values: np.ndarray) -> np.ndarray:
    """Round to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)


def minimum(a, b):
    return np.fmin(a, b) if a.dtype.kind == "f" else np.minimum(a, b)


def maximum(a, b):
    return np.fmax(a, b) if a.dtype.kind == "f" else np.maximum(a, b)


UNARY = {"not": np.invert, "neg": np.negative, "abs": np.abs, "ex2": np.exp2, "sqrt": np.sqrt, "tanh": np.tanh}
UNARY |= {"rcp": np.reciprocal, "lg2": np.log2}
BINARY = {"add": np.add, "sub": np.subtract, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
BINARY |= {"min": minimum, "max": maximum, "copysign": lambda sign, value: np.copysign(value, sign)}


@instruction(*UNARY)
def unary(warp, i):
    with np.errstate(all="ignore"):
        warp.put(i.operands[0], UNARY[i.parts[0]](warp.get(i.operands[1], i.type)))


@instruction(*BINARY)
def binary(warp, i):
    if i.type == "f32x2":
        return packed(warp, i, BINARY[i.parts[0]])
    if i.parts[-2:] == ("f32", i.type):  # the first operand is narrower
        a, b = widened(warp.get(i.operands[1], i.type), i.type), warp.get(i.operands[2], "f32")
    elif i.type == "bf16":
        raise Fault("arithmetic of bf16 is not supported")
    else:
        a, b = (warp.get(operand, i.type) for operand in i.operands[1:3])
    with np.errstate(all="ignore"):
        warp.put(i.operands[0], BINARY[i.parts[0]](a, b))


def widened(values: np.ndarray, type: str) -> np.ndarray:
    """fp16 or the bits of bf16 -> fp32."""
    return bf16_to_f32(values) if type == "bf16" else values.astype(np.float32)


def packed(warp, i, function):
    """On both floats of 64-bit registers."""
    pairs = (warp.get(operand, "u64").view(np.float32).reshape(32, 2) for operand in i.operands[1:])
    with np.errstate(all="ignore"):
        warp.put(i.operands[0], np.ascontiguousarray(function(*pairs)).view(np.uint64).reshape(32))


@instruction("mul", "mad", "fma")
def multiply(warp, i):
    """lo, wide and hi of integers; floats with one rounding."""
    a, b, *c = i.operands[1:]
    if i.type == "bf16":
        raise Fault("arithmetic of bf16 is not supported")
    if i.type == "f32x2":
        return packed(warp, i, lambda a, b, c=0: (a.astype(np.float64) * b + c).astype(np.float32))
    if i.type.startswith("f"):
        exact = warp.get(a, i.type).astype(np.float64) * warp.get(b, i.type)
        total = exact + sum(warp.get(x, i.type).astype(np.float64) for x in c)
        return warp.put(i.operands[0], total.astype(TYPES[i.type]))
    if "lo" in i.parts:
        product = warp.get(a, i.type) * warp.get(b, i.type)
        return warp.put(i.operands[0], sum((warp.get(x, i.type) for x in c), product))
    wide = TYPES[WIDE[i.type]]
    product = warp.get(a, i.type).astype(wide) * warp.get(b, i.type).astype(wide)
    if "hi" in i.parts:
        product = (product >> wide(32)).astype(TYPES[i.type])
    return warp.put(i.operands[0], sum((warp.get(x, WIDE[i.type]) for x in c), product))


@instruction("div", "rem")
def divide(warp, i):
    """Integers round towards zero."""
    a, b = (warp.get(operand, i.type) for operand in i.operands[1:3])
    with np.errstate(all="ignore"):
        quotient = a / b if i.type.startswith("f") else np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))
    result = quotient if i.parts[0] == "div" else a - b * quotient
    warp.put(i.operands[0], result.astype(TYPES[i.type]))


@instruction("shl", "shr")
def shift(warp, i):
    value, by = warp.get(i.operands[1], i.type), warp.get(i.operands[2], "u32").astype(np.int64)
    bits = 8 * value.dtype.itemsize
    by_capped = np.minimum(by, bits - 1).astype(value.dtype)
    if i.parts[0] == "shl":
        return warp.put(i.operands[0], np.where(by >= bits, 0, value << by_capped).astype(value.dtype))
    filled = value >> by_capped  # a signed shift by more than the width leaves the sign
    keep = by < bits if value.dtype.kind == "u" else True
    return warp.put(i.operands[0], np.where(keep, filled, 0).astype(value.dtype))


@instruction("bfe")
def extract(warp, i):
    value = warp.get(i.operands[1], i.type)
    start, length = warp.one(i.operands[2], "u32"), warp.one(i.operands[3], "u32")
    field = (value.astype(np.int64) >> start) & (2**length - 1)
    if i.type.startswith("s"):
        field = np.where(field >> (length - 1) & 1, field - 2**length, field)
    warp.put(i.operands[0], field.astype(value.dtype))


@instruction("bfi")
def insert(warp, i):
    value, base = (warp.get(operand, "u32").astype(np.int64) for operand in i.operands[1:3])
    start, length = warp.one(i.operands[3], "u32"), warp.one(i.operands[4], "u32")
    field = (2**length - 1) << start
    warp.put(i.operands[0], ((base & ~field) | ((value << start) & field)).astype(np.uint32))


@instruction("prmt")
def permute(warp, i):
    """Pick four of the eight bytes of two words."""
    a, b, selector = (warp.get(operand, "u32").astype(np.uint64) for operand in i.operands[1:4])
    both, result = a | (b << np.uint64(32)), np.zeros(32, np.uint64)
    for byte in range(4):
        chosen = (selector >> np.uint64(4 * byte)) & np.uint64(15)
        if (chosen > 7).any():
            raise Fault("prmt with sign replication is not supported")
        result |= ((both >> (chosen * np.uint64(8))) & np.uint64(255)) << np.uint64(8 * byte)
    warp.put(i.operands[0], result.astype(np.uint32))


@instruction("lop3")
def lop3(warp, i):
    """The truth table in the last operand, bit 4a + 2b + c."""
    a, b, c = (warp.get(operand, "u32") for operand in i.operands[1:4])
    table, result = warp.one(i.operands[4], "u32"), np.zeros(32, np.uint32)
    for row in (row for row in range(8) if table >> row & 1):
        result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
    warp.put(i.operands[0], result)


@instruction("selp")
def select(warp, i):
    chosen = warp.get(i.operands[3], "pred")
    warp.put(i.operands[0], np.where(chosen, *(warp.get(operand, i.type) for operand in i.operands[1:3])))


@instruction("setp")
def compare(warp, i):
    a, b = (warp.get(operand, i.type) for operand in i.operands[1:3])
    how = i.parts[1]
    if how in ("nan", "num"):
        result = (np.isnan(a) | np.isnan(b)) ^ (how == "num")
    elif how in COMPARE:
        result = COMPARE[how](a, b) & (~(np.isnan(a) | np.isnan(b)) if a.dtype.kind == "f" else True)
    else:  # ltu, neu, ...: also true when unordered
        result = COMPARE[how[:-1]](a, b) | np.isnan(a) | np.isnan(b)
    if len(i.parts) > 2 and i.parts[2] in ("and", "or"):
        result = BINARY[i.parts[2]](result, warp.get(i.operands[3], "pred"))
    warp.put(i.operands[0], result)


@instruction("mov")
def move(warp, i):
    """Also packs ``{lo, hi}`` into a register and unpacks it."""
    target, source = i.operands
    size = np.dtype(TYPES[i.type]).itemsize
    if target.startswith("{"):
        part = UNSIGNED[size // len(i.names(0))]
        for name, value in zip(i.names(0), warp.get(source, i.type).view(part).reshape(32, -1).T, strict=True):
            warp.put(name, value)
    elif source.startswith("{"):
        kind = f"b{8 * size // len(i.names(1))}"
        parts = np.stack([warp.get(name, kind) for name in i.names(1)], 1)
        warp.put(target, parts.reshape(-1).view(UNSIGNED[size]))
    else:
        warp.put(target, warp.get(source, i.type))


@instruction("cvta")
def generic(warp, i):
    warp.put(i.operands[0], warp.get(i.operands[1], i.type))


@instruction("cvt")
def convert(warp, i):
    """Floats round to nearest even, except to integers."""
    to, source = i.parts[-2:]
    if to.endswith("x2"):  # d = {low: second operand, high: first operand}
        high, low = (narrow(warp.get(operand, "f32"), to[:-2]) for operand in i.operands[1:3])
        return warp.put(i.operands[0], low.astype(np.uint32) | (high.astype(np.uint32) << 16))
    value = warp.get(i.operands[1], source)
    value = bf16_to_f32(value) if source == "bf16" else value
    if to in ("bf16", "f16") and value.dtype == np.float32:
        return warp.put(i.operands[0], narrow(value, to))
    if value.dtype.kind == "f" and TYPES[to] not in (np.float16, np.float32, np.float64) and "rzi" not in i.parts:
        raise Fault("only cvt.rzi to integers")
    return warp.put(i.operands[0], value.astype(TYPES[to]))


def narrow(values: np.ndarray, to: str) -> np.ndarray:
    """fp32 -> the bits of fp16 or bf16."""
    with np.errstate(over="ignore"):
        return f32_to_bf16(values) if to == "bf16" else values.astype(np.float16).view(np.uint16)
