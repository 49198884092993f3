import torch
import triton
from torch import Tensor

from smart_kernels.kernels.soft_topk_large import soft_topk_mask_kernel, soft_topk_pass_kernel, soft_topk_range_kernel
from smart_kernels.kernels.soft_topk_small import soft_topk_small_bwd_kernel, soft_topk_small_fwd_kernel
from smart_kernels.ops._library import define
from smart_kernels.reference import soft_topk as reference

SMALL = 4096  # the largest group that one program solves in registers
BLOCK = 512  # scores at a time in a program of a large group
CANDIDATES = (4, 4, *[16] * 10)  # thresholds tried per pass; see kernels/soft_topk_large.py for the guarantee


def soft_topk(
    scores: Tensor, keep: float, temperature: float, cost: Tensor | None = None, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``mask = sigmoid((scores - threshold) / temperature)`` with ``sum(cost * mask) = keep`` in every group.

    A group is the last dimension. Both results are differentiable in ``scores``, with the exact Jacobian
    ``d threshold / d scores = cost v / sum(cost v)``, ``v = mask (1 - mask)``; it is 0 where all v underflow. The graph
    may be run backward several times. The budget holds to 1e-5 for ``temperature >= 1e-3``; below, order still does.

    Equal scores get equal masks. Scores of +inf and -inf are pinned to 1 and 0 and the others share what is left; if
    that is nothing (or enough for all) they get exactly 0 (1) and the threshold is +inf (-inf). So do ``keep = 0`` and
    ``keep = sum(cost)``. A NaN makes the mask and the threshold of its group NaN. On a GPU nothing waits for the host,
    and the number of launches depends on the shape alone.

    Args:
        scores: (..., n) floating point; solved in fp32, float64 in float64.
        keep: between 0 and sum(cost); beyond sum(cost) everything is kept.
        temperature: above 0.
        cost: (n,) or (..., n) positive weight of each score in the budget; ``None`` means 1 each.
        start: (...) guess of the threshold, such as the last one; not finite or out of reach is ignored.

    Returns:
        mask (..., n), fp32 or float64, and threshold (...), always float64.

    Raises:
        ValueError: a shape, dtype or device that does not fit, ``keep`` or ``temperature`` out of range.

    Source: SMART, arXiv 2403.19969, section 3 (operator); Jacobian by implicit differentiation.
    """
    _check(scores, keep, temperature, cost, start)
    *groups, n = scores.shape
    exact = scores if scores.dtype == torch.float64 else scores.float()
    if cost is not None:
        cost = cost.detach().to(exact.dtype).reshape(-1, n)
    if start is not None:
        start = start.detach().double().reshape(-1)
    mask, threshold = _soft_topk(exact.reshape(-1, n), float(keep), float(temperature), cost, start)
    return mask.view(scores.shape), threshold.view(groups)


def _check(scores: Tensor, keep: float, temperature: float, cost: Tensor | None, start: Tensor | None) -> None:
    if not scores.is_floating_point() or scores.dim() == 0 or scores.shape[-1] == 0:
        raise ValueError(f"scores must be floating point (..., n >= 1), got {scores.dtype} {tuple(scores.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    n = scores.shape[-1]
    if not 0 <= keep <= (n if cost is None else float("inf")):
        raise ValueError(f"keep must be between 0 and the total cost of {n} scores, got {keep}")
    if cost is not None and cost.shape not in ((n,), scores.shape):
        raise ValueError(f"cost must be ({n},) or {tuple(scores.shape)} like scores, got {tuple(cost.shape)}")
    if start is not None and start.shape != scores.shape[:-1]:
        raise ValueError(f"start must be {tuple(scores.shape[:-1])}, one per group, got {tuple(start.shape)}")
    for name, tensor in (("cost", cost), ("start", start)):
        if tensor is not None and tensor.device != scores.device:
            raise ValueError(f"{name} must be on the device of scores, {scores.device}, got {tensor.device}")


def _shapes(
    scores: Tensor, keep: float, temperature: float, cost: Tensor | None = None, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return scores.new_empty(scores.shape), scores.new_empty(scores.shape[0], dtype=torch.float64)


@define("soft_topk", reference=reference.soft_topk, fake=_shapes)
def _soft_topk(
    scores: Tensor, keep: float, temperature: float, cost: Tensor | None = None, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    if scores.dtype == torch.float64:
        return reference.soft_topk(scores, keep, temperature, cost, start)
    launch = launch_small if scores.shape[1] <= SMALL else launch_large
    return launch(scores.contiguous(), keep, temperature, cost, start)


def launch_small(
    scores: Tensor, keep: float, temperature: float, cost: Tensor | None, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    mask, threshold = _shapes(scores, keep, temperature)
    G, n = scores.shape
    grid, config = _small_grid(G, n)
    cost, stride_cg = _rows(cost)
    if G > 0:
        soft_topk_small_fwd_kernel[grid](
            scores, cost, start, mask, threshold, G, n, stride_cg, keep, temperature, 1 / temperature, **config
        )
    return mask, threshold


def launch_large(
    scores: Tensor, keep: float, temperature: float, cost: Tensor | None, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    mask, threshold = _shapes(scores, keep, temperature)
    G, n = scores.shape
    # every program adds up the partials of all: enough of them to fill the machine, no more
    programs = min(triton.cdiv(n, BLOCK), max(1, min(256, 2048 // max(G, 1))))
    partial = scores.new_empty(2, G, programs, 2, max(CANDIDATES), dtype=torch.float64)
    state = scores.new_empty(2, G, 3, dtype=torch.float64)
    cost, stride_cg = _rows(cost)
    solve = (keep, temperature, 1 / temperature)
    config = {"BLOCK": BLOCK, "num_warps": 8}
    reduce = {"BLOCK_P": triton.next_power_of_2(programs)}
    if G > 0:
        grid = (programs, G)
        soft_topk_range_kernel[grid](scores, cost, partial, n, stride_cg, **config)
        for turn, (before, now) in enumerate(zip((0, *CANDIDATES), CANDIDATES, strict=False)):
            soft_topk_pass_kernel[grid](
                *(scores, cost, start, partial, state, G, n, stride_cg, *solve, turn),
                BEFORE=before, CANDIDATES=now, **reduce, **config,
            )  # fmt: skip
        soft_topk_mask_kernel[grid](
            *(scores, partial, state, mask, threshold, G, n, *solve, len(CANDIDATES)),
            BEFORE=CANDIDATES[-1], **reduce, **config,
        )  # fmt: skip
    return mask, threshold


def _small_grid(G: int, n: int) -> tuple[tuple[int], dict[str, int]]:
    block_n = triton.next_power_of_2(n)
    block_g = max(1, 1024 // block_n)
    config = {"FULL": n == block_n, "BLOCK_G": block_g, "BLOCK_N": block_n, "num_warps": 4 if block_n <= 2048 else 8}
    return (triton.cdiv(G, block_g),), config


def _rows(cost: Tensor | None) -> tuple[Tensor | None, int]:
    """Contiguous cost and the distance of its rows; 0 where all groups share one."""
    if cost is None:
        return None, 0
    return cost.contiguous(), cost.shape[1] if cost.shape[0] > 1 else 0


@define("soft_topk_backward", reference=reference.soft_topk_backward)
def _soft_topk_backward(
    dmask: Tensor, dthreshold: Tensor, mask: Tensor, cost: Tensor | None, temperature: float
) -> Tensor:
    G, n = mask.shape
    if mask.dtype == torch.float64 or n > SMALL or G == 0:
        return reference.soft_topk_backward(dmask, dthreshold, mask, cost, temperature)
    dscores = torch.empty_like(mask)
    grid, config = _small_grid(G, n)
    cost, stride_cg = _rows(cost)
    soft_topk_small_bwd_kernel[grid](
        *(dmask.contiguous(), dthreshold.contiguous(), mask, cost, dscores, G, n, stride_cg, temperature, 1 / temperature),
        UNDERFLOW=reference.UNDERFLOW, **config,
    )  # fmt: skip
    return dscores


def _setup_context(ctx, inputs, output):
    # attributes, not save_for_backward: one mask serves all micro-batches of a step, each with its own backward
    _, _, ctx.temperature, ctx.cost, _ = inputs
    ctx.mask = output[0].detach()


def _backward(ctx, dmask, dthreshold):
    return _soft_topk_backward(dmask, dthreshold, ctx.mask, ctx.cost, ctx.temperature), None, None, None, None


_soft_topk.register_autograd(_backward, setup_context=_setup_context)
