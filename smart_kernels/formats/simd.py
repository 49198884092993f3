"""Vector code for this processor, compiled in this process and run on torch's threads (optional: llvmlite)."""

import ctypes
import importlib.util
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import NamedTuple
from weakref import WeakValueDictionary

from . import processor
from .vector_code import Code, Spec

KEPT = 64  # pieces of code, a megabyte each, that stay though no layer runs them: llvmlite leaks when it makes one
MOST_ROWS = 12  # more read more lines at once than one set of the first cache holds, where the stride is 4096 bytes


class Machine(NamedTuple):
    """Floats of a vector, vector registers."""

    lanes: int
    registers: int


@cache
def machine() -> Machine:
    """Return the vectors of this processor; ValueError where llvmlite or the instructions are missing."""
    if importlib.util.find_spec("llvmlite") is None:
        raise ValueError("jit needs llvmlite, which is not installed: pip install smart-kernels[cpu-jit]")
    import llvmlite.binding as llvm

    has = features().get
    if has("avx512f"):
        return Machine(16, 32)
    if has("avx2") and has("fma"):
        return Machine(8, 16)
    if has("neon"):
        return Machine(4, 32)
    where = f"{llvm.get_host_cpu_name()} at torch's vector level {processor.vector_level()}"
    raise ValueError(f"jit needs AVX-512, AVX2 with FMA or NEON, {where} has none")


@cache
def features() -> dict[str, bool]:
    """Return the instruction sets that code may use here: LLVM's name -> whether it may."""
    import llvmlite.binding as llvm

    return processor.allowed(llvm.get_host_cpu_features())


def compiled(spec: Spec, threads: int) -> Callable:
    """Return the code as a function of ``CALL``, on so many threads; it lives as long as the function."""
    return partial(_compiled(spec), threads)


def assembly(spec: Spec) -> str:
    """Return the machine code as text."""
    return _target().emit_assembly(_optimised(spec))


class Engine:
    """Machine code in memory, which is freed with this object."""

    def __init__(self, spec: Spec):
        import llvmlite.binding as llvm

        # an engine owns its target machine: two with the same one would free it twice
        self._engine = llvm.create_mcjit_compiler(_optimised(spec), _target())
        self._engine.finalize_object()
        self._alone = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._engine.get_function_address("alone"))
        self._together = self._engine.get_function_address("together")

    def __call__(self, threads: int, call) -> None:
        if threads == 1 or not shared():
            self._alone(call)
        else:
            _parallel()(self._together, threads, call)


_live: WeakValueDictionary[Spec, Engine] = WeakValueDictionary()


@lru_cache(KEPT)
def _compiled(spec: Spec) -> Engine:
    code = _live.get(spec)
    if code is None:
        code = _live[spec] = Engine(spec)
    return code


@cache
def _parallel() -> Callable:
    """Return ``GOMP_parallel`` (code, threads, call) of the OpenMP that torch runs on, hence torch's threads."""
    run = ctypes.CDLL(None).GOMP_parallel
    run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    return lambda code, threads, call: run(code, call, threads, 0)


@cache
def shared() -> bool:
    """Return whether torch's threads can be had; else the code runs on one."""
    try:
        return bool(_parallel())
    except (OSError, AttributeError, TypeError):  # no such library, no such function, no such notion (Windows)
        return False


def _target():
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    chosen = ",".join(f"{'+' if used else '-'}{name}" for name, used in sorted(features().items()))
    triple = llvm.Target.from_triple(llvm.get_process_triple())
    return triple.create_target_machine(cpu=llvm.get_host_cpu_name(), features=chosen, opt=3)


def _optimised(spec: Spec):
    import llvmlite.binding as llvm

    module = llvm.parse_assembly(Code(spec, shared()).text())
    builder = llvm.create_pass_builder(_target(), llvm.create_pipeline_tuning_options(speed_level=2))
    builder.getModulePassManager().run(module, builder)
    return module
