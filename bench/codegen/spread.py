"""How many instructions a step that spreads n:m weights out may have.

Per group, a derivation. Its index byte: address 6, load and shift 4; 4 per further byte. Each stored value:
address, load and mask 5, shift and mask of its index 2. Each place and stored value: comparison and select 2. Each
place: conversion and the way through shared memory 2. (Until the weights lay along the products, 3.5 per mma.sync to
fetch them in 2-byte pieces.)
"""

KIND = "nm"
INDEX = 10
PER_BYTE = 4
PER_VALUE = 7
PER_CHOICE = 2
PER_PLACE = 2
FIXED = 64  # this and the next two as for the other products
PER_COPY = 2.5
PER_MMA = 0.5


def copies(tile: dict[str, int], size: int, threads_per_warp: int) -> float:
    """Return 16-byte loads of x per thread and step."""
    return tile["BLOCK_M"] * _depth(tile) * size / (16 * threads_per_warp * tile["warps"])


def instructions(tile: dict[str, int], copied: float, products: int, synchronous: bool) -> float:
    """Return the instructions of one step of a thread, without a margin."""
    threads = 32 * tile["warps"]
    groups = tile.get("BLOCK_O", tile.get("BLOCK_N")) * _depth(tile) / tile["GROUP"] / threads
    fetched = products * (1 + PER_MMA * synchronous)
    return FIXED + PER_COPY * copied + groups * _group(tile) + fetched


def _group(tile: dict[str, int]) -> int:
    keep = tile["KEEP"]
    places = tile["GROUP"]
    index = INDEX + PER_BYTE * (tile["SPAN"] - 1)
    return index + PER_VALUE * keep + PER_CHOICE * keep * places + PER_PLACE * places


def _depth(tile: dict[str, int]) -> int:
    return tile.get("BLOCK_R", tile.get("BLOCK_K"))
