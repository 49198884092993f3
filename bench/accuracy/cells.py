"""Define the cells: a model, a pattern and a budget each, written down before anything was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from smart_train import PRUNERS
from smart_train.run.recipe import Recipe

METHODS: dict[str, tuple[str, dict[str, Any]]] = {  # name in tables -> pruner, options
    **{name: (name, {}) for name in PRUNERS},
    "gradual-uniform": ("gradual", {"spread": "uniform"}),
    "gradual-erk": ("gradual", {"spread": "erk"}),
}


def title(method: str) -> str:
    """Return how a method is called, with its options."""
    pruner, options = METHODS[method]
    return ", ".join([PRUNERS[pruner].title, *map(str, options.values())])


VARIANT = "variant"  # in the settings of a run that is of no method as it is
STEPS = {"dense_steps": 780, "search_steps": 117, "finetune_steps": 117}  # of 64 images: 10, 1.5 and 1.5 epochs


@dataclass(frozen=True)
class Cell:
    """One comparison: every method prunes the same dense models to the same budget with the same number of batches.

    Args:
        model: a key of ``smart_train.models.MODELS``.
        pattern, sparsity: as in ``Recipe``; N:M implies its sparsity.
        data: "fashion" or "digits".
        train: training images, drawn anew for each seed; 0 for all.
        shrink: pictures are averaged over this many pixels squared.
        settings: of the ``Recipe``, where they differ from those of the model.
    """

    model: str
    pattern: str
    sparsity: float | None = None
    data: str = "fashion"
    train: int = 5000
    shrink: int = 1
    settings: dict[str, Any] = field(default_factory=dict)

    def recipe(self, seed: int, name: str, found: Mapping[str, Any] | None = None) -> Recipe:
        """Return the settings of a run with one of ``METHODS``; the same for all but for what is the method's own.

        Args:
            seed: of the run.
            name: of the method.
            found: by a search: ``rate`` and ``score_rate``, factors of the learning rates of the model; all else are
                settings of the ``Recipe`` or options of the pruner. ``variant`` is a name and changes nothing.
        """
        pruner, options = METHODS[name]
        task = {"data": self.data, "seed": seed, "pattern": self.pattern, "sparsity": self.sparsity}
        plain = Recipe.for_model(self.model, pruner=pruner, **task, **{**STEPS, **self.settings})
        own = {name: value for name, value in (found or {}).items() if name != VARIANT}
        rates = {
            "lr_pruned": own.pop("rate", 1) * (plain.lr_pruned or plain.lr),
            "lr_scores": own.pop("score_rate", 1) * plain.lr_scores,
        }
        settings = {name: own.pop(name) for name in list(own) if name in Recipe.__dataclass_fields__}
        return replace(plain, **rates, **settings, options={**options, **own})


CNN = {"shrink": 2}
CORE = {
    "cnn-16x16-90": Cell("convnet", "block:16x16", 0.9, **CNN),
    "vit-16x16-90": Cell("vit-small", "block:16x16", 0.9),
    "vit-32x32-80": Cell("vit-small", "block:32x32", 0.8),
    "mobilenet-32x32-80": Cell("mobilenet-small", "block:32x32", 0.8, **CNN),
    "cnn-channel-50": Cell("convnet", "channel", 0.5, **CNN),
    "mobilenet-channel-50": Cell("mobilenet-small", "channel", 0.5, **CNN),
    "vit-1:4": Cell("vit-small", "nm:1:4"),
    "vit-2:4": Cell("vit-small", "nm:2:4"),
}
OTHERS = {
    "cnn-16x16-95": Cell("convnet", "block:16x16", 0.95, **CNN),
    "cnn-32x32-80": Cell("convnet", "block:32x32", 0.8, **CNN),
    "cnn-64x16-80": Cell("convnet", "block:64x16", 0.8, **CNN),
    "cnn-channel-70": Cell("convnet", "channel", 0.7, **CNN),
    "mobilenet-16x16-90": Cell("mobilenet-small", "block:16x16", 0.9, **CNN),
    "mobilenet-32x32-70": Cell("mobilenet-small", "block:32x32", 0.7, **CNN),
    "vit-16x16-95": Cell("vit-small", "block:16x16", 0.95),
    "vit-64x16-80": Cell("vit-small", "block:64x16", 0.8),
    "vit-2:8": Cell("vit-small", "nm:2:8"),
    "digits-cnn-16x16-90": Cell("convnet", "block:16x16", 0.9, "digits", 0),
    "digits-vit-16x16-90": Cell("vit-small", "block:16x16", 0.9, "digits", 0),
    "full-cnn-16x16-90": Cell("convnet", "block:16x16", 0.9, train=0, shrink=2),
    "mobilenet_v2-32x32-80": Cell(
        "mobilenet_v2",
        "block:32x32",
        0.8,
        train=0,
        settings={"dense_steps": 80, "search_steps": 50, "finetune_steps": 50},
    ),
}
CELLS = CORE | OTHERS
