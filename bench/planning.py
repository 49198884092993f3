"""How well a plan predicts: ``python -m bench.planning``. Models of random weights are planned, pruned and timed.

Nothing is trained, since times depend on where zeros are and not on what they are worth. A row has the seconds that the
latency table took, what was asked, predicted and measured, and where and with what.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from smart_kernels import DENSE, LatencyTable, compare, compress_, latency_table
from smart_train import OneShotPruner, Speedup, correct_, plan
from smart_train.models import build

from .resnet import ResNet
from .rows import RESULTS, command, environment

ROWS = RESULTS / "planning" / "predicted.jsonl"
FACTORS = (1.5, 2.0, 3.0)
SECONDS = 0.2  # patience of compress_ for a layer


def vit_b() -> nn.Module:
    """Return the 12 layers of ViT-B."""
    settings = {"activation": "gelu", "batch_first": True, "norm_first": True, "dropout": 0.0}
    return nn.Sequential(*(nn.TransformerEncoderLayer(768, 12, 3072, **settings) for _ in range(12)))


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "resnet50": lambda: (ResNet(), torch.randn(1, 3, 224, 224)),
    "vit_b": lambda: (vit_b(), torch.randn(1, 197, 768)),
    "cnn": lambda: (build("cnn", 1, 28, 10), torch.randn(32, 1, 28, 28)),
    "vit": lambda: (build("vit", 1, 28, 10), torch.randn(32, 1, 28, 28)),
}


def main(argv: list[str] | None = None) -> int:
    """Time the tables of the models, plan, prune and time the models, and append a row for each; return 0."""
    args = _arguments(argv)
    torch.set_num_threads(args.threads)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in args.model or MODELS:
        torch.manual_seed(0)
        model, x = MODELS[name]()
        start = time.monotonic()
        table = latency_table(model.eval(), x, seconds=args.seconds, cache=args.cache)
        print(table, flush=True)
        seconds = {"seconds": round(time.monotonic() - start, 1), "entries": table.measured, "read": table.read}
        _append(args.out, {"kind": "table", "model": name, **seconds, "dense_ms": table.cost.ms}, argv)
        for factor in args.speedup or FACTORS:
            _append(args.out, {"kind": "plan", "model": name, **trial(model, x, table, factor)}, argv)
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.planning", description=__doc__)
    parser.add_argument("--model", choices=MODELS, action="append", help="default: all")
    parser.add_argument("--speedup", type=float, action="append", help=f"default: {FACTORS}")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=180.0, help="for the entries of a table")
    parser.add_argument("--cache", type=Path, help="of latency_table; default: none")
    parser.add_argument("--out", type=Path, default=ROWS)
    return parser.parse_args(argv)


def _append(path: Path, row: dict, argv: list[str] | None) -> None:
    """Print a row, and write it with device, versions and the command."""
    arguments = sys.argv[1:] if argv is None else argv
    with path.open("a") as file:
        print(json.dumps(row | environment("cpu") | {"command": command("bench.planning", arguments)}), file=file)
    print({key: value for key, value in row.items() if key != "layers"}, flush=True)


def trial(model: nn.Module, x: Tensor, table: LatencyTable, factor: float) -> dict:
    """Plan for a speed-up, prune at once by magnitude, correct once, and time beside the best dense model."""
    found = plan(model, x, Speedup(factor), table=table)
    pruned = copy.deepcopy(model)
    pruner = OneShotPruner(pruned, found, search_steps=1)
    pruner.harden()
    correction = correct_(pruner, found, x, SECONDS)
    pruner.finalize()
    dense = copy.deepcopy(model)
    compress_(dense, x, backends=DENSE, seconds=SECONDS)
    compress_(pruned, x, seconds=SECONDS)
    measured = compare(dense, pruned, x)
    return {
        "asked": factor,
        "met": found.met,
        "predicted": found.dense_ms / found.ms,
        "uncorrected": found.dense_ms / correction.measured_ms,
        "measured": measured.speedup,
        "spread": measured.spread,
        "dense_ms": measured.dense_ms,
        "sparse_ms": measured.sparse_ms,
        "sparsity": found.sparsity,
        "correction": asdict(correction),
        "layers": {layer.names[0]: [layer.pattern or "dense", round(layer.density, 4)] for layer in found.layers},
    }


if __name__ == "__main__":
    sys.exit(main())
