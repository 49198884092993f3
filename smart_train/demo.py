"""``smart-train demo``: prune a CNN and a ViT on real images, and check what came out."""

import shutil
import time
from pathlib import Path

import torch

from smart_train.data.fashion import FASHION
from smart_train.run.prune import prune
from smart_train.run.recipe import Recipe
from smart_train.run.report import layer_table, summary_table, title, verdict
from smart_train.run.stages import BASELINE

MINUTES = 4  # on 2 cores without a GPU

SETTINGS = {
    "cnn": {"sparsity": 0.9, "pattern": "block:32x32"},
    "vit": {"sparsity": 0.8, "pattern": "block:64x32"},
    "mobilenet_v2": {"sparsity": 0.8, "pattern": "block:32x32"},
}
MODELS = ("cnn", "vit")  # the others need more than comes with the package
STEPS = {  # dense, search, finetune: what fits into the time, for one-shot pruning and SMART alike
    "fashion": {"cnn": (240, 80, 40), "vit": (400, 100, 80), "mobilenet_v2": (80, 50, 50)},
    "digits": {"cnn": (120, 40, 20), "vit": (600, 60, 30), "mobilenet_v2": (60, 40, 30)},
}


def recipes(data: str, seed: int, models: tuple[str, ...] = MODELS, pruner: str = "smart") -> list[Recipe]:
    """Return the CNN at 90 % and the ViT at 80 % block sparsity, or what else ``SETTINGS`` has."""
    common = {"data": data, "seed": seed, "pruner": pruner}
    return [Recipe.for_model(model, **common, **SETTINGS[model], **_steps(*STEPS[data][model])) for model in models]


def _steps(dense: int, search: int, finetune: int) -> dict:
    return {"dense_steps": dense, "search_steps": search, "finetune_steps": finetune}


def demo(out: Path, seed: int = 0, models: tuple[str, ...] = MODELS, pruner: str = "smart") -> int:
    """Prune the models into ``out`` (written anew) and print what was measured.

    Returns:
        0, or 1 when one of the demo's own checks failed.
    """
    start = time.monotonic()
    data = _data()
    print(f"{title(pruner)} demo of {', '.join(models)} on {data}; at most {MINUTES} minutes on 2 cores without a GPU")
    if data == "digits":
        print("(with `apt-get install dataset-fashion-mnist` it runs on Fashion-MNIST)")
    failures = []
    for recipe in recipes(data, seed, models, pruner):
        shutil.rmtree(out / recipe.model, ignore_errors=True)
        report = prune(recipe, out / recipe.model, baseline=True)
        print(_chapter(report))
        failures += [f"{recipe.model}: {failure}" for failure in check(report)]
    print(f"\n{time.monotonic() - start:.0f} s of {60 * MINUTES} s; everything is in {out}")
    print(*(f"FAILED {failure}" for failure in failures) if failures else ["all checks of the demo hold"], sep="\n")
    print(NEXT.format(path=out / models[-1]))
    return 1 if failures else 0


def _data() -> str:
    return "fashion" if FASHION.is_dir() else "digits"


def _chapter(report: dict) -> str:
    name, data, pattern, sparsity = (report["recipe"][key] for key in ("model", "data", "pattern", "sparsity"))
    title = f"{name} on {data}, {pattern}, sparsity {sparsity}, {report['device']}"
    return "\n\n".join(["", title, layer_table(report), summary_table(report), verdict(report)])


def check(report: dict) -> list[str]:
    """Return what a demo has to show and this one does not."""
    budget = report["budget"]
    share = report["sparse_share"]
    speedup = report["latency"]["speedup"]
    vit_on_cpu = report["recipe"]["model"].startswith("vit") and not torch.cuda.is_available()
    demands = {
        f"kept weights fill the budget of {budget['asked']} to the last block, got {budget['kept']}": (
            0 <= budget["asked"] - budget["kept"] < budget["largest_block"]
        ),
        f"at least half of the pruned weights end on a sparse backend, got {share:.0%}": share >= 0.5,
        f"the ViT is at least 1.2x faster than the best dense, got {speedup:.2f}x": not vit_on_cpu or speedup >= 1.2,
        **_against_baseline(report["accuracy"], report["recipe"]["pruner"]),
    }
    return [demand for demand, holds in demands.items() if not holds]


def _against_baseline(accuracy: dict[str, float], pruner: str) -> dict[str, bool]:
    """Return the demand on the accuracy; none where the baseline is all there is."""
    if BASELINE not in accuracy:
        return {}
    got = f"{accuracy[pruner]:.2f} and {accuracy[BASELINE]:.2f} %"
    demand = f"{title(pruner)} is at least as accurate as one-shot, got {got}"
    return {demand: accuracy[pruner] >= accuracy[BASELINE]}


NEXT = """next:
  smart-train run {path}
      load and evaluate what was saved
  smart-train prune --data folder:PATH --out runs/mine
      prune on your own images
  open {path}/report.md
      curves, masks, latencies, settings"""
