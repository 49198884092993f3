"""``smart_weight``: a weight times its soft n:m mask, the solve of the groups included."""

import functools
from collections.abc import Callable

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.topk.smart_weight import smart_weight_bwd_kernel, smart_weight_kernel
from smart_kernels.ops.common.inputs import temperature_of
from smart_kernels.ops.common.launch import TENSOR, Launch
from smart_kernels.ops.common.library import always, define, differentiable
from smart_kernels.ops.common.plan import Planned
from smart_kernels.reference.topk import smart_weight as reference
from smart_kernels.reference.topk.soft_topk import UNDERFLOW

PROGRAM = 1024  # scores


def smart_weight(
    weight: Tensor,
    scores: Tensor,
    n: int,
    m: int,
    temperature: float | Tensor,
    *,
    eps: float = 0.0,
    hard: bool = False,
) -> Tensor:
    """Return ``weight * mask``, mask the ``soft_topk`` with keep = n of every m scores in a row, in one pass each way.

    Gradients are those of ``soft_topk`` and the product; for ``hard`` that of the scores is still the soft mask's
    (straight-through), at every weight.

    Args:
        weight: (R, C) fp32, fp16, bf16 or fp64.
        scores: (R, C) fp32 or fp64; a last group with fewer than m shares the same n.
        n, m: 0 < n < m <= 64.
        temperature: float or 0-d tensor, above 0; a compiled graph or a CUDA graph takes it from the tensor each time.
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
    if not 0 < n < m <= 64 or not 0 <= eps < 1:
        raise ValueError(f"smart_weight needs 0 < n < m <= 64 and 0 <= eps < 1, got {n}:{m}, {eps}")
    return _smart_weight(weight, scores, temperature_of(temperature, scores), n, m, float(eps), hard)[0]


def _fake(weight, scores, temperature, n, m, *args):
    count = -(-weight.shape[1] // m)
    return torch.empty_like(weight), weight.new_empty(weight.shape[0], count, dtype=torch.float64)


def _fake_backward(dy, weight, scores, *args):
    return torch.empty_like(weight), torch.empty_like(scores)


@define("smart_weight", reference=reference.smart_weight, fake=_fake, visible=always)
def _smart_weight(
    weight: Tensor, scores: Tensor, temperature: Tensor, n: int, m: int, eps: float, hard: bool
) -> tuple[Tensor, Tensor]:
    if torch.float64 in (weight.dtype, scores.dtype) or not weight.numel():
        return reference.smart_weight(weight, scores, temperature, n, m, eps, hard)
    return _forward((weight.contiguous(), scores.contiguous(), temperature), (n, m, eps, hard))


@Planned
def _forward(weight, scores, temperature, n: int, m: int, eps: float, hard: bool) -> Callable:
    rows, columns = weight.shape
    count = -(-columns // m)
    grid, config = _config(rows * count, columns, m, hard)
    launch = Launch(
        smart_weight_kernel, grid, *[TENSOR] * 5, rows * count, columns, count, eps,
        KEEP=n, GROUP=m, HARD=hard, **config,
    )  # fmt: skip
    new_threshold = functools.partial(torch.empty, (rows, count), dtype=torch.float64, device=scores.device)

    def run(weight, scores, temperature):
        y = torch.empty_like(weight)
        threshold = new_threshold()
        launch(weight, scores, temperature, y, threshold)
        return y, threshold

    return run


@define("smart_weight_backward", reference=reference.smart_weight_backward, fake=_fake_backward, visible=always)
def _smart_weight_backward(
    dy: Tensor,
    weight: Tensor,
    scores: Tensor,
    threshold: Tensor,
    temperature: Tensor,
    n: int,
    m: int,
    eps: float,
    hard: bool,
) -> tuple[Tensor, Tensor]:
    if torch.float64 in (weight.dtype, scores.dtype) or not weight.numel():
        return reference.smart_weight_backward(dy, weight, scores, threshold, temperature, n, m, eps, hard)
    tensors = (dy.contiguous(), weight.contiguous(), scores.contiguous(), threshold, temperature)
    return _gradients(tensors, (n, m, eps, hard))


@Planned
def _gradients(dy, weight, scores, threshold, temperature, n: int, m: int, eps: float, hard: bool) -> Callable:
    count = threshold.shape[1]
    columns = weight.shape[1]
    grid, config = _config(threshold.numel(), columns, m, hard)
    launch = Launch(
        smart_weight_bwd_kernel, grid, *[TENSOR] * 7, threshold.numel(), columns, count, eps,
        UNDERFLOW=UNDERFLOW, KEEP=n, GROUP=m, HARD=hard, **config,
    )  # fmt: skip

    def run(dy, weight, scores, threshold, temperature):
        dweight = torch.empty_like(weight)
        dscores = torch.empty_like(scores)
        launch(dy, weight, scores, threshold, temperature, dweight, dscores)
        return dweight, dscores

    return run


def _config(groups: int, columns: int, m: int, hard: bool) -> tuple[tuple[int], dict]:
    block = triton.next_power_of_2(m)
    block_g = PROGRAM // (2 * block if hard else block)  # every pair of a group is compared, each in a predicate
    config = {"FULL": block == m and columns % m == 0, "BLOCK_G": block_g, "BLOCK": block, "num_warps": 4}
    return (triton.cdiv(groups, block_g),), config


def _setup_context(ctx, inputs, output):
    # attributes, not save_for_backward: one masked weight may serve several backward calls
    weight, scores, temperature, *ctx.settings = inputs
    ctx.set_materialize_grads(False)  # nobody differentiates the threshold
    ctx.saved = weight.detach(), scores.detach(), output[1].detach(), temperature


def _backward(ctx, dy, dthreshold):
    if dy is None:
        return (None,) * 7
    dweight, dscores = _smart_weight_backward(dy, *ctx.saved, *ctx.settings)
    needs = ctx.needs_input_grad
    return dweight if needs[0] else None, dscores if needs[1] else None, *[None] * 5


differentiable(_smart_weight, _backward, _setup_context)
