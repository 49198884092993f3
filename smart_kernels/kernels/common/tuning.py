"""Which launch configurations are tried, when, and where the result is kept.

A kernel has ``CONFIGS``, the first of which is valid for every shape, and a rule ``worth_trying`` that leaves out what
cannot run a problem. Of what remains ``few`` takes at most three: the first, and what has won elsewhere.
"""

import copy
import inspect
from functools import partial

import triton
from triton.compiler.compiler import max_shared_mem
from triton.runtime import driver

from .tuner import Tuned

PRODUCT = 16 * 8 * 16  # multiply-adds of one mma.sync
PRODUCTS = 128  # how many of them a warp does in one step
KEY = ["M_CLASS", "N", "K", "BLOCK_N", "BLOCK_K", "PRECISION"]  # what the choice for a product with blocks depends on

TRIED = 3  # configurations per problem
DEEP = ({"BLOCK_M": 64, "num_warps": 4}, {"BLOCK_M": 64, "num_warps": 8}, {"BLOCK_M": 32})
# what won on an H200 in bf16, the most often first; block_grad_kernel and conv_grad_kernel follow weight_grad_kernel;
# kernels of sparse tensor cores have so few that fit a problem that they say so themselves
WON = {
    "block_matmul_kernel": (
        {"W_LEFT": True},
        {"BLOCK_M": 128, "TMA": True, "num_warps": 4},
        {"BLOCK_M": 128, "TMA": False, "num_warps": 4},
        {"BLOCK_M": 128, "TMA": False, "num_warps": 8},
        {"BLOCK_M": 64},
        {"BLOCK_M": 32},
    ),
    "block_grad_kernel": ({"WIDTH": 256}, {"BLOCK_M": 64}, {"BLOCK_M": 32}),
    "weight_grad_kernel": ({"WIDTH": 256}, *DEEP),
    "conv_grad_kernel": DEEP,
    "conv_matmul_kernel": ({"BLOCK_M": 128, "num_warps": 4}, {"BLOCK_M": 64}, {"BLOCK_M": 128, "num_stages": 2}),
    "block_gather_kernel": ({"BLOCK_M": 256}, {"BLOCK_M": 128, "num_warps": 4}, {"BLOCK_M": 128}, {"BLOCK_M": 64}),
    "block_decode_kernel": ({"num_warps": 4, "num_stages": 6}, {"num_warps": 2, "num_stages": 4}),
    "semi_structured_kernel": ({"BLOCK_M": 64}, {"BLOCK_M": 128}, {"BLOCK_M": 16, "BLOCK_O": 64}),
    "semi_structured_conv_kernel": ({"BLOCK_M": 256}, {"BLOCK_M": 128, "num_stages": 3}),
}


def autotune(configs, key, worth_trying):
    """Tune a kernel over a few of what ``worth_trying`` returns; the choice is kept in Triton's disk cache.

    They are compiled side by side and timed in CUDA graphs. The interpreter takes the first config, untimed.
    """
    configs = configs[:1] if triton.knobs.runtime.interpret else configs

    def runnable(configs, args, **kwargs):
        return [on_this_device(config) for config in worth_trying(configs, args, **kwargs)]

    def tuned(kernel):
        return Tuned(kernel, configs, key, runnable, partial(few, name_of(kernel)))

    return tuned


def name_of(kernel) -> str:
    """Return the name of the function below all decorators."""
    while not inspect.isfunction(kernel):
        kernel = kernel.fn
    return kernel.__name__


def few(name: str, configs):
    """Return the first, which runs where others do not fit, and those that won most often, or else the tallest."""
    first, *others = configs
    won = WON.get(name, ())

    def rank(config):
        settings = config.all_kwargs()
        place = next((i for i, one in enumerate(won) if one.items() <= settings.items()), len(won))
        return place, -settings.get("BLOCK_M", 0), config.num_warps

    return [first, *sorted(others, key=rank)[: TRIED - 1]]


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


def w_left(configs, args, kwargs):
    """Of those that have W on the left keep the first that suits; of the others, all.

    It suits Hopper, where one wgmma takes 64 rows of W and 256 of x: tall blocks, 64 rows for each four warps, and
    many rows of x. Beside 128 sums and the addresses of copies a thread has no registers for an exponential.
    """
    size = args["x_ptr"].element_size()
    exact = size == 4 and kwargs["PRECISION"] == "ieee"
    plain = kwargs["ACTIVATION"] in (None, "relu", "relu6")
    left = [c for c in configs if c.kwargs["W_LEFT"]]
    fit = [c for c in left if 16 * c.num_warps == kwargs["BLOCK_N"] and (plain or c.kwargs.get("TMA"))]
    suits = fit if hopper() and not exact and size > 1 and args["M_CLASS"] > 256 else []
    return [c for c in configs if c not in left or c in suits[:1]]


def sums_beside(args, kwargs) -> int:
    """Return how many sums a thread may hold: half where a residual or the erf of GELU needs registers."""
    return 64 if args["residual_ptr"] is not None or kwargs["ACTIVATION"] == "gelu" else 128


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


def hopper() -> bool:
    """Return whether the current device is one; the interpreter is none."""
    if triton.knobs.runtime.interpret:
        return False
    target = driver.active.get_current_target()
    return target.backend == "cuda" and target.arch == 90


def shared_memory() -> int:
    """Return the bytes that one program may use on the current device; for the interpreter those of a large one."""
    return 1 << 17 if triton.knobs.runtime.interpret else max_shared_mem(driver.active.get_current_device())
