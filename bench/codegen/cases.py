"""The cases of the census by name: each is one public call, so every kernel behind it is compiled."""

from collections.abc import Callable
from functools import partial

import torch

from . import calls, convs, sparse

CASES: dict[str, Callable[[], None]] = {
    "soft_topk 262144x4": partial(calls.topk, 262144, 4),
    "soft_topk 64x4096": partial(calls.topk, 64, 4096),
    "soft_topk 1x1000000 cost": partial(calls.topk, 1, 1_000_000, weighted=True),
    "soft_topk of 24 layers": partial(calls.topk_of_layers, *[4096] * 24),
    "soft_topk of 24 large layers": partial(calls.topk_of_layers, *[4096, 16384] * 12),
    "masked_linear 64x64 bf16": partial(calls.masked, (64, 64)),
    "masked_linear 128x128 bf16": partial(calls.masked, (128, 128)),
    "masked_linear 32x32 bf16": partial(calls.masked, (32, 32)),
    "masked_linear 24x40 bf16": partial(calls.masked, (24, 40)),
    "masked_linear 1x1 bf16": partial(calls.masked, (1, 1)),
    "masked_linear 64x64 fp32": partial(calls.masked, (64, 64), dtype="fp32"),
    "masked_linear 64x64 fp32 as tf32": partial(calls.tf32, partial(calls.masked, (64, 64), dtype="fp32")),
    "prepared_linear 64x64 bf16": partial(calls.prepared, (64, 64)),
    "prepared_linear 32x32 bf16": partial(calls.prepared, (32, 32)),
    "prepared_linear 128x128 bf16": partial(calls.prepared, (128, 128)),
    "prepared_linear 24x40 bf16": partial(calls.prepared, (24, 40)),
    "prepared_linear 8x4 bf16": partial(calls.prepared, (8, 4)),
    "smart_linear 64x64 bf16": partial(calls.smart, (64, 64)),
    "smart_linear 1x1 bf16": partial(calls.smart, (1, 1)),
    "block_sparse_linear 64x64 bf16": partial(calls.blocks, (64, 64)),
    "block_sparse_linear 64x64 ragged bf16": partial(calls.blocks, (64, 64), N=1008, K=1024),
    "block_sparse_linear 128x128 bf16": partial(calls.blocks, (128, 128), activation="gelu"),
    "block_sparse_linear 256x128 bf16": partial(calls.blocks, (256, 128), activation="silu", out_dtype=torch.float32),
    "block_sparse_linear 256x128 bf16 to fp16": partial(
        calls.blocks, (256, 128), activation="gelu", out_dtype=torch.float16
    ),
    "block_sparse_linear 64x64 bf16 gelu": partial(calls.blocks, (64, 64), activation="gelu", out_dtype=torch.bfloat16),
    "block_sparse_linear 16x16 bf16": partial(calls.blocks, (16, 16)),
    "block_sparse_linear 64x64 fp16": partial(calls.blocks, (64, 64), dtype="fp16"),
    "block_sparse_linear 128x128 fp32": partial(calls.blocks, (128, 128), dtype="fp32"),
    "block_sparse_linear 32x32 bf16": partial(calls.blocks, (32, 32)),
    "block_sparse_linear 128x8 bf16": partial(calls.inference, (128, 8), 4096),
    "block_sparse_linear 128x16 bf16": partial(calls.inference, (128, 16), 4096),
    "block_sparse_linear 128x16 fp32 as tf32": partial(
        calls.tf32, partial(calls.inference, (128, 16), 4096, dtype="fp32")
    ),
    "block_sparse_linear 128x32 fp16 gelu": partial(calls.inference, (128, 32), 4096, dtype="fp16", activation="gelu"),
    "block_sparse_linear 64x16 bf16": partial(calls.blocks, (64, 16), activation="gelu"),
    "block_sparse_linear 256x16 bf16": partial(calls.inference, (256, 16), 4096),
    "block_sparse_linear 128x128 bf16 bias gelu": partial(calls.inference, (128, 128), 4096, activation="gelu"),
    "block_sparse_linear 128x128 fp8": partial(calls.fp8, (128, 128), per_block=False),
    "block_sparse_linear 64x64 fp8 per block": partial(calls.fp8, (64, 64), per_block=True),
    "block_sparse_linear 24x40 bf16": partial(calls.inference, (24, 40), 4096),
    "decode 16 rows 64x64 bf16": partial(calls.inference, (64, 64), 16, N=1024, K=8192),
    "decode 1 row 16x64 bf16": partial(calls.inference, (16, 64), 1),
    "decode 16 rows 16x16 bf16": partial(calls.inference, (16, 16), 16),
    "decode 16 rows 128x8 bf16": partial(calls.inference, (128, 8), 16),
    "decode 16 rows 24x40 bf16": partial(calls.inference, (24, 40), 16),
    "decode 64 rows 128x128 bf16": partial(calls.inference, (128, 128), 64),
    "semi_structured_linear 2:4 M=16 bf16": partial(calls.semi, 16),
    "semi_structured_linear 2:4 M=4096 bf16": partial(calls.semi, 4096, transposable=True),
    "semi_structured_linear 4:8 M=4096 bf16": partial(calls.semi, 4096, (4, 8)),
    "semi_structured_prune bf16": partial(calls.prune, "bf16"),
    "semi_structured_prune fp32 scores": partial(calls.prune, "fp32", scored=True),
    "sparse_tensor gather bf16": partial(calls.gather, "mma"),
    "sparse_tensor gather rows bf16": partial(calls.gather, "wgmma_ss"),
    "smart_weight 2:4": partial(calls.soft_weight, 4),
    "smart_weight 2:8 hard": partial(calls.soft_weight, 8, hard=True),
    "block_sparse_conv2d 128x64 bf16": partial(convs.conv, (128, 64)),
    "block_sparse_conv2d 128x64 interior bf16": partial(convs.conv, (128, 64), padding=0),
    "block_sparse_conv2d 128x128 bf16": partial(convs.conv, (128, 128)),
    "block_sparse_conv2d 64x64 stride 2 bf16": partial(convs.conv, (64, 64), stride=2),
    "block_sparse_conv2d 32x32 bf16": partial(convs.conv, (32, 32)),
    "block_sparse_conv1d 32x32 bf16": partial(convs.conv1d, (32, 32)),
    "semi_structured_conv2d 2:4 bf16": convs.semi_conv,
    "semi_structured_conv2d 2:4 interior stride 2 fp16": partial(convs.semi_conv, padding=0, stride=2, dtype="fp16"),
    "semi_structured_conv2d 4:8 bf16": partial(convs.semi_conv, (4, 8)),
    "semi_structured_conv2d 2:4 40 channels bf16": partial(convs.semi_conv, channels=40),
    "semi_structured_conv2d 2:4 fp32": partial(convs.semi_conv, dtype="fp32"),
    "semi_structured_conv2d 2:4 fp32 as tf32": partial(calls.tf32, partial(convs.semi_conv, dtype="fp32")),
    "masked_conv2d 128x64 bf16": partial(convs.masked_conv, (128, 64)),
    "masked_conv2d 32x32 bf16": partial(convs.masked_conv, (32, 32)),
}
CASES |= sparse.CASES
