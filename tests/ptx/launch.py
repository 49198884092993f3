"""Run Triton and Gluon kernels on CPU tensors: compile for a GPU, execute the PTX."""

import contextlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np
import torch
from triton.runtime import driver
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from bench.codegen.compile import ClaimedDriver
from smart_kernels.ops.common import forget

from . import arithmetic, copies, memory, tensor_core  # noqa: F401  (they register the instructions)
from .block import Block
from .copies import TensorMap
from .program import Program, parse
from .warp import PARAMETER_BASE, PARAMETER_STEP

GUARD = 4096  # bytes between tensors that nobody may write
POISON = 0xFF


class Machine:
    """A GPU that is not there.

    Attributes:
        timing, seed: of asynchronous work and of the order of the warps.
        change: applied to the PTX before it runs, to see that a fault is noticed.
        compiled: what was launched, in order; count: what was executed.
    """

    def __init__(self, timing: str = "late", seed: int = 0, change: Callable[[str], str] | None = None):
        self.timing, self.seed, self.change = timing, seed, change
        self.compiled, self.count = [], Counter()

    def launch(self, compiled, values: list, grid: tuple[int, ...]) -> None:
        """Run every block; tensors in ``values`` are changed in place."""
        ptx = compiled.asm["ptx"]
        program = parse(self.change(ptx) if self.change else ptx)
        space = Space(values)
        arguments, maps = bind(program, values, space)
        grid = (*grid, 1, 1)[:3]
        for number, index in enumerate(np.ndindex(*grid[::-1])):
            seed = 1000 * self.seed + number
            block = Block(program, space.memory, arguments, maps, index[::-1], grid, self.timing, seed)
            block.run()
            self.count += block.count
        space.read_back()
        self.compiled.append(compiled)


class Space:
    """Global memory with the storages of some tensors."""

    def __init__(self, values: list):
        tensors = [value if isinstance(value, torch.Tensor) else getattr(value, "base", None) for value in values]
        self.storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors if t is not None}
        self.address, top = {}, GUARD
        for pointer, storage in self.storages.items():
            self.address[pointer] = top
            top += -(-len(storage) // 256) * 256 + GUARD
        self.memory = np.full(top, POISON, np.uint8)
        for pointer, storage in self.storages.items():
            self.memory[self._slice(pointer)] = as_bytes(storage)

    def pointer(self, tensor: torch.Tensor) -> int:
        storage = tensor.untyped_storage().data_ptr()
        return self.address[storage] + tensor.data_ptr() - storage

    def read_back(self) -> None:
        outside = np.ones(len(self.memory), bool)
        for pointer, storage in self.storages.items():
            as_bytes(storage)[:] = self.memory[self._slice(pointer)]
            outside[self._slice(pointer)] = False
        if (self.memory[outside] != POISON).any():
            raise IndexError("a kernel wrote outside its tensors")

    def _slice(self, pointer: int) -> slice:
        return slice(self.address[pointer], self.address[pointer] + len(self.storages[pointer]))


def as_bytes(storage: torch.UntypedStorage) -> np.ndarray:
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy()


def bind(program: Program, values: list, space: Space) -> tuple[dict[str, int], dict[int, TensorMap]]:
    """Values of the parameters. A descriptor is five: its map, sizes and strides; the last two are scratch memory."""
    arguments, maps, position = {}, {}, 0
    for value in values:
        name = program.parameters[position]
        if hasattr(value, "block_shape"):
            maps[PARAMETER_BASE + PARAMETER_STEP * position] = tensor_map(value, space)
            rest = program.parameters[position + 1 : position + 5]
            arguments |= dict(zip(rest, [*value.shape, *value.strides], strict=True))
        else:
            arguments[name] = space.pointer(value) if isinstance(value, torch.Tensor) else int(value)
        position += 5 if hasattr(value, "block_shape") else 1
    scratch = program.parameters[position:]
    if len(scratch) != 2:
        raise ValueError(f"{len(values)} values must fill the parameters but two, got {program.parameters}")
    return arguments | dict.fromkeys(scratch, 0), maps


def tensor_map(descriptor, space: Space) -> TensorMap:
    """As the launcher encodes it: a block wider than its swizzle is copied by several boxes."""
    (rows, columns), (stride, _) = descriptor.shape, descriptor.strides
    box_rows, box_columns = descriptor.block_shape
    size, width = descriptor.base.element_size(), descriptor.layout.swizzle_byte_width
    if box_columns * size % width:
        raise ValueError(f"a block must be boxes as wide as its swizzle, got {box_columns * size} and {width} bytes")
    return TensorMap(space.pointer(descriptor.base), rows, columns * size, stride * size, box_rows, width, size)


@contextlib.contextmanager
def emulated(target: str, machine: Machine) -> Iterator[Machine]:
    """Kernels launched here are compiled for ``target`` ("sm_90"), in their first configuration, and run."""
    compile_ = JITFunction.run

    def run(self, *args, grid, warmup, **kwargs):
        compiled = compile_(self, *args, grid=grid, warmup=True, **kwargs)
        bound = bind_call(self, args, kwargs)
        names = [name for name, type in compiled.src.signature.items() if type != "constexpr"]
        machine.launch(compiled, [bound[name] for name in names], grid(bound) if callable(grid) else grid)
        return compiled

    def run_first(self, *args, **kwargs):
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        config = self.configs[0] if len(self.configs) == 1 else self.prune_configs(kwargs)[0]
        return self.fn.run(*args, **kwargs, **config.all_kwargs())

    before = driver._active
    driver.set_active(ClaimedDriver(target))
    forget()
    try:
        with mock.patch.object(JITFunction, "run", run), mock.patch.object(Autotuner, "run", run_first):
            yield machine
    finally:
        driver._active = before
        forget()


def bind_call(function: JITFunction, args: tuple, kwargs: dict) -> dict:
    """Argument name -> value; options of the launch are left out."""
    parameters = function.signature.parameters
    call = inspect.signature(function.fn).bind_partial(*args, **{k: v for k, v in kwargs.items() if k in parameters})
    return {**call.arguments}
