"""32 lanes that execute one instruction at a time. A register is an array of 32 raw bit patterns."""

import re
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING

import numpy as np

from .program import Instruction

if TYPE_CHECKING:
    from .block import Block

LANES = np.arange(32)
ALL = np.ones(32, bool)
SHARED_BASE = 1024  # where ``global_smem`` is; a window of its own, so that address 0 is wrong
PARAMETER_BASE, PARAMETER_STEP = 0x7000_0000, 256
COLLECTIVE = ("bar", "barrier", "ldmatrix", "stmatrix", "mma", "wgmma", "shfl", "elect", "ret", "exit")
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
TYPES = {f"{kind}{8 * size}": UNSIGNED[size] for kind in "bu" for size in UNSIGNED}
TYPES |= {"s8": np.int8, "s16": np.int16, "s32": np.int32, "s64": np.int64, "pred": np.bool_}
TYPES |= {"f16": np.float16, "f32": np.float32, "f64": np.float64, "bf16": np.uint16}


class Fault(Exception):
    """The program does what PTX leaves undefined, or what this interpreter does not know."""


class Outcome(Enum):
    NEXT = auto()
    JUMPED = auto()
    BLOCKED = auto()  # try again later
    DONE = auto()


INSTRUCTIONS: dict[str, Callable[["Warp", Instruction], Outcome | None]] = {}


def instruction(*names: str):
    """Register what the instructions with these first parts do; None means: go to the next one."""

    def register(function):
        INSTRUCTIONS.update(dict.fromkeys(names, function))
        return function

    return register


