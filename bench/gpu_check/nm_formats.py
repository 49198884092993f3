"""2:4 layers as a GPU alone can show them: torch's packed tensor, whose order is not documented, and compiled code."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F

from smart_kernels.formats import CuSparseLt, SemiStructured
from smart_kernels.ops import tensor_core as sparse_tensor_core
from smart_kernels.reference.common import expand

from .check import Check, Context

SIZES = 300, 448, 1088  # M, N, K


def cases(context: Context) -> Iterator[Check]:
    """Yield torch's packed tensor per dtype, then compiled layers per kernel."""
    for dtype in sparse_tensor_core.TYPES:
        yield Check(f"nm cusparselt {dtype}", partial(cusparselt, context.device, dtype))
    for kernel in sparse_tensor_core.KERNELS:
        yield Check(f"{kernel} compiled", partial(compiled, context.device, kernel))


def cusparselt(device: str, dtype: torch.dtype) -> dict:
    """Check the saved form, -0.0 and places of stored zeros too, and the product; again after new values and places."""
    x, weight = drawn(device, dtype)
    weight[0, :64] = -0.0
    try:
        stored = CuSparseLt.from_dense(weight, (1, 1))
    except ValueError as reason:
        return {"ok": True, "skipped": str(reason)}
    state = stored.state_dict()
    expected = SemiStructured.from_dense(weight, (1, 1)).state_dict()
    ok = [torch.equal(state["values"].view(torch.int16), expected["values"].view(torch.int16))]
    ok += [torch.equal(state["indices"], expected["indices"])]
    other = SemiStructured.from_dense(drawn(device, dtype)[1], (1, 1))
    for change in (lambda: stored.values.mul_(-2), lambda: stored.load_state_dict(other.state_dict())):
        with torch.no_grad():
            change()
            product = (x.double() @ stored.to_dense().double().T).to(dtype)
            ok += [torch.equal(stored.linear(x), product), not isinstance(stored._packed(), str)]
    return {"ok": all(ok), "right": ok}


def compiled(device: str, kernel: str) -> dict:
    """Check a layer that is 2:4 both ways, forward and gradients: with torch.compile and without, the same bits."""
    if reason := sparse_tensor_core.verified(torch.zeros(0, device=device).device, kernel):
        return {"ok": True, "skipped": reason}
    x, weight = drawn(device, torch.bfloat16)
    both_ways = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]], device=device).repeat_interleave(2, 0)
    weight = torch.randint_like(weight, 1, 5) * both_ways.repeat(len(weight) // 4, weight.shape[1] // 4)
    stored = SemiStructured.from_dense(weight, (1, 1), layout=kernel, transposable=True)
    found = []
    for function in (stored.linear, torch.compile(stored.linear, fullgraph=True)):
        x_ = x.clone().requires_grad_()
        y = function(x_)
        found.append((y, *torch.autograd.grad(y, (x_, stored.values), y.detach().sign())))
    same = [torch.equal(*pair) for pair in zip(*found, strict=True)]
    right = torch.equal(found[0][0], F.linear(x.double(), weight.double()).to(x.dtype))
    return {"ok": all(same) and right, "same": same}


def drawn(device: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x (M, K) and a 2:4 weight (N, K) of small integers: sums are exact in any order, then rounded."""
    M, N, K = SIZES
    _, values, indices, *_ = sparse_tensor_core.integers((1, N, K), dtype, torch.device(device))
    x = torch.randint(-4, 5, (M, K), device=device).to(dtype)
    return x, expand(values, indices, 2, 4, K)
