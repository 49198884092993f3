"""Sparsity patterns: tile, group and storage."""

from .base import Pattern, Storage, WeightShape, check_pattern
from .block import Block
from .budget import allowed_weights, keep_best, keep_n
from .channel import Channel
from .nm import NM, VNM

# by name, a line for each: ``parse``, the command line, tests and benchmarks know what stands here
PATTERNS: dict[str, type[Pattern]] = {
    Block.name: Block,
    Channel.name: Channel,
    NM.name: NM,
    VNM.name: VNM,
}

__all__ = [
    "NM",
    "PATTERNS",
    "VNM",
    "Block",
    "Channel",
    "Pattern",
    "Storage",
    "WeightShape",
    "allowed_weights",
    "check_pattern",
    "forms",
    "keep_best",
    "keep_n",
    "parse",
]


def parse(text: str) -> Pattern:
    """Read a pattern as the command line writes it: the text that ``str(pattern)`` gives, see ``forms()``.

    Raises:
        ValueError: the name is not in ``PATTERNS``, or what follows is not as that pattern is written.
    """
    name, *parts = text.split(":")
    if name not in PATTERNS:
        raise ValueError(f"pattern must be {forms()}, got {text!r}")
    try:
        return PATTERNS[name].parse(parts)
    except ValueError as error:
        raise ValueError(f"pattern {text!r}: {error}") from error


def forms() -> str:
    """Return how all patterns are written, for messages and help."""
    *most, last = (cls.form for cls in PATTERNS.values())
    return f"{', '.join(most)} or {last}"
