"""Which launch configurations are searched, when, and where the result is kept."""

import triton
from triton.compiler.compiler import max_shared_mem
from triton.runtime import driver


def autotune(configs, key, **kwargs):
    """``triton.autotune``, remembered in Triton's disk cache. The interpreter takes the first config, untimed."""
    if triton.knobs.runtime.interpret:
        configs = configs[:1]
    return triton.autotune(configs=configs, key=key, cache_results=True, **kwargs)


def holds(config, step: tuple[int, int, int], itemsize: int, precision: str, sums: int = 128) -> bool:
    """Whether a (rows, columns, depth) step of a product fits into registers and shared memory.

    ``sums`` accumulators are half of the 255 registers of a thread. Exact fp32 has no tensor core: its operands pass
    through registers too, which leaves 32, and its arithmetic hides the copies of one stage: two are enough.
    """
    rows, columns, depth = step
    exact = itemsize == 4 and precision == "ieee"
    if rows * columns > (min(32, sums) if exact else sums) * 32 * config.num_warps or (exact and config.num_stages > 2):
        return False
    stages = config.num_stages - (not has_wgmma())  # which reads a stage for one step longer than others
    return stages * (rows + columns) * depth * itemsize <= shared_memory()


def has_wgmma() -> bool:
    """Whether the current device multiplies 64 rows at once, straight from shared memory."""
    target = driver.active.get_current_target()
    return target.backend == "cuda" and 90 <= target.arch < 120


def shared_memory() -> int:
    """Bytes that one program may use on the current device; that of a large one where there is only the interpreter."""
    return 1 << 17 if triton.knobs.runtime.interpret else max_shared_mem(driver.active.get_current_device())
