"""The processes that train one model together, each on data of its own."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from smart_kernels import masked_layers

from .shards import is_shard, join, mean_groups, reshard_, shard_like
from .wrappers import check_wrappers

IGNORED = "_ddp_params_and_buffers_to_ignore"  # where DistributedDataParallel looks for names


class Ranks:
    """Make processes agree: scores are the same on all of them, and so are masks, bit for bit.

    Scores get the mean gradient of all processes, whichever of pruner and ``DistributedDataParallel`` was made first:
    the wrapper is told to leave them alone, since a parameter that learns only in the search would stop it. Under
    ``fully_shard`` each process holds some rows of the scores; they are joined in each step.

    Args:
        model: the pruned model, without a wrapper around it.
        group: of the processes; None for all, where ``torch.distributed`` runs. A group of one for a process that
            trains alone.
    """

    def __init__(self, model: nn.Module, group: dist.ProcessGroup | None = None):
        self.model = model
        self.group = group

    @property
    def count(self) -> int:
        """How many processes there are."""
        return dist.get_world_size(self.group) if _running() else 1

    def hide_scores(self) -> None:
        """Let wrappers that are made later leave the scores alone."""
        names = {f"{name}.scores" for name in masked_layers(self.model)}
        names |= {name.removeprefix(".") for name in names}  # it looks for both where the model itself is the layer
        self.model.__dict__[IGNORED] = sorted({*self.model.__dict__.get(IGNORED, ()), *names})

    def show(self) -> None:
        """Undo ``hide_scores``, when there are no scores any more."""
        others = [name for name in self.model.__dict__.pop(IGNORED, ()) if name.rpartition(".")[2] != "scores"]
        if others:
            self.model.__dict__[IGNORED] = others

    def check_wrappers(self, scores: list[nn.Parameter]) -> None:
        """Raise ValueError where a wrapper does not let the processes agree."""
        if self.count > 1:
            check_wrappers(self.model, scores)

    def settle(self) -> None:
        """Put back shards where a forward has left whole parameters."""
        if _running():
            reshard_(self.model)

    def whole(self, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the whole scores by name; backward gives their shards the mean gradient of all processes.

        A collective operation where it needs to be one: every process must call it.
        """
        if self.count == 1 and not any(map(is_shard, scores.values())):
            return scores
        return dict(zip(scores, _Whole.apply(self, *scores.values()), strict=True))

    @torch.no_grad()
    def mean_(self, tensors: list[Tensor]) -> None:
        """Replace each by its mean over the processes, in one message."""
        if self.count > 1:
            _mean_(tensors, [self.group])

    @torch.no_grad()
    def same_(self, tensors: list[Tensor]) -> None:
        """Replace each by that of the first process, in one message. Shards, of which there is one each, stay."""
        tensors = [tensor for tensor in tensors if not is_shard(tensor)]
        if self.count > 1 and tensors:
            flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
            dist.broadcast(flat, group=self.group, group_src=0)
            _write_(tensors, flat)

    @torch.no_grad()
    def check_same(self, scores: list[Tensor]) -> None:
        """Raise ValueError where the processes do not hold the same scores."""
        scores = [each for each in scores if not is_shard(each)]
        if self.count == 1 or not scores:
            return
        flat = torch.cat([each.detach().flatten() for each in scores])
        both = torch.cat([flat, -flat])
        dist.all_reduce(both, dist.ReduceOp.MAX, self.group)
        most, least = both.chunk(2)
        if not most.equal(-least):
            raise ValueError(
                f"scores must be the same on all {self.count} processes, got {int((most != -least).sum())} of "
                f"{len(flat)} that differ: wrap the model in DistributedDataParallel, let every process make the same "
                "calls, or give a process that trains alone a process_group of its own"
            )


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()


class _Whole(torch.autograd.Function):
    """Join scores; in backward average their gradients over the processes, and cut them like the scores."""

    @staticmethod
    def forward(ctx, ranks, *scores):
        ctx.groups = mean_groups(scores) or [ranks.group]
        ctx.cuts = [shard_like(each) for each in scores]
        return join(scores)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        gradients = [gradient.clone() for gradient in gradients]
        _mean_(gradients, ctx.groups)
        return None, *(cut(gradient) for cut, gradient in zip(ctx.cuts, gradients, strict=True))


def _mean_(tensors: list[Tensor], groups: list[dist.ProcessGroup | None]) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    for group in groups:
        dist.all_reduce(flat, group=group)
        flat /= dist.get_world_size(group)
    _write_(tensors, flat)


def _write_(tensors: list[Tensor], flat: Tensor) -> None:
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))
