"""What is tried with each layer. A column is a function of a row and an empty folder that raises where it fails."""

import csv
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from bench.zoo.stand_in import define
from tests.util import assert_close

from .rows import BATCH, Row

CENSUS = Path(__file__).parents[2] / "bench" / "results" / "codegen.csv"
TARGETS = {"NVIDIA": ("sm_80", "sm_90", "sm_120"), "AMD": ("gfx942",)}
COLUMNS: dict[str, Callable] = {}


def column(name: str):
    """Enter a function as a column."""
    return lambda function: COLUMNS.setdefault(name, function)


def forward(row: Row, dtype: torch.dtype) -> None:
    """Compare with the dense layer that has the same zeros."""
    model, dense, x = row.build(dtype)
    with torch.no_grad():
        assert_close("y", model.eval()(x), dense.eval()(x), dtype)


for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
    column(str(dtype).removeprefix("torch."))(lambda row, folder, dtype=dtype: forward(row, dtype))


@column("backward")
def backward(row: Row, folder: Path) -> None:
    """Compare gradients of the input, and of the weights where they are stored."""
    model, dense, x = row.build()
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    for each, at in ((model, mine), (dense, theirs)):
        each.train()(at).square().sum().backward()
    assert_close("dx", mine.grad, theirs.grad, x.dtype)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "bias" not in n)


@column("compile")
def compile(row: Row, folder: Path) -> None:
    """Compile forward and backward into one graph."""
    model, dense, x = row.build()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    y = compiled(x)
    assert_close("y", y.detach(), dense(x).detach(), x.dtype)
    y.sum().backward()


@column("export")
def export(row: Row, folder: Path) -> None:
    """Export with a batch that changes."""
    model, dense, x = row.build()
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(model.eval(), (x,), dynamic_shapes=({0: batch},))
    with torch.no_grad():
        assert_close("y", exported.module()(x[: BATCH - 1]), dense(x[: BATCH - 1]), x.dtype)


@column("ONNX")
def onnx(row: Row, folder: Path) -> None:
    """Run in onnxruntime."""
    import onnxruntime

    model, dense, x = row.build()
    path = str(folder / "model.onnx")
    torch.onnx.export(model.eval(), (x,), path, dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path)
    y = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    with torch.no_grad():
        assert_close("y", y, dense(x), x.dtype)


@column("DDP")
def ddp(row: Row, folder: Path) -> None:
    """Train in two processes with DistributedDataParallel."""
    _raise(_in_two_processes(folder)["DDP"][str(row)])


@column("FSDP2")
def fsdp(row: Row, folder: Path) -> None:
    """Train in two processes with fully_shard."""
    _raise(_in_two_processes(folder)["FSDP2"][str(row)])


@column("Hugging Face")
def hugging_face(row: Row, folder: Path) -> None:
    """Prune in a Trainer; of a sparse layer: save_pretrained, from_pretrained."""
    define()  # before anybody imports torchvision
    from . import hugging_face

    (hugging_face.trained if row.masked else hugging_face.saved)(row, folder)


def _census(row: Row, vendor: str) -> None:
    if not row.census:
        raise NotImplementedError("no kernel of ours")
    assert all((row.census, target) in _compiled() for target in TARGETS[vendor]), "not in the census"


for name in TARGETS:
    column(f"{name} GPU")(lambda row, folder, name=name: _census(row, name))


@cache
def _compiled() -> set[tuple[str, str]]:
    """Return which operators the census has compiled, for which target, without an error."""
    with CENSUS.open() as file:
        rows = list(csv.DictReader(file))
    wrong = {(row["case"].split()[0], row["target"]) for row in rows if row["error"]}
    return {(row["case"].split()[0], row["target"]) for row in rows} - wrong


@cache
def _answers(folder: Path) -> dict[str, dict[str, str]]:
    from tests.distributed.processes import run

    from . import ranks

    return run(folder, 2, ranks.everything)[0]


def _in_two_processes(folder: Path) -> dict[str, dict[str, str]]:
    return _answers(folder.parents[0])


def _raise(message: str) -> None:
    if message:
        raise RuntimeError(message)
