"""How many programs of a kernel one multiprocessor must hold. Written down before the kernel.

The masked gradient has a program for every GROUP blocks that a row could have, as nothing on the host knows how many
live: at 80 % four of five find no live block. Each takes about a microsecond, which a multiprocessor that holds one
program loses, and so it loses a program's first copies and its end. With two the other one computes meanwhile.
"""

from . import budget

PROGRAMS = 2
REGISTERS = 65536  # of a multiprocessor of sm_90, given to a thread by eights
SHARED = 233472  # bytes, of which a program takes RESERVED more than it says
RESERVED = 1024


def faults(row: dict) -> list[str]:
    """Say if fewer programs fit than must; nothing for other kernels and targets."""
    if row["target"] != "sm_90" or row["kernel"] != "weight_grad_kernel":
        return []
    tile = budget.shape(row)
    if tile.get("WIDTH", 0) <= tile["BLOCK_K"]:
        return []
    threads = 32 * tile["warps"]
    fit = min(REGISTERS // (-(-row["registers"] // 8) * 8 * threads), SHARED // (row["shared"] + RESERVED))
    found = f"{fit} programs fit on a multiprocessor, not {PROGRAMS}: {row['registers']} registers, {row['shared']} B"
    return [found] if fit < PROGRAMS else []
