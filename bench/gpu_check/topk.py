"""soft_topk: mask, budget and exact Jacobian against float64, from pairs to a million scores."""

from collections.abc import Iterator
from functools import partial

import torch

from smart_kernels.ops import soft_topk

from .check import Check, Context, poisoned, relative_error

GROUPS = ((4096, 4), (1000, 33), (64, 4096), (3, 100_003), (1, 1_000_000))
SMALL_GROUPS = ((8, 4), (3, 65), (1, 5000))
LAYERS = ((4096, 1, 333), (100_003, 4096, 7))  # scores of layers that are solved together
SMALL_LAYERS = ((33, 1, 60), (5000, 33))
TEMPERATURES = (1.0, 0.05, 1e-3)
BUDGET = 1e-5  # |sum(cost * mask) - keep| / keep


def cases(context: Context) -> Iterator[Check]:
    """Yield every size of groups and temperature, with costs and without."""
    for groups, n in SMALL_GROUPS if context.small else GROUPS:
        for temperature in TEMPERATURES:
            for weighted in (False, True):
                name = f"soft_topk {groups}x{n} temperature {temperature:g}{' cost' if weighted else ''}"
                check = partial(run, context.device, groups, n, temperature, weighted)
                yield Check(name, check, family="soft_topk", covers=f"{groups}x{n}")
    for sizes in SMALL_LAYERS if context.small else LAYERS:
        for temperature in TEMPERATURES:
            check = partial(of_layers, context.device, sizes, temperature)
            name = f"soft_topk of layers up to {max(sizes)} temperature {temperature:g}"
            yield Check(name, check, family="soft_topk", covers=f"layers {max(sizes)}")


def of_layers(device: str, sizes: tuple[int, ...], temperature: float) -> dict:
    """Check groups of different sizes, with budgets of their own: each is what it is alone."""
    scores = torch.randn(sum(sizes), device=device, requires_grad=True)
    keep = torch.tensor([0.3 * n for n in sizes], device=device, dtype=torch.float64)
    at = torch.tensor(temperature, device=device, dtype=torch.float64)
    dmask = torch.randn_like(scores)
    with poisoned():
        mask, _ = soft_topk(scores, keep, at, sizes=sizes)
        (dscores,) = torch.autograd.grad(mask, scores, dmask)
    errors = []
    for s, m, d, got, k in zip(*(t.split(sizes) for t in (scores, mask, dmask, dscores)), keep, strict=True):
        one = s.detach()[None].requires_grad_()
        alone, _ = soft_topk(one, k.item(), temperature)
        (expected,) = torch.autograd.grad(alone, one, d[None])
        errors += [relative_error(m.detach(), alone[0].detach()), relative_error(got, expected[0])]
    return {"ok": max(errors) <= 1e-4, "errors": errors}


def run(device: str, groups: int, n: int, temperature: float, weighted: bool) -> dict:
    """Check the mask, the budget and the gradient of the scores."""
    scores = torch.randn(groups, n, device=device, requires_grad=True)
    cost = torch.randint(1, 5, (n,), device=device).float() if weighted else torch.ones(n, device=device)
    keep = 0.3 * cost.sum().item()
    dmask = torch.randn(groups, n, device=device)
    with poisoned():
        mask, threshold = soft_topk(scores, keep, temperature, cost if weighted else None)
        (dscores,) = torch.autograd.grad(mask, scores, dmask)
    exact = solve(scores.detach().double(), keep, temperature, cost.double())
    total = (mask.double() * cost).sum(-1)
    budget = ((total - keep).abs().max() / keep).item()
    v = exact * (1 - exact)
    weights = cost * v / (cost * v).sum(-1, keepdim=True).clamp_min(1e-300)
    expected = v * dmask / temperature - weights * (v * dmask).sum(-1, keepdim=True) / temperature
    scale = (v * dmask / temperature).norm().clamp_min(1e-12)  # the Jacobian may cancel all of it
    errors = [relative_error(mask.detach(), exact), ((dscores - expected).norm() / scale).item()]
    right = errors[0] <= 1e-5 and errors[1] <= 1e-4 and budget <= BUDGET and threshold.dtype == torch.float64
    return {"ok": bool(right), "errors": errors, "budget": budget}


def solve(scores: torch.Tensor, keep: float, temperature: float, cost: torch.Tensor) -> torch.Tensor:
    """Return the mask by bisection in float64, to the last bit of the threshold."""
    low = scores.amin(-1, keepdim=True) - 40
    high = scores.amax(-1, keepdim=True) + 40
    for _ in range(200):
        middle = (low + high) / 2
        above = (cost * torch.sigmoid((scores - middle) / temperature)).sum(-1, keepdim=True) > keep
        low = torch.where(above, middle, low)
        high = torch.where(above, high, middle)
    return torch.sigmoid((scores - low) / temperature)
