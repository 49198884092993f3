"""Tell what is wrapped around a model for training in several processes, and whether that can be pruned."""

import gc
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from smart_kernels.convert import check_model

from .shards import is_fsdp, is_shard


def unwrapped(model: nn.Module, group: dist.ProcessGroup | None) -> tuple[nn.Module, dist.ProcessGroup | None]:
    """Return the model in a ``DistributedDataParallel``, and the processes of that.

    Raises:
        TypeError: it is no model.
        ValueError: it is in shards already, or in an ``nn.DataParallel``; or this is ``inference_mode``.
    """
    check_model(model, "a pruner")
    if torch.is_inference_mode_enabled():
        raise ValueError("a pruner must be made outside of torch.inference_mode: what is made in it cannot learn")
    if any(map(is_fsdp, model.modules())) or any(map(is_shard, model.parameters())):
        raise ValueError("the pruner must be made before fully_shard, got a model in shards; FSDP1 cannot be pruned")
    if isinstance(model, DistributedDataParallel):
        return model.module, model.process_group if group is None else group
    return model, group


def check_wrappers(model: nn.Module, scores: Sequence[nn.Parameter]) -> None:
    """Raise ValueError where a ``DistributedDataParallel`` around ``model`` does not go together with its masks.

    A wrapper is not known to what it wraps, so all that there are in the process are looked through.
    """
    own = {id(each) for each in scores}
    for wrapper in _wrappers(model):
        known = {id(parameter) for parameter in wrapper._module_parameters}
        new = [name for name, each in wrapper.module.named_parameters() if id(each) not in known | own]
        if new:
            raise ValueError(
                "the pruner must be made before DistributedDataParallel where attention is split, got a wrapper that "
                f"does not know {', '.join(new[:3])}"
            )
        if known & own and not wrapper.find_unused_parameters:
            raise ValueError(
                "DistributedDataParallel around a module that contains the pruned model waits for scores, which learn "
                "in the search only: make the pruner after it, or give it find_unused_parameters=True"
            )


def _wrappers(model: nn.Module) -> list[DistributedDataParallel]:
    found = [each for each in gc.get_objects() if issubclass(type(each), DistributedDataParallel)]
    return [wrapper for wrapper in found if any(module is model for module in wrapper.modules())]
