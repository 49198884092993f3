"""The whole files that are damaged, and the models and trainings that they belong to."""

import hashlib
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from smart_kernels import NM, Block, Channel, compress_, mask_, save, slim_, unmask_
from smart_kernels.convert.measure import timing
from smart_train import SmartPruner
from smart_train.run import checkpoint as checkpoints
from smart_train.run.recipe import Recipe
from smart_train.run.training import Course, Training
from smart_train.tasks import Classification

STEPS = 6


@dataclass(frozen=True)
class Saved:
    """A saved model: its files, what it is loaded into, and what it computes."""

    make: Callable[[], nn.Module]
    x: Tensor = field(repr=False)
    y: Tensor = field(repr=False)
    files: dict[str, bytes] = field(repr=False)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


class Counted(nn.Sequential):
    """A model that keeps the number of its channels and cuts by it."""

    def __init__(self):
        super().__init__(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))
        self.width = 32

    def forward(self, x):
        first, act, *rest = self
        x = act(first(x)).view(-1, self.width)
        for layer in rest:
            x = layer(x)
        return x


def cnn() -> nn.Module:
    layers = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(64, 4)).eval()


def attention() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)).eval()
    model[2].weight, model[2].bias = model[0].weight, model[0].bias
    return model


@cache
def saved() -> list[Saved]:
    """Return saved models of all kinds: blocks, n:m, dead channels, slimmed with a number, folded, split, tied.

    They are the same on every machine, so that an input can be repeated: nothing is measured, and nothing is chosen.
    """
    torch.manual_seed(0)
    flat, image = torch.randn(3, 32), torch.randn(2, 3, 6, 6)
    return [
        _saved(mlp, flat, Block(8, 8), "bsr", "jit"),
        _saved(mlp, flat, NM(2, 4), "nm"),
        _saved(mlp, flat, Channel(), "compact"),
        _saved(lambda: Counted().eval(), flat, Channel(), "dense", slim=True),
        _saved(cnn, image, Block(8, 8), "bsr"),
        _saved(attention, torch.randn(2, 5, 16), Block(8, 8), "bsr", "ell"),
        _saved(tied, torch.randn(3, 16), Block(8, 8), "bsr"),
        _saved(cnn, image, None, "csr"),
    ]


def _saved(make: Callable[[], nn.Module], x: Tensor, pattern, stored: str, run: str = "", slim: bool = False) -> Saved:
    """Return a saved model whose layers are ``stored`` in one format, and ``run`` in another that is saved alike."""
    model = make()
    if isinstance(model, nn.TransformerEncoderLayer):
        mask_(model, pattern)  # splits the attention
        unmask_(model)
    if pattern is not None:
        _kill_some(model, pattern)
    if slim:
        slim_(model, x)
    with mock.patch.object(timing, "time_in_turns", _untimed):
        report = compress_(model, x, pattern, ("dense", stored), policy="size")
    rows = [replace(row, choice=run if run and row.choice == stored else row.choice) for row in report.rows]
    report = replace(report, rows=tuple(rows), device="any", torch_version="any", absent=())
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder, report)
        files = _repeatable({path.name: path.read_bytes() for path in Path(folder).iterdir()})
    with torch.no_grad():
        return Saved(make, x, model(x), files)


def _repeatable(files: dict[str, bytes]) -> dict[str, bytes]:
    """Leave out the versions, and sort the header of the tensors, which is in any order."""
    content = files["model.safetensors"]
    end = 8 + int.from_bytes(content[:8], "little")
    text = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    content = content[:8] + text.ljust(end - 8) + content[end:]
    digest = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    config = json.loads(files["config.json"]) | {"versions": {"torch": "any"}, "tensors": digest}
    return {"config.json": json.dumps(config, indent=2).encode(), "model.safetensors": content}


def _untimed(candidates, *_):
    """Take every candidate for as fast as all others: the sparse ones are chosen for their size."""
    return {name: [1.0] * 4 for name in candidates}


@torch.no_grad()
def _kill_some(model: nn.Module, pattern) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.shape[0] > 4 and layer.weight.shape[1] > 4:
            if isinstance(pattern, NM):
                layer.weight.view(-1, 4)[:, :2] = 0
            elif isinstance(pattern, Channel):
                layer.weight[::2] = 0
                layer.bias[::2] = 0
            else:
                layer.weight[:8, :8] = 0


class Batches:
    """Random images instead of a data set."""

    task = Classification()

    def batch(self, number: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(number)
        return torch.randn(size, 32, generator=generator), torch.randint(4, (size,), generator=generator)


def training() -> Training:
    """Return one that has not begun."""
    recipe = Recipe.for_model("vit-tiny", pattern="block:8x8", sparsity=0.5, batch=4)
    model = mlp()
    pruner = SmartPruner(model, Block(8, 8), 0.5, search_steps=4)
    return Training(model, Batches(), recipe, Course(STEPS), pruner=pruner)


@cache
def state() -> dict:
    """Return the state of a training in the middle of its search."""
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(0)
    running = training()
    for _ in range(3):
        running.advance()
    return running.state_dict()


@cache
def checkpoint() -> bytes:
    """Return the file of ``state``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.pt"
        checkpoints.save(path, state())
        return path.read_bytes()


def equal(a, b) -> bool:
    """Return whether two states hold the same."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b
