"""Whole models, blocks pruned at random: dense, fused by hand, compiled and compressed, called and in a CUDA graph."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn

from smart_kernels import DENSE, compress_, warmup

from .. import run
from ..case import Case, Problem, Shape
from ..choice import MINILM, prune, summary
from ..encoder import Encoder, joined
from ..resnet import ResNet, fused
from . import speed
from .check import INTERPRETED, Check, Context, relative_error

VIT_B = {"layers": 12, "width": 768, "hidden": 3072, "heads": 12}
TINY = {"layers": 1, "width": 64, "hidden": 128, "heads": 2}
BLOCKS = ((64, 64), (128, 32), (128, 16), (32, 32))  # square, and tall ones at the same budgets
SPARSITIES = (0.8, 0.95)
ORDER = ((0.8, BLOCKS[:1]), (0.95, BLOCKS[:1]), (0.8, BLOCKS[1:]), (0.95, BLOCKS[1:]))  # the goals first
EXCESS = 2.0  # the compressed model may be this many times as far from float64 as the dense one
SHORT = 0.05  # a kind of layer may lack this share of zeros: one with a single block in a row keeps it
BASELINES = ("dense", "best dense", "dense fused", "dense compiled", "dense fused compiled")
COMPILED = ("dense", "dense fused", "compress_")


@dataclass(frozen=True)
class Model:
    """A model to make, and the size of its input."""

    name: str
    make: Callable[[], nn.Module]
    inputs: tuple[int, ...]

    def input(self, context: Context) -> Tensor:
        """Return a random input; images in channels_last."""
        x = torch.randn(self.inputs, device=context.device, dtype=speed.dtype(context))
        return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x


MODELS = (
    Model("vit-b encoder, 64 images", partial(Encoder, **VIT_B), (64, 197, 768)),
    Model("resnet-50, 64 images", ResNet, (64, 3, 224, 224)),
    Model("minilm, 64 x 128 tokens", partial(Encoder, **MINILM), (64, 128, 384)),
    Model("minilm, 8 x 128 tokens", partial(Encoder, **MINILM), (8, 128, 384)),
    Model("minilm, 1 x 128 tokens", partial(Encoder, **MINILM), (1, 128, 384)),
    Model("resnet-50, 1 image", ResNet, (1, 3, 224, 224)),
)
SMALL_MODELS = (
    Model("encoder", partial(Encoder, **TINY), (2, 9, 64)),
    Model("resnet", partial(ResNet, ((1, 16),), 10), (1, 3, 32, 32)),
)


def cases(context: Context) -> Iterator[Check]:
    """Yield every model, block and sparsity; before them, what compiles the dense models into torch's cache."""
    for model in SMALL_MODELS if context.small else MODELS:
        yield Check(f"compile model {model.name}", partial(compile_ahead, model, context), "compile", "model")
    for sparsity, blocks in ((SPARSITIES[0], BLOCKS[-1:]),) if context.small else ORDER:
        for block, model in product(blocks, SMALL_MODELS if context.small else MODELS):
            label = f"{model.name} {block[0]}x{block[1]} {sparsity:.0%}"
            yield Check(f"model {label}", partial(check, model, block, sparsity, context), "model", "model")
    for model in MODELS[:3]:
        yield Check(f"pruned {model.name}", partial(check_pruned, model), family="model")


def compile_ahead(model: Model, context: Context) -> dict:
    """Compile a dense model: torch keeps the code."""
    if context.device == "cpu":
        return {"ok": True, "skipped": "nothing to compile"}
    dense = model.make().to(context.device, speed.dtype(context)).eval()
    with torch.no_grad():
        torch.compile(dense)(model.input(context))
    return {"ok": True}


