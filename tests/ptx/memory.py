"""Loads and stores. Shared memory written by threads reaches TMA and wgmma only through ``fence.proxy.async``."""

import re

import numpy as np

from .warp import LANES, TYPES, UNSIGNED, Fault, instruction


def memory_of(warp, parts: tuple[str, ...]) -> np.ndarray:
    return warp.block.shared if any(part.startswith("shared") for part in parts) else warp.block.memory


def bytes_at(addresses: np.ndarray, count: int) -> np.ndarray:
    """(..., count) indices, checked for alignment."""
    if (addresses % count).any():
        raise Fault(f"addresses must be multiples of {count}")
    return addresses[..., None] + np.arange(count)


def write_shared(warp, where: np.ndarray, what: np.ndarray) -> None:
    """As the threads do it."""
    warp.block.shared[where] = what
    warp.unfenced.append(where)


def vector(parts: tuple[str, ...]) -> int:
    return next((int(part[1:]) for part in parts if re.fullmatch(r"v[248]", part)), 1)


def matrices(parts: tuple[str, ...]) -> int:
    return next(int(part[1:]) for part in parts if re.fullmatch(r"x[124]", part))


@instruction("ld")
def load(warp, i):
    if i.parts[1] == "param":
        value = warp.block.arguments[i.operands[1].strip("[] ")]
        return warp.put(i.operands[0], np.full(32, value, np.uint64).astype(TYPES[i.type], copy=False))
    size = np.dtype(TYPES[i.type]).itemsize
    memory, lanes = memory_of(warp, i.parts), warp.active
    raw = np.zeros((32, vector(i.parts) * size), np.uint8)
    raw[lanes] = memory[bytes_at(warp.address(i.operands[1])[lanes], raw.shape[1])]
    for name, value in zip(i.names(0), raw.view(UNSIGNED[size]).T, strict=True):
        warp.put(name, value)
    warp.block.count["ld", i.parts[1], raw.shape[1]] += 1


@instruction("st")
def store(warp, i):
    size, lanes = np.dtype(TYPES[i.type]).itemsize, warp.active
    values = np.stack([warp.get(name, f"b{8 * size}") for name in i.names(1)], 1)
    raw = np.ascontiguousarray(values).view(np.uint8)[lanes]
    where = bytes_at(warp.address(i.operands[0])[lanes], raw.shape[1])
    if memory_of(warp, i.parts) is warp.block.shared:
        write_shared(warp, where, raw)
    else:
        warp.block.memory[where] = raw
    warp.block.count["st", i.parts[1], raw.shape[1]] += 1


@instruction("ldmatrix")
def load_matrix(warp, i):
    """Matrix j: lane 8j + r holds the address of row r, 8 elements of 2 bytes; lane 4g + t gets word t of row g."""
    addresses = warp.address(i.operands[1]).reshape(4, 8)
    for j in range(matrices(i.parts)):
        rows = warp.block.shared[bytes_at(addresses[j], 16)].view(np.uint16)
        rows = np.ascontiguousarray(rows.T) if "trans" in i.parts else rows
        warp.put(i.names(0)[j], rows.view(np.uint32).reshape(-1))
    warp.block.count["ldmatrix", matrices(i.parts)] += 1


@instruction("stmatrix")
def store_matrix(warp, i):
    """The inverse of ldmatrix."""
    addresses = warp.address(i.operands[0]).reshape(4, 8)
    for j in range(matrices(i.parts)):
        rows = warp.get(i.names(1)[j], "u32").copy().view(np.uint16).reshape(8, 8)
        rows = np.ascontiguousarray(rows.T if "trans" in i.parts else rows)
        write_shared(warp, bytes_at(addresses[j], 16), rows.view(np.uint8))
    warp.block.count["stmatrix", matrices(i.parts)] += 1


@instruction("fence")
def fence(warp, i):
    if i.parts[1:3] == ("proxy", "async"):
        for where in warp.unfenced:
            warp.block.seen_by_copies[where] = warp.block.shared[where]
        warp.unfenced.clear()


def parameter_lane(warp) -> int:
    """The one active lane of an instruction that a single thread issues."""
    lanes = LANES[warp.active]
    if len(lanes) != 1:
        raise Fault(f"one thread must issue this, got {len(lanes)}")
    return int(lanes[0])
