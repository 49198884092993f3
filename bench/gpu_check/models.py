"""Whole models, blocks pruned at random: dense, compiled and compressed, each as it is called and in a CUDA graph."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from smart_kernels import DENSE, compress_, warmup

from .. import timing
from ..choice import MINILM, prune, summary
from ..encoder import Encoder
from ..resnet import ResNet
from .check import INTERPRETED, Check, Context, relative_error

VIT_B = {"layers": 12, "width": 768, "hidden": 3072, "heads": 12}
TINY = {"layers": 1, "width": 64, "hidden": 128, "heads": 2}
BLOCKS = ((32, 32), (64, 64))
SPARSITIES = (0.8, 0.95)
EXCESS = 2.0  # the compressed model may be this many times as far from float64 as the dense one


@dataclass(frozen=True)
class Model:
    """A model to make, and the size of its input."""

    name: str
    make: Callable[[], nn.Module]
    inputs: tuple[int, ...]


MODELS = (
    Model("vit-b encoder, 32 images", partial(Encoder, **VIT_B), (32, 197, 768)),
    Model("minilm, 1 x 128 tokens", partial(Encoder, **MINILM), (1, 128, 384)),
    Model("minilm, 8 x 128 tokens", partial(Encoder, **MINILM), (8, 128, 384)),
    Model("resnet-50, 1 image", ResNet, (1, 3, 224, 224)),
    Model("resnet-50, 64 images", ResNet, (64, 3, 224, 224)),
)
SMALL_MODELS = (
    Model("encoder", partial(Encoder, **TINY), (2, 9, 64)),
    Model("resnet", partial(ResNet, ((1, 16),), 10), (1, 3, 32, 32)),
)


def cases(context: Context) -> Iterator[Check]:
    """Yield every model, block and sparsity."""
    for model in SMALL_MODELS if context.small else MODELS:
        for block in BLOCKS[:1] if context.small else BLOCKS:
            for sparsity in SPARSITIES[:1] if context.small else SPARSITIES:
                label = f"{model.name} {block[0]}x{block[1]} {sparsity:.0%}"
                yield Check(f"model {label}", partial(run, model, block, sparsity, context))


def run(model: Model, block: tuple[int, int], sparsity: float, context: Context) -> dict:
    """Check that the compressed model is as exact as the dense one; time everything, and the best against the best."""
    device = context.device
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    dense = model.make().to(device, dtype).eval()
    prune(dense, block, sparsity)
    x = torch.randn(model.inputs, device=device, dtype=dtype)
    if x.dim() == 4:
        x = x.to(memory_format=torch.channels_last)
    sparse = copy.deepcopy(dense)
    best_dense = copy.deepcopy(dense)
    how = {"seconds": 0.01 if context.dry else 0.5, "cuda_graph": device == "cuda"}
    chosen = compress_(sparse, x, **how)
    compress_(best_dense, x, backends=DENSE, **how)
    with torch.no_grad():
        exact = copy.deepcopy(dense).double()(x.double())
        errors = [relative_error(net(x), exact) for net in (dense, best_dense, sparse)]
    found = {"ok": errors[2] <= EXCESS * max(errors[:2]) + 1e-6, "errors": errors}
    found["choice"] = summary([row.choice for row in chosen.rows])
    return found | ({} if context.dry or INTERPRETED else speed(best_dense, sparse, x))


@torch.no_grad()
def speed(dense: nn.Module, sparse: nn.Module, x: Tensor) -> dict:
    """Time both, compiled or not, called or replayed; compare the best of each."""
    warmup(sparse, [tuple(x.shape)])
    calls = {"dense": partial(dense, x), "compiled": partial(torch.compile(dense), x)}
    calls |= {"sparse": partial(sparse, x), "sparse compiled": partial(torch.compile(sparse), x)}
    times = {}
    for name, call in calls.items():
        times[f"{name}_ms"] = timing.on_gpu(call).p50_ms
        times[f"{name} graph_ms"] = timing.on_gpu(call, graph=True).p50_ms
    best = {side: min(t for name, t in times.items() if name.startswith("sparse") == side) for side in (False, True)}
    return times | {"speedup": best[False] / best[True]}
