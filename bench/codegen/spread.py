"""How many instructions a step that spreads n:m weights out may have, counted per dense weight.

"nm decode": the best count measured for pairs of 16-bit weights, plus what a taller block of x adds to its products.
"nm": a derivation. The address of the index byte 6, its load and shift 4; address, load and mask of the value 5;
conversion and the way through shared memory 2; per stored index a shift, a mask, two signs, two sums; per further byte
of indices 4; per mma.sync 3.5 to fetch weights that every warp needs and that lie in 2-byte pieces.
"""

KINDS = ("nm", "nm decode")
DECODE, TILE = 4.1, 256  # thread-instructions per dense weight, columns of W in a step
WEIGHT, PER_INDEX, PER_BYTE, PER_FETCH = 17, 6, 4, 3.5
FIXED, PER_COPY, PER_MMA = 64, 2.5, 0.5  # as for the other products


def copies(kind: str, tile: dict[str, int], size: int, threads_per_warp: int) -> float:
    """16-byte loads per thread and step; for "nm decode" those of pairs and words of W, and of x, 4 bytes at a time."""
    if kind == "nm decode":
        size, elements = 4, 9 * tile["BLOCK_N"] * 8
    else:
        elements = tile["BLOCK_M"] * tile["BLOCK_R"]
    return elements * size / (16 * threads_per_warp * tile["warps"])


def instructions(kind: str, tile: dict[str, int], copied: float, products: int, synchronous: bool) -> float:
    """Of one step of a thread, without a margin."""
    threads = 32 * tile["warps"]
    if kind == "nm decode":
        least = tile["BLOCK_N"] * TILE * 16 / (16 * 8 * 16) / tile["warps"]  # mma.sync for 16 rows of x
        return DECODE * tile["BLOCK_N"] * TILE / threads + (1 + PER_MMA) * (products - least)
    weight = WEIGHT + PER_INDEX * tile["KEEP"] + PER_BYTE * (tile["SPAN"] - 1)
    fetched = products * (1 + PER_FETCH * synchronous)
    return FIXED + PER_COPY * copied + weight * tile["BLOCK_O"] * tile["BLOCK_R"] / threads + fetched
