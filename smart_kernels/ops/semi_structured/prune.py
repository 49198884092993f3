"""``semi_structured_prune``: from a dense weight to the saved 2:4 form in one pass, of its transpose, too."""

from collections.abc import Callable

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.semi_structured.prune import prune_both_ways_kernel, prune_kernel
from smart_kernels.ops.common.inputs import DTYPES, contiguous
from smart_kernels.ops.common.launch import TENSOR, Launch, all_given, slot
from smart_kernels.ops.common.library import always, define
from smart_kernels.ops.common.plan import Planned
from smart_kernels.reference.semi_structured import prune as reference

ROWS, GROUPS = 16, 64  # of a program; 4 warps have 32 weights in each thread
BLOCKS = 16  # of 4x4 in both directions, one in each thread of 8 warps


def semi_structured_prune(
    weight: Tensor, scores: Tensor | None = None, *, transposable: bool = False
) -> tuple[Tensor, ...]:
    """Keep the two weights of largest score in every four of a row, saved as :func:`semi_structured_linear` reads them.

    Ties go to the first. W is read once, and nothing in between is stored. Not differentiable.

    Args:
        weight: (N, K) fp32, fp16, bf16 or fp64.
        scores: (N, K) floating, or None: magnitudes. NaN counts as infinite.
        transposable: keep two of every four in the columns, too: in each 4x4 block the mask of largest sum, where an
            infinite score counts 1e6. N and K are divisible by 4.

    Returns:
        values (N, 2 ceil(K / 4)) and indices (N, ceil(K / 8)) uint8; for ``transposable`` followed by those of W.T.

    Raises:
        ValueError: a shape, dtype or device does not fit.
    """
    if weight.dim() != 2 or weight.dtype not in DTYPES:
        raise ValueError(f"weight must be (N, K) of one of {DTYPES}, got {tuple(weight.shape)} {weight.dtype}")
    if scores is not None and (
        scores.shape != weight.shape or scores.device != weight.device or scores.dtype not in DTYPES
    ):
        raise ValueError(
            f"scores must be like weight {tuple(weight.shape)} on {weight.device}, floating, "
            f"got {tuple(scores.shape)} {scores.dtype} on {scores.device}"
        )
    if transposable and (weight.shape[0] % 4 or weight.shape[1] % 4):
        raise ValueError(f"transposable needs N and K divisible by 4, got {tuple(weight.shape)}")
    weight = weight.detach()
    scores = None if scores is None else scores.detach()
    return _prune_both_ways(weight, scores) if transposable else _prune(weight, scores)


def _empty(weight: Tensor, N: int, K: int) -> tuple[Tensor, Tensor]:
    return weight.new_empty(N, 2 * -(-K // 4)), weight.new_empty(N, -(-K // 8), dtype=torch.uint8)


def _fake(weight, scores):
    return _empty(weight, *weight.shape)


def _fake_both_ways(weight, scores):
    return *_empty(weight, *weight.shape), *_empty(weight, *weight.shape[::-1])


@define("semi_structured_prune", reference=reference.semi_structured_prune, fake=_fake, visible=always)
def _prune(weight: Tensor, scores: Tensor | None) -> tuple[Tensor, Tensor]:
    if _wide(weight, scores):
        return reference.semi_structured_prune(weight, scores)
    return _one_way(all_given(*contiguous(weight, scores)), ())


@Planned
def _one_way(weight, scores) -> Callable:
    N, K = weight.shape
    groups = -(-K // 4)
    if not N * groups:
        return lambda weight, scores: _empty(weight, N, K)
    launch = Launch(
        prune_kernel, (triton.cdiv(N, ROWS), triton.cdiv(groups, GROUPS)),
        TENSOR, slot(scores), TENSOR, TENSOR, N, K, groups, K, 2 * groups, -(-K // 8),
        BLOCK_N=ROWS, BLOCK_G=GROUPS, num_warps=4,
    )  # fmt: skip

    def run(weight, scores):
        saved = _empty(weight, N, K)
        launch(weight, scores, *saved)
        return saved

    return run


@define(
    "semi_structured_prune_both_ways",
    reference=reference.semi_structured_prune_both_ways,
    fake=_fake_both_ways,
    visible=always,
)
def _prune_both_ways(weight: Tensor, scores: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if _wide(weight, scores):
        return reference.semi_structured_prune_both_ways(weight, scores)
    return _both_ways(all_given(*contiguous(weight, scores)), ())


@Planned
def _both_ways(weight, scores) -> Callable:
    N, K = weight.shape
    if not N * K:
        return lambda weight, scores: (*_empty(weight, N, K), *_empty(weight, K, N))
    launch = Launch(
        prune_both_ways_kernel, (triton.cdiv(N, 4 * BLOCKS), triton.cdiv(K, 4 * BLOCKS)),
        TENSOR, slot(scores), TENSOR, TENSOR, TENSOR, TENSOR,
        N, K, K, K // 2, -(-K // 8), N // 2, -(-N // 8),
        BLOCK_N=BLOCKS, BLOCK_K=BLOCKS, num_warps=8,
    )  # fmt: skip

    def run(weight, scores):
        saved = *_empty(weight, N, K), *_empty(weight, K, N)
        launch(weight, scores, *saved)
        return saved

    return run


def _wide(*tensors: Tensor | None) -> bool:
    return torch.float64 in [t.dtype for t in tensors if t is not None]
