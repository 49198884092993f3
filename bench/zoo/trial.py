"""Half of the channels of one model, pruned and removed."""

import logging
import time
from collections import Counter
from importlib.metadata import version

import torch
from torch import Tensor, nn

from smart_kernels import Channel, slim_
from smart_train import SmartPruner

from ..rows import device_name
from .library import Family, build
from .table import Result

SIDES = (64, 96, 128, 192, 224, 256)  # of a picture; the first that a model takes is used
FEWER = 0.75  # a model counts as slimmed with at most this part of its parameters
TOLERANCE = 1e-4  # relative, of the outputs before and after


class Notes(logging.Handler):
    """Collect what the package says while it works."""

    def __init__(self):
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def attempt(family: Family, name: str, threads: int) -> Result:
    """Build a model, prune half of its channels and slim it; whatever it raises is its result."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    notes = Notes()
    logging.getLogger("smart_kernels").addHandler(notes)
    begin = time.thread_time()
    size = 0
    left = 0
    shape = ""
    try:
        model = build(family, name).eval()
        size = sum(p.numel() for p in model.parameters())
        x = smallest_input(model)
        shape = "x".join(map(str, x.shape))
        left = _slimmed(model, x)
        verdict = "slimmed" if left <= FEWER * size else "stays"
        reason = "" if verdict == "slimmed" else _why(notes.lines)
    except Exception as error:  # other people's models
        nothing = "needs at least one nn.Linear or convolution to prune" in str(error)
        verdict = "stays" if nothing else "fails"
        reason = _why(notes.lines) if nothing else f"{type(error).__name__}: {error}".splitlines()[0][:200]
        left = left or size
    finally:
        logging.getLogger("smart_kernels").removeHandler(notes)
    seconds = round(time.thread_time() - begin, 1)
    return Result(str(family), name, size, left, shape, verdict, reason, seconds, _made_with(threads))


def smallest_input(model: nn.Module) -> Tensor:
    """Return a picture of the smallest side that the model runs on.

    Raises:
        Exception: of the model, when it takes none.
    """
    own = getattr(model, "default_cfg", {}).get("input_size", (3, 224, 224))
    error: Exception = ValueError("no picture")
    for side in (*SIDES, own[-1]):
        x = torch.randn(1, own[0], side, side)
        try:
            with torch.no_grad():
                model(x)
            return x
        except Exception as failed:  # too small for it, or not the one side that it takes
            error = failed
    raise error


@torch.no_grad()
def _slimmed(model: nn.Module, x: Tensor) -> int:
    """Return how many parameters are left.

    Raises:
        ValueError: the output has changed.
    """
    with torch.enable_grad():
        pruner = SmartPruner(model, Channel(), 0.5, search_steps=1, example_input=x)
    pruner.step()
    pruner.finalize()
    before = model(x)
    slim_(model, x)
    difference = (model(x) - before).norm()
    if not difference <= TOLERANCE * before.norm():  # some heads start at 0
        raise ValueError(f"the output must agree to {TOLERANCE}, got a difference of {difference:.1e}")
    return sum(p.numel() for p in model.parameters())


def _why(lines: list[str]) -> str:
    """Return the most frequent reasons for channels to stay, without the names of layers."""
    found = Counter(line.split("channels stay that reach ")[-1].split(" in ")[0] for line in lines if "reach" in line)
    kinds = Counter(line.partition(" stays dense: ")[2] for line in lines if " stays dense: " in line)
    parts = [f"{count} layers: {why}" for why, count in kinds.most_common(2)]
    if found:
        parts.append("unknown operators: " + ", ".join(name for name, _ in found.most_common(4)))
    return "; ".join(parts)


def _made_with(threads: int) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))
    return f"{device_name('cpu')}, {threads} thread, {versions}, python -m bench zoo"
