"""Values of a packed 2:4 matrix from a dense one, or from its packed transpose. No host synchronisation."""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.kernels.tensor_core.gather import sparse_gather_kernel
from smart_kernels.ops.common.launch import NOTHING, TENSOR, Launch, slot
from smart_kernels.ops.common.library import define
from smart_kernels.ops.common.nm import transpose
from smart_kernels.ops.common.plan import Planned
from smart_kernels.reference.common import nm as reference
from smart_kernels.shapes import groups_of

from . import packing


def _kept_reference(dense, metadata, kernel):
    N, K = dense.shape
    groups = groups_of(dense.shape[1], 4)
    columns = reference.columns_of(packing.restore_indices(metadata, N, groups), 2, 4, K)
    return packing.arrange(F.pad(dense, (0, -K % 4)).gather(1, columns), kernel)


def _turned_reference(weight, metadata, metadata_t, kernel, N, K):
    values = packing.restore(weight, kernel, N, K // 4)
    values_t, _ = reference.transpose(values, packing.restore_indices(metadata, N, K // 4), K)
    return packing.arrange(values_t, kernel)


def _fake(source, metadata, kernel):
    return source.new_empty(packing.arranged_shape(metadata, kernel))


def _fake_turned(weight, metadata, metadata_t, kernel, N, K):
    return weight.new_empty(packing.arranged_shape(metadata_t, kernel))


@define("sparse_tensor_kept", reference=_kept_reference, fake=_fake)
def kept(dense: Tensor, metadata: Tensor, kernel: str) -> Tensor:
    """Gather what a weight with this metadata holds of a (N, K) matrix, in the order of ``arrange``; 0 in the
    padding."""
    return _gathered((dense, NOTHING, metadata), (kernel, *dense.shape))


@define("sparse_tensor_turned", reference=_turned_reference, fake=_fake_turned)
def turned(weight: Tensor, metadata: Tensor, metadata_t: Tensor, kernel: str, N: int, K: int) -> Tensor:
    """Gather the values of W.T (K, N), in the order of ``arrange``, from those of W, where both are 2:4.

    Args:
        weight, metadata: of W (N, K), as ``pack`` makes them; N and K divisible by 4.
        metadata_t: of W.T, see ``turned_metadata``.
        kernel: of ``KERNELS``, the order of both.
    """
    return _gathered((weight, metadata, metadata_t), (kernel, K, N))


def turned_metadata(metadata: Tensor, N: int, K: int) -> Tensor:
    """Return the metadata of W.T (K, N) from that of W. It stays while only values change."""
    indices = packing.restore_indices(metadata, N, K // 4)
    return packing.arrange_indices(transpose(indices.new_zeros(N, K // 2), indices, K)[1], N // 4)


@Planned
def _gathered(source, source_metadata, metadata, kernel: str, rows: int, columns: int) -> Callable:
    """Plan the values, in the order of ``kernel``, of a (rows, columns) matrix: dense or, with its metadata, packed."""
    shape = packing.arranged_shape(metadata, kernel)
    new = functools.partial(torch.empty, shape, dtype=source.dtype, device=source.device)
    if not math.prod(shape):
        return lambda *tensors: new()
    packed = source_metadata is not NOTHING
    launch = Launch(
        sparse_gather_kernel, tuple(metadata.shape[:2]),
        TENSOR, slot(source_metadata), TENSOR, TENSOR,
        rows, columns, source_metadata.shape[1] if packed else 0,
        *((0, 0) if packed else source.stride()),
        PACKED=packed, FRAGMENTS=kernel != "wgmma_ss",
    )  # fmt: skip

    def run(*tensors):
        values = new()
        launch(*tensors, values)
        return values

    return run
