"""Which pixels a convolution reads, for its kernels."""

from dataclasses import dataclass

import triton

from smart_kernels.shapes import Conv

Pair = tuple[int, int]


@dataclass(frozen=True)
class Walk:
    """Which pixels of x a pixel of y reads, along (height, width).

    A tap of y at ``up * i + phase`` reads x at ``down * i + (phase + offset + tap * step) / up``.
    """

    kernel: Pair
    up: Pair
    down: Pair
    offset: Pair
    step: Pair

    @classmethod
    def forward(cls, conv: Conv) -> "Walk":
        """Return the walk of a convolution from its input to its output."""
        ph, pw = conv.padding
        return cls(conv.kernel, (1, 1), conv.stride, (-ph, -pw), conv.dilation)

    @classmethod
    def transposed(cls, conv: Conv) -> "Walk":
        """Return the walk from its output to its input."""
        dh, dw = conv.dilation
        return cls(conv.kernel, conv.stride, (1, 1), conv.padding, (-dh, -dw))

    @property
    def phases(self) -> int:
        """The number of pixels of y, side by side, to which different taps belong."""
        return self.up[0] * self.up[1]

    def pixels(self, size: Pair) -> int:
        """Return the number of pixels of one image (height, width) that the largest phase has."""
        return triton.cdiv(size[0], self.up[0]) * triton.cdiv(size[1], self.up[1])

    def inside(self, x_size: Pair, y_size: Pair) -> bool:
        """Return whether no pixel of y reads beyond the edge of x."""
        if self.phases > 1:
            return False
        low = (self.offset[a] + min(0, (self.kernel[a] - 1) * self.step[a]) for a in (0, 1))
        high = (
            (y_size[a] - 1) * self.down[a] + self.offset[a] + max(0, (self.kernel[a] - 1) * self.step[a])
            for a in (0, 1)
        )
        return min(low) >= 0 and all(h < size for h, size in zip(high, x_size, strict=True))

    @property
    def constants(self) -> dict[str, int]:
        """The compile-time arguments of kernels whose pixels of y are all of one phase."""
        taps = {"KH": self.kernel[0], "KW": self.kernel[1]}
        return taps | _by_letter(DOWN=self.down, OFFSET=self.offset, STEP=self.step)

    @property
    def constants_of_phases(self) -> dict[str, int]:
        """The same and the number of phases."""
        return self.constants | _by_letter(UP=self.up)


def _by_letter(**pairs: Pair) -> dict[str, int]:
    return {f"{name}_{letter}": value for name, pair in pairs.items() for letter, value in zip("HW", pair, strict=True)}
