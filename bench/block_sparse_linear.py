"""block_sparse_linear (inference, and fine-tuning the stored blocks) against dense and the block-sparse peers."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.ops import block_sparse_linear
from smart_kernels.ops.block_sparse import block_index

from .case import Case, Shape
from .linear import Provider, dense, expand, linear_cases, random_mask
from .peers import peers

BLOCKS = ((64, 64), (32, 32), (16, 16), (128, 128), (128, 8))
TALL = (
    (128, 16),
    (64, 16),
    (128, 32),
    (256, 16),
)  # for tensor cores: the height of the first, the budget of the others
SPARSITIES = (0.5, 0.8, 0.9, 0.95)


def blocks_for(device: str) -> tuple[tuple[int, int], ...]:
    """Return the blocks to time on a device."""
    return BLOCKS + TALL if device == "cuda" else BLOCKS


def cases(
    device: str, dtype: torch.dtype, shapes: Sequence[Shape], blocks: Sequence[tuple[int, int]] | None = None
) -> Iterator[Case]:
    """Yield every provider of each shape, block and sparsity; blocks are those for the device if none are given."""
    blocks = blocks_for(device) if blocks is None else blocks
    for shape in shapes:
        x = torch.randn(shape.M, shape.K, device=device, dtype=dtype)
        weight = torch.randn(shape.N, shape.K, device=device, dtype=dtype).div_(shape.K**0.5)
        for block in blocks:
            for sparsity in SPARSITIES:
                mask = random_mask(shape, block, sparsity, device)
                providers = _providers(shape, x, weight * expand(mask, block, shape).to(dtype), mask, block)
                yield from linear_cases("block_sparse_linear", shape, block, sparsity, providers)


def _providers(shape: Shape, x: Tensor, weight: Tensor, mask: Tensor, block: tuple[int, int]) -> list[Provider]:
    values, crow, col = to_bsr(weight, mask, block)
    index = block_index(crow, col, mask.shape[1])  # lasts until the mask changes, as in the BSR format

    def ours(x: Tensor, values: Tensor) -> Tensor:
        return block_sparse_linear(x, values, crow, col, out_features=shape.N, index=index)

    def definition(x: Tensor, values: Tensor) -> Tensor:
        return F.linear(x, to_dense(values, mask, block, shape))

    mine = Provider(
        "block_sparse_linear", ours, (x, values), definition, mask.mean().item(), ("fwd", "step"), tile=block
    )
    return [*dense(weight, x, ("fwd", "step")), *peers(weight, block, x), mine]


def to_bsr(weight: Tensor, mask: Tensor, block: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Turn (N, K) and 0/1 per block into values (nnz, bn, bk), crow_indices, col_indices; zeros beyond the edges."""
    rows, cols = mask.shape
    pad = (0, cols * block[1] - weight.shape[1], 0, rows * block[0] - weight.shape[0])
    blocks = F.pad(weight, pad).view(rows, block[0], cols, block[1]).transpose(1, 2)
    crow = F.pad(mask.sum(1).long().cumsum(0), (1, 0)).int()
    row, col = mask.nonzero(as_tuple=True)
    return blocks[row, col].contiguous(), crow, col.int()


def to_dense(values: Tensor, mask: Tensor, block: tuple[int, int], shape: Shape) -> Tensor:
    """Undo :func:`to_bsr`."""
    rows, cols = mask.shape
    blocks = values.new_zeros(rows * cols, *block).index_copy(0, mask.flatten().nonzero()[:, 0], values)
    full = blocks.view(rows, cols, *block).transpose(1, 2).reshape(rows * block[0], cols * block[1])
    return full[: shape.N, : shape.K]
