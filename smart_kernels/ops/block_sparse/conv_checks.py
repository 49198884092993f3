"""Checks of the arguments of ``block_sparse_conv2d`` and ``block_sparse_conv_transpose2d``."""

from torch import Tensor

from smart_kernels.ops.common.conv_inputs import check_geometry
from smart_kernels.ops.common.inputs import DTYPES
from smart_kernels.ops.common.plan import checked
from smart_kernels.reference.common.epilogue import check_activation
from smart_kernels.shapes import Conv

from .conv_blocks import ConvBlocks
from .stored import StoredBlocks


@checked
def check_conv(
    x: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    index: Tensor | None,
    activation: str | None,
    out_channels: int,
    conv: Conv,
    transposed: bool,
) -> None:
    """Raise ``ValueError`` unless the arguments fit; ``transposed`` if the convolution is."""
    check_activation(activation)
    if x.dim() != 4:
        raise ValueError(f"x must be (B, C, H, W), got {tuple(x.shape)}")
    check_geometry(conv)
    channels = (x.shape[1], out_channels) if transposed else (out_channels, x.shape[1])
    w = StoredBlocks(values, crow_indices, col_indices, index)
    w.check(channels[0], "rows of the weight", "tile_n, tile_c")
    size = (conv.input_size if transposed else conv.output_size)(*x.shape[2:])
    if min(size) < 1:
        raise ValueError(f"the output must have a pixel, got {size} for x {tuple(x.shape)} and {conv}")
    _check_epilogue(bias, residual, (x.shape[0], out_channels, *size))
    _check_alike((x, values, bias, residual), (crow_indices, col_indices))
    if index is not None:
        listed = ConvBlocks.of(len(values), values.shape[1:], channels, conv).sizes
        w.check_index(w.index_size(channels[1]) if conv.pointwise else sum(listed), "conv_index")


def _check_epilogue(bias: Tensor | None, residual: Tensor | None, shape: tuple[int, ...]) -> None:
    if bias is not None and bias.shape != (shape[1],):
        raise ValueError(f"bias must be (out_channels,) = ({shape[1]},), got {tuple(bias.shape)}")
    if residual is not None and residual.shape != shape:
        raise ValueError(f"residual must have the shape of the result, {shape}, got {tuple(residual.shape)}")


def _check_alike(floating: tuple[Tensor | None, ...], indices: tuple[Tensor, Tensor]) -> None:
    floating = [t for t in floating if t is not None]
    devices = [t.device for t in (*floating, *indices)]
    if any(device != devices[0] for device in devices):
        raise ValueError(f"all tensors must be on the device of x, got {[str(device) for device in devices]}")
    dtypes = [t.dtype for t in floating]
    if len(set(dtypes)) > 1 or dtypes[0] not in DTYPES:
        raise ValueError(f"x, values, bias and residual must share one of {DTYPES}, got {dtypes}")
