"""y = conv2d(x, weight * mask) with one mask value per tile of weight.

Live blocks are packed as in ``masked_linear`` and convolved as in ``block_sparse_conv2d``; here is what is left to do.

    parts of a sum over pixels      +---+ +---+ +---+           dweight = mask * g
    of one live block               | 0 |+| 1 |+| 2 | = g  -->  dmask   = sum over the tile of g * weight
                                    +---+ +---+ +---+
"""

import triton
import triton.language as tl

from .linear import store_gradients


@triton.jit
def masked_grad_kernel(
    # tensors: inputs, then outputs; dweight and dmask start at 0 and are None where not needed
    g_ptr, weight_ptr, mask_ptr, threshold_ptr, temperature_ptr, end_ptr, cols_ptr, dweight_ptr, dmask_ptr,
    # sizes, block columns, tiles per group
    N, K, C, group_n, group_k,
    # strides; dweight is (N, K) and dmask (tile rows, tile columns, parts), both contiguous
    stride_wn, stride_wk, stride_maskn, stride_maskk, stride_tn, stride_tk,
    # scalars: blocks there is room for, parts of each g
    blocks, parts, eps,
    # compile-time
    TILE_N: tl.constexpr, TILES_N: tl.constexpr, STRIDE_N: tl.constexpr, PARTS_N: tl.constexpr, BLOCK_N: tl.constexpr,
    TILE_K: tl.constexpr, TILES_K: tl.constexpr, STRIDE_K: tl.constexpr, PARTS_K: tl.constexpr, BLOCK_K: tl.constexpr,
    PER_TILE_N: tl.constexpr, PER_TILE_K: tl.constexpr,
    EVEN_N: tl.constexpr, EVEN_K: tl.constexpr, DEAD_GRAD: tl.constexpr,
):
    slot = tl.program_id(0)
    row = slot // C
    if slot < tl.load(end_ptr + row):
        col = tl.load(cols_ptr + slot)
        g_p = g_ptr + slot.to(tl.int64) * (BLOCK_N * BLOCK_K)
        g_p += tl.arange(0, BLOCK_N)[:, None] * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
        g = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
        for _ in range(parts):
            g += tl.load(g_p)
            g_p += blocks.to(tl.int64) * (BLOCK_N * BLOCK_K)
        store_gradients(
            g, row, col, None,
            weight_ptr, mask_ptr, threshold_ptr, temperature_ptr, dweight_ptr, dmask_ptr,
            N, K, group_n, group_k,
            stride_wn, stride_wk, stride_maskn, stride_maskk, stride_tn, stride_tk,
            eps,
            TILE_N, TILES_N, STRIDE_N, PARTS_N, BLOCK_N,
            TILE_K, TILES_K, STRIDE_K, PARTS_K, BLOCK_K,
            PER_TILE_N, PER_TILE_K, EVEN_N, EVEN_K, DEAD_GRAD, 1,
        )
