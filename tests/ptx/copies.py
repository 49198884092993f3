"""cp.async, TMA and mbarrier: work that is done early, when issued, or late, when waited for."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .block import Barrier
from .memory import bytes_at, parameter_lane, write_shared
from .warp import Fault, Outcome, instruction

SWIZZLE = {128: 7, 64: 3, 32: 1, 0: 0}  # row bytes -> bits of the address that are XORed into the 16-byte chunk


@dataclass(frozen=True)
class TensorMap:
    """Describe for TMA a (rows, columns) matrix and the box that one copy moves. Bytes, innermost last."""

    base: int
    rows: int
    row_bytes: int
    stride: int
    box_rows: int
    box_bytes: int
    element: int

    def box(self, coordinates: list[int], shared: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Global byte, shared byte and whether the tensor has it, for every byte of the box at (column, row)."""
        column, row = coordinates
        if shared % (8 * self.box_bytes):
            raise Fault(f"the box must start at a multiple of {8 * self.box_bytes} bytes, got {shared}")
        rows, offsets = np.ogrid[: self.box_rows, : self.box_bytes]
        x, y = column * self.element + offsets, row + rows
        inside = (x >= 0) & (x < self.row_bytes) & (y >= 0) & (y < self.rows)
        return (
            self.base + y * self.stride + x,
            swizzled(shared + rows * self.box_bytes + offsets, self.box_bytes),
            inside,
        )


def swizzled(address: np.ndarray, width: int) -> np.ndarray:
    """Where byte ``address`` of a tile with rows of ``width`` bytes is, in shared memory aligned to 8 rows."""
    return address ^ (((address >> 7) & SWIZZLE[width]) << 4)


def submit(warp, groups: list[list[Callable]], work: Callable[[], None]) -> None:
    """Into the open group, or at once."""
    if warp.block.timing == "early":
        work()
    else:
        groups[-1].append(work)


def commit(groups: list[list[Callable]]) -> None:
    groups.append([])


def wait(groups: list[list[Callable]], pending: int) -> None:
    """Until at most ``pending`` committed groups are unfinished."""
    while len(groups) - 1 > pending:
        for work in groups.pop(0):
            work()


@instruction("cp")
def copy(warp, i):
    """cp.async and cp.async.bulk.tensor."""
    if i.parts[2] == "commit_group":
        return commit(warp.copies)
    if i.parts[2] == "wait_group":
        return wait(warp.copies, int(i.operands[0], 0))
    if i.parts[2] in ("ca", "cg"):
        return copy_chunk(warp, i)
    if i.parts[2:4] == ("bulk", "commit_group"):
        return commit(warp.stores)
    if i.parts[2:4] == ("bulk", "wait_group"):
        return wait(warp.stores, int(i.operands[0], 0))
    if i.parts[2:4] == ("bulk", "tensor"):
        return tensor_store(warp, i) if i.parts[5] == "global" else tensor_load(warp, i)
    raise Fault("no such copy here")


def copy_chunk(warp, i):
    """Each lane copies up to 16 bytes; what the source size leaves out becomes zero."""
    size, lanes, block = int(i.operands[2], 0), warp.active, warp.block
    into = bytes_at(warp.address(i.operands[0])[lanes], size)
    count = warp.get(i.operands[3], "u32")[lanes] if len(i.operands) > 3 else np.full(len(into), size)
    source = np.where(count > 0, warp.address(i.operands[1])[lanes], 0)
    source, read = bytes_at(source, size), np.arange(size) < count[:, None]

    def work():
        write_shared(warp, into, np.where(read, block.memory[np.where(read, source, 0)], 0))

    submit(warp, warp.copies, work)
    block.count["cp.async", size] += 1
    block.count["cp.async bytes",] += int(np.minimum(count, size).sum())


def tensor_operands(warp, operand: str, lane: int) -> tuple[TensorMap, list[int]]:
    """``[map, {column, row}]``."""
    address, coordinates = re.fullmatch(r"\[\s*(\S+),\s*\{(.*)\}\s*\]", operand).groups()
    tensor = warp.block.tensor_maps[int(warp.get(address, "u64")[lane])]
    return tensor, [int(warp.get(name.strip(), "s32")[lane]) for name in coordinates.split(",")]


def tensor_load(warp, i):
    """Global -> shared; the mbarrier gets the bytes when they have arrived."""
    block, lane = warp.block, parameter_lane(warp)
    tensor, coordinates = tensor_operands(warp, i.operands[1], lane)
    source, into, inside = tensor.box(coordinates, int(warp.address(i.operands[0])[lane]))
    barrier = block.mbarriers[int(warp.address(i.operands[2])[lane])]

    def work():
        values = np.where(inside, block.memory[np.where(inside, source, 0)], 0)
        block.shared[into] = block.seen_by_copies[into] = values
        barrier.bytes -= values.size
        barrier.complete()

    if block.timing == "early":
        work()
    else:
        block.in_flight.append(work)
    block.count["tensor load", into.size] += 1


def tensor_store(warp, i):
    """Shared -> global, of what is inside the tensor."""
    block, lane = warp.block, parameter_lane(warp)
    tensor, coordinates = tensor_operands(warp, i.operands[0], lane)
    target, source, inside = tensor.box(coordinates, int(warp.address(i.operands[1])[lane]))

    def work():
        block.memory[target[inside]] = block.seen_by_copies[source[inside]]

    submit(warp, warp.stores, work)
    block.count["tensor store", source.size] += 1


@instruction("mbarrier")
def mbarrier(warp, i):
    barriers, lanes = warp.block.mbarriers, int(warp.active.sum())
    if i.parts[1] == "init":
        count = warp.one(i.operands[1], "u32")
        barriers[address(warp, i.operands[0])] = Barrier(count, count)
    elif i.parts[1] == "arrive":
        barrier = barriers[address(warp, i.operands[1])]
        number = warp.one(i.operands[2], "u32") if len(i.operands) > 2 else 1
        if "expect_tx" in i.parts:
            barrier.bytes += number * lanes
            number = 1
        barrier.arrive(number * lanes)
    elif i.parts[1] in ("try_wait", "test_wait"):
        barrier = barriers[address(warp, i.operands[1])]
        if barrier.phase == warp.one(i.operands[2], "u32") & 1:
            return Outcome.BLOCKED
        warp.put(i.operands[0], np.ones(32, bool))
    elif i.parts[1] != "inval":
        raise Fault("no such mbarrier instruction here")
    return None


def address(warp, operand: str) -> int:
    return int(warp.address(operand)[warp.active][0])
