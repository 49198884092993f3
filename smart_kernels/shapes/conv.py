"""Geometry of a convolution."""

from collections.abc import Sequence
from typing import NamedTuple


class Conv(NamedTuple):
    """Geometry of a convolution, each entry (height, width)."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, numbers: Sequence[int]) -> "Conv":
        """Read the eight numbers that operators take: kh, kw, sh, sw, ph, pw, dh, dw."""
        return cls(*zip(numbers[::2], numbers[1::2], strict=True))

    @property
    def numbers(self) -> list[int]:
        """Return the numbers that ``of`` reads."""
        return [number for pair in self for number in pair]

    @property
    def named(self) -> dict[str, tuple[int, int]]:
        """Keyword arguments of the operators."""
        return dict(zip(("kernel_size", "stride", "padding", "dilation"), self, strict=True))

    @property
    def taps(self) -> int:
        """Kernel positions."""
        return self.kernel[0] * self.kernel[1]

    @property
    def pointwise(self) -> bool:
        """A linear layer over pixels."""
        return self.kernel == (1, 1) and self.padding == (0, 0)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) of the output."""
        sizes = zip((height, width), *self, strict=True)
        return tuple((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in sizes)

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the smallest (height, width) whose ``output_size`` this is."""
        sizes = zip((height, width), *self, strict=True)
        return tuple((size - 1) * s - 2 * p + d * (k - 1) + 1 for size, k, s, p, d in sizes)


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of a size that is given as one number where both are the same."""
    return (size, size) if isinstance(size, int) else tuple(size)