class Warp:
    """Attributes:
    registers: name -> (32,) array.
    lanes: (32,) that are at this instruction; active: those of them whose predicate holds.
    apart: (32,) where each lane is, while lanes have parted.
    copies, products, stores: asynchronous work: [committed groups], the last one still open.
    unfenced: shared bytes written that the asynchronous proxy may not see yet.
    written: registers written since the last wgmma.fence.
    """

    def __init__(self, block: "Block", index: int):
        self.block, self.index, self.pc = block, index, 0
        self.program = block.program
        self.active, self.lanes, self.waiting = ALL, ALL, None
        self.apart: np.ndarray | None = None
        self.copies, self.products, self.stores = [[]], [[]], [[]]
        self.unfenced, self.written = [], set()
        self.immediates: dict[tuple, np.ndarray] = {}
        zero = np.zeros(32, np.uint32)
        self.registers = {"%tid.x": (32 * index + LANES).astype(np.uint32), "%laneid": LANES.astype(np.uint32)}
        self.registers |= {"%warpid": zero + np.uint32(index), "%ntid.x": zero + np.uint32(block.program.threads)}
        for axis, at, of in zip("xyz", block.index, block.grid, strict=True):
            self.registers |= {f"%ctaid.{axis}": zero + np.uint32(at), f"%nctaid.{axis}": zero + np.uint32(of)}
        self.registers |= dict.fromkeys(("%tid.y", "%tid.z", "%cluster_ctaid.x", "%cluster_ctarank", "%smid"), zero)

    def step(self) -> Outcome:
        """Execute one instruction, on the lanes that are furthest behind where lanes have parted."""
        if self.apart is not None:
            self.pc = int(self.apart.min())
            self.lanes = self.apart == self.pc
            if self.lanes.all():
                self.apart, self.lanes = None, ALL
        i = self.program.code[self.pc]
        self.active = self.lanes
        if i.predicate is not None:
            self.active = self.lanes & (self.get(i.predicate, "pred") ^ i.negated)
        function = INSTRUCTIONS.get(i.parts[0])
        if function is None:
            raise Fault(f"no such instruction here: {i.text}")
        if not self.active.any():
            return self.go(self.pc + 1)
        if self.apart is not None and i.parts[0] in COLLECTIVE:
            raise Fault(f"all lanes must take part: {i.text}")
        try:
            outcome = function(self, i) or Outcome.NEXT
        except Exception as error:
            raise Fault(f"warp {self.index} at {self.pc}: {i.text}: {error!r}") from error
        return self.go(self.pc + 1) if outcome is Outcome.NEXT else outcome

    def go(self, target: int) -> Outcome:
        """Continue there with the active lanes, behind this instruction with the others."""
        if target == self.pc + 1 or (self.active == self.lanes).all():
            if self.apart is not None:
                self.apart[self.lanes] = target
            self.pc = target
        else:
            self.apart = np.full(32, self.pc) if self.apart is None else self.apart
            self.apart[self.lanes] = self.pc + 1
            self.apart[self.active] = target
        return Outcome.JUMPED

    def get(self, operand: str, type: str) -> np.ndarray:
        """(32,) values of a register or an immediate, read as ``type``."""
        wanted = np.dtype(TYPES[type])
        value = self.registers.get(operand)
        if value is None:
            key = (operand, wanted)
            if key not in self.immediates:
                self.immediates[key] = self._immediate(operand, wanted)
            return self.immediates[key]
        if value.dtype.itemsize != wanted.itemsize:  # narrower reads take the low bits
            value = value.astype(UNSIGNED[wanted.itemsize])
        return value if value.dtype == wanted else value.view(wanted)

    def put(self, register: str, value: np.ndarray) -> None:
        """Write the active lanes."""
        if register == "_":
            return
        if value.dtype != np.bool_:
            value = value.view(UNSIGNED[value.dtype.itemsize])
        if not self.active.all():
            old = self.registers.get(register, np.zeros(32, value.dtype))
            value = np.where(self.active, value, old.astype(value.dtype, copy=False))
        self.registers[register] = value.copy()
        self.written.add(register)

    def one(self, operand: str, type: str) -> int:
        """The value that all active lanes share."""
        values = self.get(operand, type)[self.active]
        if (values != values[0]).any():
            raise Fault(f"{operand} must be the same in all lanes")
        return int(values[0])

    def address(self, operand: str) -> np.ndarray:
        """(32,) byte addresses of ``[base + offset]``."""
        base, offset = re.fullmatch(r"\[?\s*([^\s+\]]+)\s*(?:\+\s*(-?\d+))?\s*\]?", operand).groups()
        value = self.registers.get(base)
        value = self.get(base, "s64") if value is None else value.astype(np.int64)
        return value + int(offset or 0)

    def _immediate(self, text: str, type: np.dtype) -> np.ndarray:
        if text in ("true", "false"):
            return np.full(32, text == "true", type)
        if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
            return np.full(32, int(text[2:], 16), np.uint32).view(type)
        symbol, offset = re.fullmatch(r"(.*?)\s*(?:\+\s*(-?\d+))?", text).groups()
        number = self._symbol(symbol) + int(offset or 0)
        if type.kind in "fb":
            return np.full(32, number, type)
        return np.full(32, number % 2 ** (8 * type.itemsize), UNSIGNED[type.itemsize]).view(type)

    def _symbol(self, text: str) -> int:
        if text == "global_smem":
            return SHARED_BASE
        if text in self.program.parameters:
            return PARAMETER_BASE + PARAMETER_STEP * self.program.parameters.index(text)
        return int(text.removesuffix("U"), 0)


@instruction("bra")
def bra(warp, i):
    return warp.go(warp.program.labels[i.operands[0]])


@instruction("brx")
def brx(warp, i):
    return warp.go(warp.program.labels[warp.program.tables[i.operands[1]][warp.one(i.operands[0], "u32")]])


@instruction("ret", "exit")
def ret(warp, i):
    if not warp.active.all():
        raise Fault("a return of some lanes is not supported")
    return Outcome.DONE


@instruction("setmaxnreg", "membar", "griddepcontrol", "nop")
def nothing(warp, i):
    """No effect on values."""


@instruction("shfl")
def shfl(warp, i):
    if i.parts[1:3] != ("sync", "idx"):
        raise Fault("only shfl.sync.idx")
    source = warp.get(i.operands[2], "u32") & 31
    warp.put(i.operands[0].partition("|")[0], warp.get(i.operands[1], "u32")[source])


@instruction("elect")
def elect(warp, i):
    lane, predicate = i.operands[0].split("|")
    warp.put(lane, np.zeros(32, np.uint32))
    warp.put(predicate, LANES == 0)
