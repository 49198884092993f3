"""Masks of ``torch.nn.utils.prune``: weights that a hook computes before every forward."""

import torch.nn.utils.prune as torch_prune
from torch import nn


def bake_torch_masks_(model: nn.Module, modules: list[nn.Module]) -> None:
    """Make masks of ``torch.nn.utils.prune`` on these modules permanent.

    A Parameter that others hold too is left as it is, unless all of them are masked alike.
    """
    holders: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            holders.setdefault(id(parameter), []).append((module, name))
    masked = [(module, name) for module in modules for name in _masked(module)]
    for module, name in [each for each in masked if _masked_alike(*each, holders)]:
        torch_prune.remove(module, name)


def _masked(module: nn.Module) -> list[str]:
    hooks = module._forward_pre_hooks.values()
    return [hook._tensor_name for hook in hooks if isinstance(hook, torch_prune.BasePruningMethod)]


def _masked_alike(module: nn.Module, name: str, holders: dict) -> bool:
    mask = module._buffers[f"{name}_mask"]
    sharing = [other for other, held in holders[id(module._parameters[f"{name}_orig"])] if held == f"{name}_orig"]
    everybody = len(sharing) == len(holders[id(module._parameters[f"{name}_orig"])])
    return everybody and all(mask.equal(other._buffers[f"{name}_mask"]) for other in sharing)
