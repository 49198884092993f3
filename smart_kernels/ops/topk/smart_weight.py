"""``smart_weight``: a weight times its soft n:m mask, the solve of the groups included."""

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.topk.smart_weight import smart_weight_bwd_kernel, smart_weight_kernel
from smart_kernels.ops.common.library import define, differentiable
from smart_kernels.reference.topk import smart_weight as reference
from smart_kernels.reference.topk.soft_topk import UNDERFLOW

PROGRAM = 1024  # scores


def smart_weight(
    weight: Tensor, scores: Tensor, n: int, m: int, temperature: float, *, eps: float = 0.0, hard: bool = False
) -> Tensor:
    """Return ``weight * mask``, mask the ``soft_topk`` with keep = n of every m scores in a row, in one pass each way.

    Gradients are those of ``soft_topk`` and the product; for ``hard`` that of the scores is still the soft mask's
    (straight-through), at every weight.

    Args:
        weight: (R, C) fp32, fp16, bf16 or fp64.
        scores: (R, C) fp32 or fp64; a last group with fewer than m shares the same n.
        n, m: 0 < n < m <= 64.
        temperature: above 0.
        eps: in [0, 1); weights whose mask is at most this become 0 and get no gradient.
        hard: multiply by the mask of the n largest scores (ties by place) instead.

    Returns:
        (R, C), dtype of ``weight``.

    Raises:
        ValueError: a shape, device or value does not fit.
    """
    if weight.dim() != 2 or scores.shape != weight.shape or scores.device != weight.device:
        raise ValueError(
            f"scores must be like weight (R, C), got {tuple(scores.shape)} on {scores.device} "
            f"and {tuple(weight.shape)} on {weight.device}"
        )
    if not 0 < n < m <= 64 or not temperature > 0 or not 0 <= eps < 1:
        raise ValueError(
            f"smart_weight needs 0 < n < m <= 64, temperature > 0 and 0 <= eps < 1, got {n}:{m}, {temperature}, {eps}"
        )
    return _smart_weight(weight, scores, n, m, float(temperature), float(eps), hard)[0]


def _fake(weight, scores, n, m, *args):
    count = -(-weight.shape[1] // m)
    return torch.empty_like(weight), weight.new_empty(weight.shape[0], count, dtype=torch.float64)


def _fake_backward(dy, weight, scores, *args):
    return torch.empty_like(weight), torch.empty_like(scores)


@define("smart_weight", reference=reference.smart_weight, fake=_fake)
def _smart_weight(
    weight: Tensor, scores: Tensor, n: int, m: int, temperature: float, eps: float, hard: bool
) -> tuple[Tensor, Tensor]:
    if torch.float64 in (weight.dtype, scores.dtype) or not weight.numel():
        return reference.smart_weight(weight, scores, n, m, temperature, eps, hard)
    weight, scores = weight.contiguous(), scores.contiguous()
    count = -(-weight.shape[1] // m)
    y = torch.empty_like(weight)
    threshold = scores.new_empty(len(weight), count, dtype=torch.float64)
    grid, config = _config(threshold.numel(), weight.shape[1], m, hard)
    smart_weight_kernel[grid](
        weight, scores, y, threshold, threshold.numel(), weight.shape[1], count,
        temperature, 1 / temperature, eps, KEEP=n, GROUP=m, HARD=hard, **config,
    )  # fmt: skip
    return y, threshold


@define("smart_weight_backward", reference=reference.smart_weight_backward, fake=_fake_backward)
def _smart_weight_backward(
    dy: Tensor,
    weight: Tensor,
    scores: Tensor,
    threshold: Tensor,
    n: int,
    m: int,
    temperature: float,
    eps: float,
    hard: bool,
) -> tuple[Tensor, Tensor]:
    if torch.float64 in (weight.dtype, scores.dtype) or not weight.numel():
        return reference.smart_weight_backward(dy, weight, scores, threshold, n, m, temperature, eps, hard)
    dy, weight, scores = dy.contiguous(), weight.contiguous(), scores.contiguous()
    dweight, dscores = torch.empty_like(weight), torch.empty_like(scores)
    grid, config = _config(threshold.numel(), weight.shape[1], m, hard)
    smart_weight_bwd_kernel[grid](
        dy, weight, scores, threshold, dweight, dscores, threshold.numel(), weight.shape[1], threshold.shape[1],
        1 / temperature, eps, UNDERFLOW=UNDERFLOW, KEEP=n, GROUP=m, HARD=hard, **config,
    )  # fmt: skip
    return dweight, dscores


def _config(groups: int, columns: int, m: int, hard: bool) -> tuple[tuple[int], dict]:
    block = triton.next_power_of_2(m)
    block_g = PROGRAM // (2 * block if hard else block)  # every pair of a group is compared, each in a predicate
    config = {"FULL": block == m and columns % m == 0, "BLOCK_G": block_g, "BLOCK": block, "num_warps": 4}
    return (triton.cdiv(groups, block_g),), config


def _setup_context(ctx, inputs, output):
    # attributes, not save_for_backward: one masked weight may serve several backward calls
    weight, scores, *ctx.settings = inputs
    ctx.saved = weight.detach(), scores.detach(), output[1].detach()


def _backward(ctx, dy, dthreshold):
    dweight, dscores = _smart_weight_backward(dy, *ctx.saved, *ctx.settings)
    needs = ctx.needs_input_grad
    return dweight if needs[0] else None, dscores if needs[1] else None, *[None] * 5


differentiable(_smart_weight, _backward, _setup_context)
