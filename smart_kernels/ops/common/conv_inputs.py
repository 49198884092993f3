"""Checks of the inputs of all convolutions, and the forms they are brought into before a launch."""

from torch import Tensor

from smart_kernels.shapes import Conv


def nhwc(x: Tensor) -> Tensor:
    """Turn (B, C, H, W) into (B, H, W, C) contiguous; no copy of what is in channels_last."""
    return x.movedim(1, 3).contiguous()


def pixels(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """Turn (..., C, H, W) into (..., H', W', C), what a pointwise convolution reads: a view, without a copy."""
    height, width = stride
    return (x if stride == (1, 1) else x[..., ::height, ::width]).movedim(-3, -1)


def check_geometry(conv: Conv) -> None:
    """Raise ``ValueError`` unless there is such a convolution."""
    if any(len(p) != 2 for p in conv) or min(*conv.kernel, *conv.stride, *conv.dilation) < 1 or min(conv.padding) < 0:
        raise ValueError(f"kernel_size, stride, dilation must be positive pairs, padding not negative, got {conv}")
