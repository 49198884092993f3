"""``block_sparse_conv1d``: the convolution of signals, whose weight is stored as block compressed sparse rows."""

from torch import Tensor

from .conv2d import block_sparse_conv2d


def block_sparse_conv1d(
    x: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    out_channels: int,
    activation: str | None = None,
    residual: Tensor | None = None,
    index: Tensor | None = None,
) -> Tensor:
    """Apply :func:`block_sparse_conv2d` to images one pixel high.

    Args:
        x: (B, C, L); the others as there.

    Returns:
        (B, N, L').

    Raises:
        ValueError: as there.
    """
    if x.dim() != 3:
        raise ValueError(f"x must be (B, C, L), got {tuple(x.shape)}")
    y = block_sparse_conv2d(
        x.unsqueeze(2), values, crow_indices, col_indices, bias,
        kernel_size=(1, kernel_size), stride=(1, stride), padding=(0, padding), dilation=(1, dilation),
        out_channels=out_channels, activation=activation,
        residual=None if residual is None else residual.unsqueeze(2), index=index,
    )  # fmt: skip
    return y.squeeze(2)