def check(model: Model, block: tuple[int, int], sparsity: float, context: Context) -> dict:
    """Check that the compressed model is as exact as the dense one; time everything, and the best against the best."""
    dense = model.make()
    prune(dense, block, sparsity)
    shares = zeros(dense)
    dense = dense.to(context.device, speed.dtype(context)).eval()
    x = model.input(context)
    sparse = copy.deepcopy(dense)
    best_dense = copy.deepcopy(dense)
    by_hand = (joined if isinstance(dense, Encoder) else fused)(dense)
    how = {"seconds": 0.01 if context.dry else 0.1, "cuda_graph": context.device == "cuda"}
    chosen = compress_(sparse, x, **how)
    compress_(best_dense, x, backends=DENSE, **how)
    with torch.no_grad():
        exact = copy.deepcopy(dense).double()(x.double())
        errors = [relative_error(net(x), exact) for net in (dense, best_dense, by_hand, sparse)]
    right = max(errors[2:]) <= EXCESS * max(errors[:2]) + 1e-6
    found = {"ok": right and min(shares.values()) > 0, "errors": errors, "zeros": shares}
    found["choice"] = summary([row.choice + " fused" * bool(row.fusions) for row in chosen.rows])
    if context.dry or INTERPRETED:
        return found
    warmup(sparse, [tuple(x.shape)])
    problem = Problem("model", shape_of(model, dense), f"{block[0]}x{block[1]}", sparsity, x.dtype, "fwd")
    nets = {"dense": dense, "best dense": best_dense, "dense fused": by_hand}
    nets |= {"compress_": sparse, "compress_ unfused": unfused(sparse)}
    return found | timed(problem, nets, x, found["choice"], context)


def check_pruned(model: Model) -> dict:
    """Check by count that as much of each kind of layer is zero as its name says, blocks of every size."""
    net = model.make()
    shares = {}
    for block in BLOCKS:
        pruned = copy.deepcopy(net)
        prune(pruned, block, SPARSITIES[0])
        shares[f"{block[0]}x{block[1]}"] = zeros(pruned)
    return {
        "ok": all(abs(share - SPARSITIES[0]) <= SHORT for each in shares.values() for share in each.values()),
        **shares,
    }


def zeros(net: nn.Module) -> dict[str, float]:
    """Return the share of the weights that are zero, of Linears and of convolutions."""
    found = {}
    for kind in (nn.Linear, nn.Conv2d):
        weights = [layer.weight for layer in net.modules() if isinstance(layer, kind)]
        if weights:
            found[kind.__name__] = 1 - sum(w.count_nonzero().item() for w in weights) / sum(w.numel() for w in weights)
    return found


def unfused(net: nn.Module) -> nn.Module:
    """Return a copy whose layers are launches of their own, and nothing else is in them."""
    net = copy.deepcopy(net)
    for module in net.modules():
        vars(module).pop("epilogue", None)
        vars(module).pop("joined", None)
    return net


def shape_of(model: Model, net: nn.Module) -> Shape:
    """Return the shape under which the rows of a model stand: its rows of x, and the size of its widest Linear."""
    widest = max((m.weight for m in net.modules() if isinstance(m, nn.Linear)), key=Tensor.numel)
    rows_of_x = model.inputs[:2] if len(model.inputs) == 3 else model.inputs[:1]
    return Shape(model.name, math.prod(rows_of_x), *widest.shape, "")


def timed(problem: Problem, nets: dict[str, nn.Module], x: Tensor, choice: str, context: Context) -> dict:
    """Time models, compiled or not, called and replayed; one that raises does not end the others."""
    torch._dynamo.reset()  # else a model compiled before is run for its twin
    calls = nets | {f"{name} compiled": torch.compile(nets[name]) for name in COMPILED}
    found = [_case(problem, name, net, x, choice) for name, net in calls.items()]
    wrong: list[str] = []
    groups = [list(run.timed(found, timer, wrong)) for timer in ("graph", "events")]
    return {"wrong": wrong, **speed.rows_of(groups, x.dtype, context)}


def _case(problem: Problem, name: str, net: nn.Module, x: Tensor, choice: str) -> Case:
    run = torch.no_grad()(lambda: (net(x),))
    return Case(problem, name, name in BASELINES, run, tuple, 0.0, 0.0, choice if name == "compress_" else "")
