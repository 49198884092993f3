"""What a product with stored blocks reads from L2, for the printed census."""

import math

from . import budget


def bytes_per_kflop(row: dict) -> float | None:
    """Return the bytes that a step of a row's loop reads from L2 for a thousand FLOP; None without such a loop.

    Both operands of one program, each once: nothing is shared between multiprocessors. A gradient has the rows of a
    block and the columns of all its blocks, a product the rows of x and those of W.
    """
    kind = budget.kind(row)
    if row.get("loop") is None or kind is None or kind == budget.spread.KIND:
        return None
    tile = budget.shape(row)
    sides = (tile["BLOCK_N"], budget.columns(tile)) if kind == "grad" else (tile["BLOCK_M"], tile["BLOCK_N"])
    return 500 * budget.BYTES[budget.dtype(row)] * sum(1 / side for side in sides)


def of_live_blocks(row: dict, live: int) -> float:
    """Return the bytes that a gradient reads from L2 for a thousand useful FLOP where a block row has ``live`` blocks.

    Every program reads dy; of x it reads the blocks that it has, which may be fewer than it has room for.
    """
    tile = budget.shape(row)
    programs = math.ceil(live / (budget.columns(tile) // tile["BLOCK_K"]))
    return 500 * budget.BYTES[budget.dtype(row)] * (programs / (live * tile["BLOCK_K"]) + 1 / tile["BLOCK_N"])
