"""A block: its warps in a random order, shared memory, barriers, and who waits for whom."""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .program import Program
from .warp import SHARED_BASE, Fault, Outcome, Warp, instruction

SHARED_BYTES = 232448
STRETCHES = (1, 4, 32, 256, 4096)  # how many instructions a warp may run before another has its turn


@dataclass
class Barrier:
    """mbarrier: a phase ends when ``pending`` arrivals and ``bytes`` of copies are outstanding no more."""

    count: int
    pending: int
    bytes: int = 0
    phase: int = 0

    def arrive(self, count: int) -> None:
        self.pending -= count
        if self.pending < 0:
            raise Fault("more arrivals than the mbarrier expects")
        self.complete()

    def complete(self) -> None:
        if self.pending == 0 and self.bytes == 0:
            self.phase, self.pending = self.phase ^ 1, self.count


class Block:
    """Attributes:
    memory: (bytes,) global memory.
    arguments: parameter name -> value; tensor_maps: address of the parameter -> TensorMap.
    shared: what the threads see; seen_by_copies: what TMA and wgmma see of it.
    count: how often what was executed.
    """

    def __init__(
        self,
        program: Program,
        memory: np.ndarray,
        arguments: Mapping[str, int],
        tensor_maps: Mapping[int, object],
        index: tuple[int, int, int] = (0, 0, 0),
        grid: tuple[int, int, int] = (1, 1, 1),
        timing: Literal["early", "late"] = "late",
        seed: int = 0,
    ):
        self.program, self.memory, self.arguments, self.tensor_maps = program, memory, arguments, tensor_maps
        self.index, self.grid, self.timing, self.random = index, grid, timing, random.Random(seed)
        self.shared = np.full(SHARED_BASE + SHARED_BYTES, 0xFF, np.uint8)  # NaN in every type
        self.seen_by_copies = self.shared.copy()
        self.barriers: dict[int, set[int]] = {}
        self.generation: Counter[int] = Counter()
        self.mbarriers: dict[int, Barrier] = {}
        self.in_flight: list[Callable[[], None]] = []  # TMA loads
        self.count: Counter[tuple] = Counter()
        self.warps = [Warp(self, index) for index in range(program.threads // 32)]

    def run(self) -> None:
        """Until every warp returned; ``Fault`` when all wait for ever."""
        alive = list(self.warps)
        while alive:
            self.random.shuffle(alive)
            moved = sum(self._stretch(warp, alive) for warp in list(alive))
            if not moved and not self.in_flight:
                waits = "; ".join(f"warp {w.index}: {w.program.code[w.pc].text[:60]}" for w in alive)
                raise Fault(f"deadlock: {waits}")
            if self.in_flight and (not moved or self.random.random() < 0.3):
                self.in_flight.pop(self.random.randrange(len(self.in_flight)))()

    def _stretch(self, warp: Warp, alive: list[Warp]) -> int:
        """Let one warp run; returns how far it came."""
        for done in range(self.random.choice(STRETCHES)):
            outcome = warp.step()
            if outcome is Outcome.BLOCKED:
                return done
            if outcome is Outcome.DONE:
                alive.remove(warp)
                break
        return 1

    def arrive(self, warp: Warp, barrier: int, threads: int) -> bool:
        """Whether the warp may pass ``bar.sync``."""
        if warp.waiting is None:
            warp.waiting = (barrier, self.generation[barrier])
            arrived = self.barriers.setdefault(barrier, set())
            arrived.add(warp.index)
            if 32 * len(arrived) == threads:
                arrived.clear()
                self.generation[barrier] += 1
        if self.generation[barrier] == warp.waiting[1]:
            return False
        warp.waiting = None
        return True


@instruction("bar", "barrier")
def bar(warp, i):
    if i.parts[1] == "warp":
        return None
    if "sync" not in i.parts:
        raise Fault("only bar.sync")
    threads = warp.one(i.operands[1], "u32") if len(i.operands) > 1 else warp.program.threads
    passed = warp.block.arrive(warp, warp.one(i.operands[0], "u32"), threads)
    return None if passed else Outcome.BLOCKED
