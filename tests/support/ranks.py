"""What each of two processes does with every row: wrap it, train one step, and compare."""

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from .rows import ROWS, Row


def everything() -> dict[str, dict[str, str]]:
    """Return wrapper -> row -> what went wrong, in one line."""
    return {name: {str(row): _said(way, row) for row in ROWS} for name, way in WRAPPERS.items()}


def _said(way, row: Row) -> str:
    try:
        way(row)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def _ddp(row: Row) -> None:
    model, dense, x = row.build()
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    torch.testing.assert_close(wrapped(x), dense(x), rtol=1e-4, atol=1e-5)
    wrapped(x + dist.get_rank()).square().mean().backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            _equal_on_all(parameter.grad)


def _fsdp(row: Row) -> None:
    model, dense, x = row.build()
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)  # before a forward, which leaves the whole tensors in place
    torch.testing.assert_close(model(x), dense(x), rtol=1e-4, atol=1e-5)
    model(x).square().mean().backward()
    optimizer.step()
    after = model(x).detach()
    assert not torch.allclose(after, dense(x))  # it has learned
    _equal_on_all(after)


def _equal_on_all(tensor: torch.Tensor) -> None:
    other = tensor.clone()
    dist.broadcast(other, 0)
    torch.testing.assert_close(tensor, other)


WRAPPERS = {"DDP": _ddp, "FSDP2": _fsdp}
