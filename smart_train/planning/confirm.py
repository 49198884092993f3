"""A plan is tried on the untrained masks before anything is trained: what its savings are worth in the model itself."""

import copy
from dataclasses import replace
from typing import Any

from torch import nn

from smart_kernels import LatencyTable
from smart_train.plans import Plan
from smart_train.pruners.oneshot import OneShotPruner

from .correct import measured_ms

PATIENCE = 0.1  # seconds to go on measuring a layer whose times have not settled


def confirmed(table: LatencyTable, model: nn.Module, example_input: Any, found: Plan) -> LatencyTable:
    """Return the table with what a layer saves as it was measured for a plan, in a copy pruned at once by magnitude.

    Args:
        table: that the plan was made from.
        model: plain; it stays as it is.
        example_input: see ``latency_table``.
        found: a plan; one that leaves all dense, or is not for a time, says nothing.
    """
    if not found.pruned or found.unit != "ms":
        return table
    pruned = copy.deepcopy(model)
    pruner = OneShotPruner(pruned, found, search_steps=1)
    pruner.harden()
    saved = found.dense_ms - measured_ms(pruner, found, example_input, PATIENCE)
    scale = saved / (found.dense_ms - found.ms)
    if scale <= 0:
        return table
    layers = {name: replace(layer, dense_ms=scale * layer.dense_ms) for name, layer in table.layers.items()}
    return replace(table, layers=layers, factor=scale * table.factor)
