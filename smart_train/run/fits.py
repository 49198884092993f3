"""Checks that the state in a checkpoint is one of the training that is to go on with it."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smart_train.pruners import Pruner

from . import checkpoint

ADAM = {"step", "exp_avg", "exp_avg_sq"}
MOMENTS = {torch.optim.Adam: ADAM, torch.optim.AdamW: ADAM, torch.optim.SGD: {"momentum_buffer"}}
STAGES = ("dense", "search", "finetune")


def check_state(
    state: Any, own: dict, steps: int, optimizers: list[torch.optim.Optimizer], pruner: Pruner | None
) -> None:
    """Look through all that ``Training.state_dict`` holds, before anything of the training is changed.

    Args:
        state: as it was loaded.
        own: of the training as it is now.
        steps, optimizers, pruner: of the training.

    Raises:
        ValueError: a part is missing or more than there is, or a tensor has another shape or dtype.
    """
    _keys("the state", state, own)
    _number("step", state["step"], steps)
    _tensors("model", state["model"], own["model"])
    _check(isinstance(state["optimizers"], list), "optimizers must be a list")
    _check(len(state["optimizers"]) == len(optimizers), f"there must be {len(optimizers)} optimizers")
    for saved, like, optimizer in zip(state["optimizers"], own["optimizers"], optimizers, strict=True):
        _check_optimizer(saved, like, optimizer)
    _check((state["pruner"] is None) == (pruner is None), "there must be a pruner in both or in none")
    if pruner:
        _check_pruner(state["pruner"], own["pruner"], pruner)
    _check_random(state["random"])


def _check_optimizer(saved: Any, own: dict, optimizer: torch.optim.Optimizer) -> None:
    _keys("an optimizer", saved, own)
    groups = saved["param_groups"]
    _check(isinstance(groups, list) and len(groups) == len(own["param_groups"]), "an optimizer must have its groups")
    for group, like in zip(groups, own["param_groups"], strict=True):
        _keys("a group of an optimizer", group, like)
        for name, value in like.items():
            _check(_alike(group[name], value), f"{name} of an optimizer must be like {value!r}"[:200])
        _check(group["params"] == like["params"], "an optimizer must have its parameters")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    _check(isinstance(saved["state"], dict), "the state of an optimizer must be a table")
    for index, entries in saved["state"].items():
        _check(type(index) is int and 0 <= index < len(parameters), "an optimizer must have states of its parameters")
        _check(isinstance(entries, dict) and entries.keys() == MOMENTS[type(optimizer)], "a state must be complete")
        for name, value in entries.items():
            shape = () if name == "step" else parameters[index].shape
            fits = isinstance(value, Tensor) and value.shape == shape and value.is_floating_point()
            _check(fits, f"{name} of an optimizer must be {tuple(shape)} numbers")


def _check_pruner(saved: Any, own: dict, pruner: Pruner) -> None:
    _keys("the pruner", saved, own)
    _check(saved["pools"] == own["pools"], f"the pruner must have the pools {own['pools']}"[:2000])
    _number("the pruner's step", saved["step"], 2**62)
    _check(saved["stage"] in STAGES, f"the pruner's stage must be one of {STAGES}")
    for masks in (saved["masks"], saved["looks"]):
        _check_masks(masks, pruner)
    thresholds = saved["thresholds"]
    _check(isinstance(thresholds, list) and len(thresholds) == len(pruner.pools), "each pool must have a threshold")
    for threshold, pool in zip(thresholds, pruner.pools, strict=True):
        scores = 1 if pool in pruner.masked.ranked else pool.scored
        fits = isinstance(threshold, Tensor) and threshold.is_floating_point() and 0 < threshold.numel() <= scores
        _check(threshold is None or fits, f"the threshold of a pool must be None or at most {scores} numbers")
    for name in own.keys() - {"step", "stage", "pools", "masks", "looks", "thresholds"}:
        _check(_alike(saved[name], own[name]), f"{name} of the pruner must be like {own[name]!r}"[:200])


def _check_masks(masks: Any, pruner: Pruner) -> None:
    _check(isinstance(masks, dict) and masks.keys() <= pruner.layers.keys(), "masks must be those of the pruned layers")
    for name, mask in masks.items():
        shape = pruner.layers[name].scores.shape
        fits = isinstance(mask, Tensor) and mask.shape == shape and mask.dtype in (torch.bool, torch.float32)
        _check(fits, f"the mask of {name} must be {tuple(shape)}, bool or float32")


def _check_random(saved: Any) -> None:
    own = checkpoint.random_state()
    _keys("random", saved, own)
    _tensors("random", {"torch": saved["torch"]}, {"torch": own["torch"]})
    cuda = saved["cuda"]
    _check(
        isinstance(cuda, list) and all(isinstance(t, Tensor) and t.dtype == torch.uint8 for t in cuda), "cuda is none"
    )
    kind, words, place, *gauss = saved["numpy"] if _length(saved["numpy"], 5) else (None, (), None)
    _check(
        type(kind) is str and kind == "MT19937" and _words(words, 624) and _within(place, 624),
        "numpy must hold a state of its generator",
    )
    _check([type(value) for value in gauss] == [int, float], "numpy must hold a state of its generator")
    version, words, gauss = saved["python"] if _length(saved["python"], 3) else (None, (), None)
    whole = isinstance(words, tuple) and _words(words[:-1], 624) and _within(words[-1], 624)
    known = type(version) is int and version == 3 and type(gauss) in (type(None), float)
    _check(known and whole, "python must hold a state of its generator")
    _takes("torch", torch.Generator().set_state, saved["torch"].cpu())
    _takes("numpy", np.random.RandomState().set_state, saved["numpy"])
    _takes("python", random.Random().setstate, saved["python"])


def _takes(name: str, set_state: Callable[[Any], Any], state: Any) -> None:
    """Check that a generator takes a state: one that nobody draws from, so that a refusal changes nothing."""
    try:
        set_state(state)
    except (RuntimeError, OverflowError, TypeError, ValueError) as error:
        _check(False, f"{name} must hold a state of its generator, not: {error}")


def _tensors(what: str, saved: Any, own: dict[str, Tensor]) -> None:
    _keys(what, saved, own)
    for name, like in own.items():
        got = saved[name]
        fits = isinstance(got, Tensor) and got.shape == like.shape and got.dtype == like.dtype
        _check(fits, f"{what} {name} must be {tuple(like.shape)} {like.dtype}")


def _keys(what: str, saved: Any, own: dict) -> None:
    _check(isinstance(saved, dict) and saved.keys() == own.keys(), f"{what} must hold {sorted(map(str, own))}"[:500])


def _number(what: str, value: Any, most: int) -> None:
    _check(type(value) is int and 0 <= value <= most, f"{what} must be a whole number up to {most}")


def _alike(value: Any, like: Any) -> bool:
    """Return whether two plain values are of the same kind."""
    if isinstance(like, Tensor):
        return isinstance(value, Tensor) and (value.shape, value.dtype) == (like.shape, like.dtype)
    if isinstance(like, tuple | list):
        return type(value) is type(like) and len(value) == len(like) and all(map(_alike, value, like))
    numbers = (int, float)
    return type(value) is type(like) or (type(value) in numbers and type(like) in numbers)


def _length(value: Any, count: int) -> bool:
    return isinstance(value, tuple) and len(value) == count


def _words(values: Any, count: int) -> bool:
    return isinstance(values, tuple | list) and len(values) == count and all(_within(v, 2**32 - 1) for v in values)


def _within(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(f"the checkpoint must be one of this training: {message}, got another")
