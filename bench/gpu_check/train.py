"""Training: a pruning run end to end, CUDA-graph capture, two streams, torch.compile."""

import copy
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from smart_kernels import compress_
from smart_kernels.ops import masked_linear
from smart_kernels.patterns import parse
from smart_train import SmartPruner

from .check import Check, Context, relative_error

STEPS = 40


def cases(context: Context) -> Iterator[Check]:
    """Yield a pruning run per pattern, streams and graphs, and compiled code."""
    for pattern in ("block:32x32", "block:16x16", "channel"):
        check = partial(prune, context.device, pattern, context.small)
        yield Check(f"prune {pattern}", check, family="train", covers=pattern)
    for name, check in (("same result on two streams and in a CUDA graph", streams), ("torch.compile", compiled)):
        yield Check(name, partial(check, context.device), family="train", covers=name)


def model(device: str) -> nn.Sequential:
    """Return a small classifier of 64 numbers into 10 classes."""
    layers = (nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 10))
    return nn.Sequential(*layers).to(device)


def prune(device: str, pattern: str, small: bool) -> dict:
    """Search, harden, finetune, compress: the loss falls, the budget holds, the compressed model agrees."""
    net = model(device)
    sparsity = 0.6
    x = torch.randn(256, 64, device=device)
    first, last = _search(net, x, pattern, sparsity, STEPS // 4 if small else STEPS)
    pruned = [m.weight for m in net.modules() if isinstance(m, nn.Linear)][:-1]
    zeros = sum((w == 0).sum().item() for w in pruned) / sum(w.numel() for w in pruned)
    with torch.no_grad():
        before = net.eval()(x)
        compress_(net, x)
        error = relative_error(net(x), before.double())
    ok = last < first and zeros >= sparsity - 1e-6 and error < 1e-4
    return {"ok": ok, "loss": [first, last], "zeros": zeros, "errors": [error]}


def _search(net: nn.Module, x: torch.Tensor, pattern: str, sparsity: float, steps: int) -> tuple[float, float]:
    """Prune a model in place, half of the steps with a hard mask; return the first loss and the last."""
    target = (x[:, :10] + x[:, 10:20] * x[:, 20:30]).argmax(1)
    first = F.cross_entropy(net(x), target).item()
    pruner = SmartPruner(net, parse(pattern), sparsity, search_steps=steps // 2)
    optimizer = torch.optim.AdamW([{"params": pruner.weights(), "lr": 3e-3}, pruner.param_group()])
    for _ in range(steps):
        pruner.step()
        loss = F.cross_entropy(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pruner.report()
    pruner.finalize()
    return first, loss.item()


def _inputs(device: str) -> tuple[torch.Tensor, ...]:
    """Return x, weight and a mask of 32x32 tiles."""
    x = torch.randn(100, 256, device=device)
    weight = torch.randn(128, 256, device=device)
    return x, weight, (torch.rand(4, 8, device=device) < 0.5).float()


def streams(device: str) -> dict:
    """Check that the product is the same bit for bit on two streams at once and in a CUDA graph."""
    x, weight, mask = _inputs(device)
    call = partial(masked_linear, x, weight, mask, tile=(32, 32))
    with torch.no_grad():
        expected = call()
        if device == "cpu":
            return {"ok": torch.equal(call(), expected), "skipped": "no streams on a CPU"}
        torch.cuda.synchronize()
        results = []
        for stream in (torch.cuda.Stream(), torch.cuda.Stream()) * 20:
            with torch.cuda.stream(stream):
                results.append(call())
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = call()
        captured.zero_()
        graph.replay()
        torch.cuda.synchronize()
    return {"ok": all(torch.equal(r, expected) for r in (*results, captured))}


def compiled(device: str) -> dict:
    """Check one graph, forward and backward; eager backend on the CPU, where there may be no C++ compiler."""
    x, weight, mask = (t.requires_grad_() for t in _inputs(device))
    function = partial(masked_linear, tile=(32, 32))
    backend = "inductor" if device == "cuda" else "aot_eager"
    fast = torch.compile(copy.copy(function), fullgraph=True, backend=backend)
    dy = torch.randn(100, 128, device=device)
    results = [torch.autograd.grad(f(x, weight, mask), (x, weight, mask), dy) for f in (function, fast)]
    errors = [relative_error(b, a.double()) for a, b in zip(*results, strict=True)]
    return {"ok": max(errors) < 1e-5, "errors": errors}
