"""``quantize_int8_``: the 2:4 layers of a pruned model in eight bits."""

import logging
from collections.abc import Callable

import torch
from torch import nn

from smart_kernels.nn import QuantizedLinear, SparseLinear, is_2_4

from .modules import check_model, evaluating, swap_, users_of_weights, whole_or_not_at_all, why_not_plain

logger = logging.getLogger("smart_kernels")


def quantize_int8_(
    model: nn.Module, filter_fn: Callable[[nn.Module, str], bool] | None = None
) -> dict[str, QuantizedLinear]:
    """Quantize the Linears that are 2:4 to int8, in place: nothing is trained, and no data is needed.

    The modules stay the same objects. Inputs are quantized at each call, by their largest value. On a GPU the products
    run on sparse tensor cores (sm_80 and later); nothing is timed, and on a CPU it is slower. Save the model before:
    ``save`` and ``load`` do not know these layers.

    Args:
        model: pruned with ``NM(2, 4)`` and finalized, or compressed.
        filter_fn: ``(module, name) -> bool``, which of the 2:4 Linears; default: all.

    Returns:
        The quantized layers by name.

    Raises:
        ValueError: no layer is 2:4, or the GPU cannot multiply them. The model is as it was then.
    """
    check_model(model, "quantize_int8_")
    users = users_of_weights(model)
    modules = {
        name: module
        for name, module in model.named_modules()
        if _is_2_4(module, users, name) and (filter_fn is None or filter_fn(module, name))
    }
    if not modules:
        raise ValueError("quantize_int8_ needs an nn.Linear with two of every four weights 0, got none")
    with whole_or_not_at_all(model), torch.no_grad():
        swap_(model, {module: _quantized(module) for module in modules.values()})
        first = next(iter(modules.values()))
        with evaluating(model):
            first(torch.zeros(1, first.in_features, device=first.weight.device))  # a GPU that cannot says so now
    return modules


def _is_2_4(module: nn.Module, users: dict[int, list[str]], name: str) -> bool:
    if not isinstance(module, nn.Linear | SparseLinear):
        return False
    weight = module.weight
    if not is_2_4(weight):
        return False
    reason = why_not_plain(module) if isinstance(module, nn.Linear) else None
    shared = [user for user in users.get(id(weight), []) if user != name]
    if reason or shared:
        logger.warning("%s is not quantized: %s", name, reason or f"its weight is also used by {', '.join(shared)}")
        return False
    return True


def _quantized(layer: nn.Linear | SparseLinear) -> QuantizedLinear:
    return QuantizedLinear(layer.weight.detach().as_subclass(torch.Tensor), layer.bias).train(layer.training)
