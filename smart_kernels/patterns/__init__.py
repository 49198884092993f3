"""Sparsity patterns: tile x group x format."""

from .base import Pattern, WeightShape, check_pattern
from .block import Block
from .budget import allowed_weights, keep_best, keep_n
from .channel import Channel
from .nm import NM, VNM

PATTERNS: tuple[type[Pattern], ...] = (Block, Channel, NM, VNM)  # tests and benchmarks run over this

__all__ = [
    "NM",
    "PATTERNS",
    "VNM",
    "Block",
    "Channel",
    "Pattern",
    "WeightShape",
    "allowed_weights",
    "check_pattern",
    "keep_best",
    "keep_n",
    "parse",
]


def parse(text: str) -> Pattern:
    """Read a pattern as the command line writes it.

    Args:
        text: ``block:ROWSxCOLS``, ``block:ROWSxCOLS:all`` (all taps of a convolution), ``channel``, ``nm:N:M``,
            ``nm:2:4:transposable`` or ``vnm:V:N:M``.

    Raises:
        ValueError: for anything else.
    """
    name, *parts = text.split(":")
    try:
        if name == "block" and len(parts) in (1, 2):
            sizes = parts[0].split("x")
            if len(sizes) != 2:
                raise ValueError(f"a block must be ROWSxCOLS, such as 32x32, got {parts[0]!r}")
            return Block(*_integers(sizes), *parts[1:])
        if name == "nm" and len(parts) == 2:
            return NM(*_integers(parts))
        if name == "nm" and len(parts) == 3 and parts[2] == "transposable":
            return NM(*_integers(parts[:2]), transposable=True)
        if name == "vnm" and len(parts) == 3:
            return VNM(*_integers(parts))
        if name == "channel" and not parts:
            return Channel()
    except ValueError as error:
        raise ValueError(f"pattern {text!r}: {error}") from error
    raise ValueError(
        f"pattern must be block:ROWSxCOLS[:all], channel, nm:N:M[:transposable] or vnm:V:N:M, got {text!r}"
    )


def _integers(texts: list[str]) -> list[int]:
    for text in texts:
        if not text.removeprefix("-").isdecimal():
            raise ValueError(f"sizes must be whole numbers, got {text!r}")
    return [int(text) for text in texts]
