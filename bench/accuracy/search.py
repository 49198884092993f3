"""The search over the settings of each method, the same for all, on cells, seeds and images of its own."""

from collections.abc import Iterable, Mapping
from typing import Any

from .cells import CELLS, Cell
from .record import Run, Task
from .trial import refusal

SEED = 100  # no seed of the comparison
WHERE = {  # kind of cell -> the cell to search in, none of the core
    "tiles, SGD": "cnn-32x32-80",
    "tiles, AdamW": "vit-64x16-80",
    "tiles, depthwise": "mobilenet-32x32-70",
    "channels, SGD": "cnn-channel-70",
    "N:M, AdamW": "vit-2:8",
}
USUAL = ((0.5, 1, 2), (0.25, 0.5, 1, 1.5, 2, 4))  # times the learning rate of the model; without a parameter
ADAMW = ((2, 4, 8), (1, 2, 3, 4, 6, 8))  # after a look at one-shot pruning
OWN: dict[str, tuple[str, tuple[Any, Any]]] = {  # written down beforehand; what was changed: decision 0104
    "smart": ("score_rate", (1, 3)),
    "oneshot": ("spread", ("scores", "uniform")),
    "taylor": ("prepare_batches", (4, 16)),
    "gradual": ("every", (3, 10)),
    "gradual-uniform": ("every", (3, 10)),
    "gradual-erk": ("every", (3, 10)),
    "pdp": ("softness", (0.03, 0.1)),
    "acdc": ("phases", (1, 3)),
    "straight": ("score_rate", (0.1, 0.3)),
    "srste": ("decay", (2e-4, 1e-2)),
    "lookahead": ("spread", ("scores", "uniform")),
    "gdp": ("strength", (1, 3)),
    "dais": ("strength", (0.3, 3)),
    "dhp": ("score_rate", (0.1, 0.3)),
    "catro": ("prepare_batches", (4, 16)),
    "activation": ("prepare_batches", (4, 16)),
    "rl": ("prepare_batches", (8, 24)),
    "dsp": ("strength", (0.5, 1)),
}


def kind(cell: Cell) -> str:
    """Return what cells share their settings by: the pattern's kind, and for what they are trained how."""
    if cell.model.startswith("mobilenet") and cell.pattern != "channel":
        return "tiles, depthwise"
    pattern = {"channel": "channels", "nm": "N:M"}.get(cell.pattern.partition(":")[0], "tiles")
    return f"{pattern}, {'SGD' if cell.recipe(0, 'smart').optimizer == 'sgd' else 'AdamW'}"


def settings(kind_: str, method: str) -> list[dict[str, Any]]:
    """Return the six settings that are tried: three learning rates by two values of the method's own parameter.

    Methods without one try six rates; a spread over layers is none where groups have their own budgets.
    """
    few, many = ADAMW if kind_.endswith("AdamW") else USUAL
    name, values = OWN.get(method, ("", ()))
    if not values or (name == "spread" and kind_.startswith("N:M")):
        return [{"rate": rate} for rate in many]
    return [{"rate": rate, name: value} for rate in few for value in values]


def searches(kinds: Iterable[str], methods: Iterable[str]) -> list[Task]:
    """Return the runs of a search, method by method, without what a method is not for."""
    methods = list(methods)
    return [
        Task(WHERE[each], method, found, SEED)
        for each in kinds
        for method in methods
        if not refusal(CELLS[WHERE[each]], method)
        for found in settings(each, method)
    ]


def scores(kind_: str, method: str, known: Mapping[tuple, Run]) -> list[tuple[dict[str, Any], float]]:
    """Return the settings that were tried, with the percent of validation images that each got right."""
    tasks = [Task(WHERE[kind_], method, found, SEED) for found in settings(kind_, method)]
    return [(task.settings, known[task.key].accuracy) for task in tasks if task.key in known]


def chosen(kind_: str, method: str, known: Mapping[tuple, Run]) -> dict[str, Any]:
    """Return the best settings of a search, the first of equals; nothing, for the defaults, without one."""
    found = scores(kind_, method, known)
    return max(found, key=lambda each: each[1])[0] if found else {}


def told(found: Mapping[str, Any]) -> str:
    """Return settings in words."""
    words = {"rate": "rate x {}", "score_rate": "score rate x {}"}
    return ", ".join(words.get(name, name + " {}").format(value) for name, value in found.items()) or "defaults"
