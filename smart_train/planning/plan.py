"""``plan``: from a target to a pattern and a density for each layer.

The options of a layer are the patterns and densities of its latency table, and dense. What they cost adds up over the
layers: the prediction is the measured dense model and the differences of its layers. What they lose is taken to add up,
too. The best choice is then found exactly. Where no choice meets the target the plan is the nearest one, and says so.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from smart_kernels import LatencyTable, LayerTimes, Pattern, latency_table
from smart_train.plans import LayerPlan, Plan

from .confirm import confirmed
from .losses import loss_curves
from .options import Option, all_options
from .reasons import highest_rate, why
from .solve import UNITS, in_units, solve
from .targets import Target

Batches = Sequence[Sequence[Any]]
NEAR = 0.01  # of what can be saved at most: as near as that to the best is near enough where a target is out of reach


def plan(
    model: nn.Module,
    example_input: Any,
    target: Target,
    *,
    table: LatencyTable | None = None,
    batches: Batches | None = None,
    loss: Callable[..., Tensor] | None = None,
    **measuring: Any,
) -> Plan:
    """Decide what each layer is to become so that the model, which stays as it is, meets a target at the least loss.

    Args:
        model, example_input: plain and trained, on the device it will run on; see ``latency_table``.
        target: ``Latency(ms)``, ``Speedup(factor)``, ``Size(nbytes)``, ``Macs(count)`` or ``Sparsity(fraction)``.
        table: of this model and input; None measures it, with ``measuring``, and plans twice: see ``confirmed``.
        batches, loss: see ``Pruner.prepare`` and ``loss_curves``; None for losses by magnitude.

    Raises:
        ValueError: there is no layer to prune, ``target`` is none, or one of ``batches`` and ``loss`` is missing.
    """
    _check(target, batches, loss)
    known = table or latency_table(model, example_input, **measuring)
    planned = partial(choose_plan, curves=loss_curves(model, _wanted(known), batches, loss), target=target)
    return planned(known if table else confirmed(known, model, example_input, planned(known)))


def _check(target: Target, batches: Batches | None, loss: Callable[..., Tensor] | None) -> None:
    if not isinstance(target, Target):
        raise ValueError(f"target must be one such as Speedup(2) or Latency(4.0), got {target!r}")
    if (batches is None) != (loss is None):
        raise ValueError("batches and loss must be given together, got one of them")


def _wanted(table: LatencyTable) -> dict[Pattern, list[str]]:
    """Return the names of the layers with a curve of time, by pattern."""
    found: dict[Pattern, list[str]] = {}
    for layer in table.layers.values():
        for curve in layer.curves.values():
            found.setdefault(curve.pattern, []).extend(layer.names)
    return found


def choose_plan(table: LatencyTable, curves: dict, target: Target) -> Plan:
    """Choose the best option of each layer.

    Forms that are slower than dense are taken only where a target that is not one of time cannot be met otherwise.
    """
    options = all_options(table, curves, target)
    note = ""
    if not target.in_time and _least(table, options, target) > target.limit(table):
        options = all_options(table, curves, target, faster=False)
        note = "some zeros buy no time: without them the target could not be met"
    limit = target.limit(table)
    if (least := _least(table, options, target)) > limit:
        limit = least + NEAR * (target.dense(table) - least)
        note = f"at best it has {least:.4g} of {target.dense(table):.4g} {target.unit}; the last hundredth costs most"
    chosen = _chosen(options, limit - _rest(table, target))
    return _as_plan(table, options, chosen, target, note)


def _rest(table: LatencyTable, target: Target) -> float:
    """Return what the model has beside the layers of the table."""
    return target.dense(table) - sum(target.part(layer, None, 1.0) for layer in table.layers.values())


def _least(table: LatencyTable, options: dict[str, list[Option]], target: Target) -> float:
    return _rest(table, target) + sum(min(option.cost for option in each) for each in options.values())


def _chosen(options: dict[str, list[Option]], limit: float) -> dict[str, Option]:
    """Return the option of each layer, of least loss in all within a limit; the cheapest where rounding forbids it."""
    dense = {name: each[0] for name, each in options.items()}
    if sum(option.cost for option in dense.values()) <= limit:
        return dense
    costs = [in_units([option.cost for option in each], limit) for each in options.values()]
    losses = [[option.loss for option in each] for each in options.values()]
    places = solve(costs, losses, UNITS) or [len(each) - 1 for each in options.values()]
    return {name: each[place] for (name, each), place in zip(options.items(), places, strict=True)}


def _as_plan(
    table: LatencyTable, options: dict[str, list[Option]], chosen: dict[str, Option], target: Target, note: str
) -> Plan:
    highest = highest_rate(chosen, options)
    layers = tuple(
        _layer(table.layers[name], option, options[name], target, highest) for name, option in chosen.items()
    )
    predicted = _rest(table, target) + sum(option.cost for option in chosen.values())
    ms = table.cost.ms + sum(layer.ms - layer.dense_ms for layer in layers)
    limit = target.limit(table)
    met = predicted <= limit * (1 + 1e-9)
    if met and not highest:
        note = "the dense model meets it, so nothing is to be pruned"
    return Plan(layers, str(target), target.unit, limit, target.dense(table), predicted, met, table.cost.ms, ms, note)


def _layer(layer: LayerTimes, option: Option, options: list[Option], target: Target, highest: float) -> LayerPlan:
    pattern = "" if option.pattern is None else str(option.pattern)
    price = target.price(layer, option.pattern, option.density) if pattern else 0.0
    reason = why(layer, option, options, target, highest)
    times = (layer.dense_ms, option.ms, option.loss)
    return LayerPlan(layer.names, tuple(layer.shape), pattern, option.density, *times, price, reason)
