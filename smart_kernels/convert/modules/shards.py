"""Models that cannot be changed here: none at all, scripts, replicas, and what ``fully_shard`` has cut."""

import torch
from torch import nn


def check_model(model: nn.Module, action: str) -> None:
    """Raise TypeError unless this is a model whose modules ``action`` can change; ValueError in a ``DataParallel``."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{action} needs an nn.Module, got {model if isinstance(model, type) else type(model)}")
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise TypeError(f"{action} needs modules in Python, got a ScriptModule: do it before torch.jit.script or trace")
    if any(isinstance(module, nn.DataParallel) for module in model.modules()):
        raise ValueError(
            f"{action} needs the model itself, got an nn.DataParallel, which copies it anew in every forward: give its "
            ".module, and train with DistributedDataParallel"
        )


def check_whole(model: nn.Module, action: str) -> None:
    """Raise ValueError where a process holds a part of a parameter only, so that ``action`` cannot be; or TypeError."""
    check_model(model, action)
    shards = [name for name, parameter in model.named_parameters() if hasattr(parameter, "placements")]
    if shards:
        raise ValueError(
            f"{action} needs whole parameters, got shards of fully_shard in {', '.join(shards[:3])}"
            f"{' and more' if len(shards) > 3 else ''}: do it before, or load the full state_dict into a model without"
        )
