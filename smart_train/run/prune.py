"""From a recipe to a pruned, compressed, measured and saved model; and back from its files."""

import json
import platform
from pathlib import Path

import torch
from safetensors.torch import save as serialise
from torch import Tensor, nn

import smart_kernels
from smart_train import data as datasets

from . import kept, plots
from .aim import Aim
from .compressed import Compressed, compressed, layer_rows
from .evaluate import agreement, quality
from .recipe import Recipe
from .report import markdown
from .stages import BASELINE, Stages

PATIENCE = 0.1  # seconds to go on measuring a layer whose times have not settled
FILES = ("model.safetensors", "config.json", "recipe.json", "report.json")


def prune(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    baseline: bool = False,
    graph: str = "auto",
    workers: int | None = None,
) -> dict:
    """Train, prune, compress, measure and save a model; return the report, as written to ``report.json``.

    Args:
        recipe: every setting.
        out: gets the files of ``save``, ``recipe.json``, ``report.json``, ``report.md``, plots and ``training/``.
        resume: continue the run in ``out``, if there is one; without it ``out`` must not hold one.
        baseline: also finetune a one-shot magnitude mask for as many steps, unless that is the recipe's method.
        graph, workers: see ``Stages`` and ``data.load``.

    Raises:
        ValueError: ``out`` is taken or no directory, the data is not there or too little, the budget cannot be met.
    """
    stages = Stages(recipe, _data(recipe, workers), out, device(), resume, graph)
    stages.check()  # before the directory is taken and the dense model trained
    _claim(out, recipe, resume)
    return _finish(stages, *_train(stages, baseline))


def _train(stages: Stages, baseline: bool) -> tuple[dict[str, nn.Module], dict, Aim]:
    """Return the trained models by name, the pruner's last report, and what it pruned to."""
    method = stages.recipe.pruner
    dense = stages.dense()
    pruned, last = stages.pruned(dense)
    models = {"dense": dense, method: pruned}
    if baseline and method != BASELINE:
        models[BASELINE], _ = stages.baseline(dense)
    return models, last, stages.aim(dense)


def evaluate_saved(out: Path) -> tuple[float, float]:
    """Return the accuracy, measured now and as reported, of the model that ``prune`` saved in ``out``.

    Raises:
        ValueError: ``out`` holds no finished run, or a damaged one.
    """
    missing = [name for name in FILES if not (out / name).is_file()]
    if missing:
        raise ValueError(f"{out} must hold a finished `smart-train prune`, got no {', '.join(missing)}")
    recipe = _recipe(out / "recipe.json")
    reported = _reported(out / "report.json", recipe.pruner)
    stages = Stages(recipe, _data(recipe), out, device())
    model = stages.model().eval()
    smart_kernels.load(model, out)
    return quality(model, stages.data, stages.device), reported


def _data(recipe: Recipe, workers: int | None = None) -> datasets.Data:
    return datasets.load(recipe.data, recipe.data_dir, recipe.image_size, recipe.split, workers)


def device() -> str:
    """Return where a run trains."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _claim(out: Path, recipe: Recipe, resume: bool) -> None:
    """Mark ``out`` as the place of this recipe."""
    path = out / "recipe.json"
    if path.exists():
        if not resume:
            raise ValueError(f"--out must be a new directory, got {out}, which holds a run; --resume continues it")
        differences = recipe.differences(_recipe(path))
        if differences:
            raise ValueError(f"--resume must repeat the settings of {out}, got {'; '.join(differences)} there")
    try:
        _write(path, recipe.to_dict())
    except OSError as error:
        raise ValueError(f"--out must be a directory that can be written, got {out}: {error.strerror}") from error


def _recipe(path: Path) -> Recipe:
    try:
        return Recipe(**json.loads(path.read_text()))
    except (TypeError, ValueError) as error:  # a file of another version has other settings
        raise ValueError(f"{path} must hold the settings of a run as this version writes them: {error}") from error


def _reported(path: Path, pruner: str) -> float:
    """Return the accuracy of the pruned model that a report names."""
    try:
        return json.loads(path.read_text())["accuracy"][pruner]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} must name an accuracy as prune writes it, got none: {error}") from error


def _write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def _finish(stages: Stages, models: dict[str, nn.Module], last: dict, aim: Aim) -> dict:
    """Slim, compress, measure, save and report; ``last`` is the pruner's report."""
    out = stages.out
    name = stages.recipe.pruner
    pruned = models[name]
    for model in models.values():
        model.eval()
    masks = kept.tiles(pruned, last["layers"], aim.pattern_of)
    budget = kept.budget(pruned, masks, last, aim.pattern_of)
    results = compressed(models, name, stages.example, aim, PATIENCE)
    smart_kernels.save(pruned, out, results[name].report)
    report = _settings(stages.recipe, last) | {
        "accuracy": {key: quality(model, stages.data, stages.device) for key, model in models.items()},
        **_agreement(stages, models),
        "budget": budget,
        "layers": layer_rows(results["dense"], results[name], list(masks)),
        **_costs(results, name, stages.example),
        **_plan(aim, last),
        "bytes": {"dense": _file_size(models["dense"]), "sparse": (out / FILES[0]).stat().st_size},
    }
    _write(out / "report.json", report)
    (out / "report.md").write_text(markdown(report, plots.draw(out, report, masks)))
    return report


def _settings(recipe: Recipe, last: dict) -> dict:
    """Return what was asked for, and where it ran."""
    steps = {"dense": recipe.dense_steps, "pruned": recipe.pruned_steps, "prepared": last["prepared"]}
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return {"recipe": recipe.to_dict(), "steps": steps, "versions": versions}


def _plan(aim: Aim, last: dict) -> dict:
    """Return what was planned and how it was corrected, where there was a target."""
    return {} if aim.plan is None else {"plan": aim.plan.to_dict(), "correction": last["correction"]}


def _costs(results: dict[str, Compressed], pruned: str, example: Tensor) -> dict:
    """Return what the models cost: arithmetic, storage and time."""
    chosen = results[pruned].report
    return {
        "sparse_share": chosen.totals["pruned_on_sparse"],
        "cost": {name: result.cost for name, result in results.items()},
        "latency": _latency(results["dense"].model, results[pruned].model, example),
        "device": chosen.device,
    }


def _file_size(model: nn.Module) -> int:
    """Return the bytes of a file with the model's tensors; safetensors takes none that is in channels_last."""
    return len(serialise({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))


def _latency(dense: nn.Module, sparse: nn.Module, example: Tensor) -> dict:
    found = smart_kernels.compare(dense, sparse, example)
    return found.to_dict() | {"steady": found.steady, "batch": len(example)}


def _agreement(stages: Stages, models: dict[str, nn.Module]) -> dict:
    """Return how far each model says what the dense one says, where that is what it was taught."""
    if not stages.recipe.distill:
        return {}
    return {"agreement": {n: agreement(models["dense"], m, stages.data, stages.device) for n, m in models.items()}}
