"""Parameters that ``fully_shard`` has cut: each process holds some of their rows, as a DTensor.

Processes hold rows as ``torch.chunk`` cuts them: ``ceil(rows / processes)`` each, the last ones fewer or none.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor, nn

from smart_kernels import Masked


def is_shard(tensor: Tensor) -> bool:
    """Return whether this process holds a part of a tensor only."""
    return hasattr(tensor, "placements")  # so that torch.distributed.tensor need not be imported, which takes a second


def is_fsdp(module: nn.Module) -> bool:
    """Return whether ``fully_shard`` or its predecessor manages a module."""
    return _is_fsdp_class(type(module))


@cache  # asked for every module in every step
def _is_fsdp_class(cls: type) -> bool:
    return not {base.__name__ for base in cls.__mro__}.isdisjoint(("FSDPModule", "FullyShardedDataParallel"))


def check_exact(model: nn.Module) -> None:
    """Raise ValueError where ``fully_shard`` rounds what it brings to the layers: scores need their float32 digits."""
    policies = [module._get_fsdp_state()._mp_policy for module in model.modules() if hasattr(module, "_get_fsdp_state")]
    rounded = {policy.param_dtype for policy in policies} - {None, torch.float32, torch.float64}
    if rounded:
        raise ValueError(
            f"scores of N:M groups in shards must reach the layers as float32, got param_dtype {rounded.pop()}: use a "
            "MixedPrecisionPolicy without param_dtype, and autocast"
        )


def reshard_(model: nn.Module) -> None:
    """Put shards back where a forward has left whole parameters: the root does that until its backward."""
    for module in model.modules():
        if is_fsdp(module):
            module.reshard()


def group_of(tensor: Tensor) -> dist.ProcessGroup:
    """Return the processes that a DTensor's rows are spread over.

    Raises:
        ValueError: it is cut in another way than into rows.
    """
    cuts = [place for place, how in enumerate(tensor.placements) if not how.is_replicate()]
    if len(cuts) != 1 or not tensor.placements[cuts[0]].is_shard(0):
        raise ValueError(f"scores must be sharded along their rows, as fully_shard does, got {tensor.placements}")
    return tensor.device_mesh.get_group(cuts[0])


def mean_groups(tensors: Sequence[Tensor]) -> list[dist.ProcessGroup]:
    """Return the groups to average over, one after the other: those of the mesh; none without shards."""
    meshes = {tensor.device_mesh for tensor in tensors if is_shard(tensor)}
    return [mesh.get_group(place) for mesh in meshes for place in range(mesh.ndim)]


def shard_like(tensor: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what cuts a whole tensor as ``tensor`` is cut; for one that is not, the tensor itself."""
    if not is_shard(tensor):
        return lambda whole: whole
    group = group_of(tensor)
    mesh = tensor.device_mesh
    placements = tensor.placements
    shape = tensor.shape
    stride = tensor.stride()
    each = -(-shape[0] // dist.get_world_size(group))
    first = dist.get_rank(group) * each

    def cut(whole: Tensor) -> Tensor:
        rows = whole[first : first + each].contiguous()
        return type(tensor).from_local(rows, mesh, placements, run_check=False, shape=shape, stride=stride)

    return cut


@torch.no_grad()
def join(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return whole tensors, those in shards by one message, and copies of those that are whole.

    Copies, so that an optimizer may write into the scores while the masks of the step are still read.
    """
    found = [None if is_shard(tensor) else tensor.clone() for tensor in tensors]
    shards = [place for place, tensor in enumerate(tensors) if is_shard(tensor)]
    if shards:
        group = group_of(tensors[shards[0]])
        for place, whole in zip(shards, _joined([tensors[place] for place in shards], group), strict=True):
            found[place] = whole
    return tuple(found)


def _joined(shards: list[Tensor], group: dist.ProcessGroup) -> Iterator[Tensor]:
    count = dist.get_world_size(group)
    padded = []
    for shard in shards:
        local = shard.to_local()
        part = local.new_zeros(-(-shard.shape[0] // count), *shard.shape[1:])
        part[: len(local)] = local
        padded.append(part)
    flat = torch.cat([part.flatten() for part in padded])
    together = flat.new_empty(count * len(flat))
    by_rank = together.view(count, -1)
    dist.all_gather(list(by_rank), flat, group=group)
    parts = by_rank.split([part.numel() for part in padded], 1)
    for shard, part in zip(shards, parts, strict=True):
        yield part.reshape(-1, *shard.shape[1:])[: shard.shape[0]]


@contextmanager
def joined(layers: Iterable[Masked]) -> Iterator[None]:
    """Give layers whole weights and scores while the block runs. What it writes into the scores is kept."""
    held = [(layer, layer._parameters.copy()) for layer in layers]
    shards = list(
        {id(each): each for _, own in held for each in own.values() if each is not None and is_shard(each)}.values()
    )
    whole = {id(shard): nn.Parameter(each, False) for shard, each in zip(shards, join(shards), strict=True)}
    for layer, own in held:
        layer._parameters.update({name: whole.get(id(each), each) for name, each in own.items()})
    try:
        yield
    finally:
        for layer, own in held:
            layer._parameters.update(own)
    with torch.no_grad():
        for scores in {id(layer.scores): layer.scores for layer, _ in held}.values():
            if is_shard(scores):
                scores.copy_(shard_like(scores)(whole[id(scores)]))
