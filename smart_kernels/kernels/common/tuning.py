"""Which launch configurations are searched, when, and where the result is kept."""

import copy

import triton
from triton.compiler.compiler import max_shared_mem
from triton.runtime import driver

PRODUCT = 16 * 8 * 16  # multiply-adds of one mma.sync
PRODUCTS = 128  # how many of them a warp does in one step
KEY = ["M_CLASS", "N", "K", "BLOCK_N", "BLOCK_K", "PRECISION"]  # what the choice for a product with blocks depends on


def autotune(configs, key, worth_trying):
    """Apply ``triton.autotune`` to what ``worth_trying`` returns; the choice is kept in Triton's disk cache.

    The interpreter takes the first config, untimed.
    """

    def prune(configs, args, **kwargs):
        return [on_this_device(config) for config in worth_trying(configs, args, **kwargs)]

    if triton.knobs.runtime.interpret:
        configs = configs[:1]
    return triton.autotune(configs=configs, key=key, cache_results=True, prune_configs_by={"early_config_prune": prune})


def on_this_device(config):
    """Return the config without its limit of registers, which is for sm_120 and known to CUDA alone."""
    if config.maxnreg is None:
        return config
    target = driver.active.get_current_target()
    if target.backend == "cuda" and target.arch >= 120:
        return config
    config = copy.copy(config)
    config.maxnreg = None
    return config


def fitting(configs, args, kwargs, *, grad: bool = False, sums: int = 128):
    """Return the configs that are no taller than M and whose step the device holds; else the first.

    ``grad``: the product runs over M, so BLOCK_M is the depth of a step.
    """
    n = kwargs["BLOCK_N"]
    k = kwargs["BLOCK_K"]
    size = args["x_ptr"].element_size()
    found = []
    for config in configs:
        m = config.kwargs["BLOCK_M"]
        step = (n, k, m) if grad else (m, n, k)
        if m <= args["M_CLASS"] and holds(config, step, size, kwargs["PRECISION"], sums, grad):
            found.append(config)
    return found or configs[:1]


def worth_trying_grad(configs, args, **kwargs):
    """Return ``fitting`` for a gradient of blocks, where BLOCK_M is the depth of a step."""
    return fitting(configs, args, kwargs, grad=True)


def holds(
    config, step: tuple[int, int, int], itemsize: int, precision: str, sums: int = 128, transposed: bool = False
) -> bool:
    """Return whether a (rows, columns, depth) step of a product fits into registers and shared memory.

    ``sums`` accumulators are half of the 255 registers of a thread. Exact fp32 has no tensor core: its operands pass
    through registers too, which leaves 32, and its arithmetic hides the copies of one stage: two are enough. Without
    wgmma the operands of tensor cores pass through registers as well: 128 products of a warp in one step are what they
    leave room for, and a depth of 64 where they are ``transposed`` on the way.
    """
    rows, columns, depth = step
    exact = itemsize == 4 and precision == "ieee"
    if rows * columns > (min(16, sums) if exact else sums) * 32 * config.num_warps or (exact and config.num_stages > 2):
        return False
    if not wgmma() and (rows * columns * depth > PRODUCTS * PRODUCT * config.num_warps or (transposed and depth > 64)):
        return False
    return (config.num_stages - (not wgmma())) * (rows + columns) * depth * itemsize <= shared_memory()


def wgmma() -> bool:
    """Return whether tensor cores read operands from shared memory, which keeps a stage one step longer."""
    target = driver.active.get_current_target()
    return target.backend == "cuda" and 90 <= target.arch < 120


def shared_memory() -> int:
    """Return the bytes that one program may use on the current device; for the interpreter those of a large one."""
    return 1 << 17 if triton.knobs.runtime.interpret else max_shared_mem(driver.active.get_current_device())
