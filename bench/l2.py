"""How fast the L2 cache is: all processors read the same 20 MB again and again."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BYTES = 20 * 2**20  # stays in the L2 cache, and is too large for the L1 caches together
BLOCK = 4096  # values in one step of a program
STEPS = 256
PER_PROCESSOR = 4  # programs at a time, so that one reads while another waits
APART = 7  # steps between the places where neighbouring programs begin


@triton.jit
def read_kernel(source_ptr, sums_ptr, blocks, steps, BLOCK: tl.constexpr, APART: tl.constexpr):
    """Add up ``steps`` blocks, the first one another in every program; L1 is passed by."""
    program = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK,), tl.int32)
    for step in range(steps):
        block = (program * APART + step) % blocks
        sums += tl.load(source_ptr + block * BLOCK + offsets, cache_modifier=".cg")
    tl.store(sums_ptr + program, tl.sum(sums))


def read(source: Tensor, programs: int, steps: int) -> Tensor:
    """Return the sum (programs,) int32 of what each program reads of ``source`` (blocks, BLOCK) int32."""
    sums = source.new_empty(programs)
    blocks, size = source.shape
    read_kernel[(programs,)](source, sums, blocks, steps, BLOCK=size, APART=APART, num_warps=8)
    return sums


def expected(source: Tensor, programs: int, steps: int) -> Tensor:
    """Return what ``read`` returns, in plain torch."""
    first = APART * torch.arange(programs, device=source.device)[:, None]
    blocks = (first + torch.arange(steps, device=source.device)) % len(source)
    return source.sum(1)[blocks].sum(1).int()


def values(device: str, blocks: int = BYTES // 4 // BLOCK, size: int = BLOCK) -> Tensor:
    """Return random numbers whose sums fit into 32 bits."""
    return torch.randint(0, 100, (blocks, size), device=device, dtype=torch.int32)


def rate() -> float:
    """Return bytes per second on the current GPU, the best of many readings."""
    from triton.testing import do_bench

    source = values("cuda")
    programs = PER_PROCESSOR * torch.cuda.get_device_properties("cuda").multi_processor_count
    best_ms = min(do_bench(lambda: read(source, programs, STEPS), warmup=20, rep=50, return_mode="all"))
    return 1e3 * programs * STEPS * BLOCK * 4 / best_ms
