"""Checks of the arguments of ``block_sparse_conv2d`` and ``block_sparse_conv_transpose2d``."""

import torch
from torch import Tensor

from smart_kernels.ops.common.conv_inputs import check_geometry
from smart_kernels.ops.common.inputs import DTYPES
from smart_kernels.shapes import Conv

from .conv_blocks import ConvBlocks


def check_conv(
    x: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    bias: Tensor | None,
    out_channels: int,
    conv: Conv,
    residual: Tensor | None = None,
    transposed: bool = False,
) -> None:
    """Raise ``ValueError`` unless the arguments fit."""
    if x.dim() != 4:
        raise ValueError(f"x must be (B, C, H, W), got {tuple(x.shape)}")
    check_geometry(conv)
    if values.dim() != 3 or 0 in values.shape[1:]:
        raise ValueError(f"values must be (nnz, tile_n, tile_c) with tiles of at least 1x1, got {tuple(values.shape)}")
    rows = x.shape[1] if transposed else out_channels
    expected = {"crow_indices": (-(-rows // values.shape[1]) + 1,), "col_indices": (len(values),)}
    for name, indices in (("crow_indices", crow_indices), ("col_indices", col_indices)):
        if indices.shape != expected[name] or indices.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"{name} must be {expected[name]} int32 or int64 for values {tuple(values.shape)} and {rows} rows of "
                f"the weight, got {tuple(indices.shape)} {indices.dtype}"
            )
    size = (conv.input_size if transposed else conv.output_size)(*x.shape[2:])
    if min(size) < 1:
        raise ValueError(f"the output must have a pixel, got {size} for x {tuple(x.shape)} and {conv}")
    if bias is not None and bias.shape != (out_channels,):
        raise ValueError(f"bias must be (out_channels,) = ({out_channels},), got {tuple(bias.shape)}")
    if residual is not None and residual.shape != (x.shape[0], out_channels, *size):
        expected_shape = (x.shape[0], out_channels, *size)
        raise ValueError(f"residual must have the shape of the result, {expected_shape}, got {tuple(residual.shape)}")
    _check_alike([t for t in (x, values, bias, residual) if t is not None], (crow_indices, col_indices))


def check_conv_index(
    index: Tensor | None,
    crow_indices: Tensor,
    col_indices: Tensor,
    values: Tensor,
    channels: tuple[int, int],
    conv: Conv,
) -> None:
    """Raise ``ValueError`` unless ``index`` has the size of one made of such indices."""
    if index is None:
        return
    size = sum(ConvBlocks.of(crow_indices, col_indices, values.shape[1:], channels, conv).sizes)
    if index.shape != (size,) or index.dtype != torch.int32 or index.device != values.device:
        raise ValueError(
            f"index must be ({size},) int32 on {values.device}, as conv_index makes it of these indices, got "
            f"{tuple(index.shape)} {index.dtype} on {index.device}"
        )


def _check_alike(floating: list[Tensor], indices: tuple[Tensor, ...]) -> None:
    if any(t.device != floating[0].device for t in (*floating, *indices)):
        devices = [str(t.device) for t in (*floating, *indices)]
        raise ValueError(f"all tensors must be on the device of x, got {devices}")
    dtypes = [t.dtype for t in floating]
    if len(set(dtypes)) > 1 or dtypes[0] not in DTYPES:
        raise ValueError(f"x, values, bias and residual must share one of {DTYPES}, got {dtypes}")
