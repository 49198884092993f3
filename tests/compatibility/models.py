"""The models behind the files in ``v0.1.0``, and how those files were written.

``python -m tests.compatibility.models DIRECTORY`` writes them anew with the version at hand; what is committed was
written by version 0.1.0 (25cb45a) and stays as it is.
"""

import copy
import sys
from pathlib import Path

import torch
from torch import nn

from smart_kernels import NM, Block, Channel, compress_, save, slim_
from smart_train import SmartPruner

SEARCH_STEPS = 6


class CNN(nn.Module):
    """Residual, with BatchNorm: 3 x 8 x 8 images to 4 classes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.body(x)).mean((2, 3)))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True), 1)


# name: model, shape of its input, pattern
SAVED = {
    "block": (mlp, (6, 32), Block(8, 8)),
    "nm": (mlp, (6, 32), NM(2, 4)),
    "taps": (CNN, (2, 3, 8, 8), Block(8, 8, "all")),
    "slimmed": (CNN, (2, 3, 8, 8), Channel()),
    "attention": (encoder, (2, 5, 32), Block(8, 8)),
}
STOPPED = {"search": 4, "finetune": 9}  # stage: after how many steps its state was taken


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return SAVED[name][0]().eval()


def pruner_of(model: nn.Module) -> SmartPruner:
    return SmartPruner(model, Block(8, 8), 0.5, search_steps=SEARCH_STEPS)


def advance(model: nn.Module, pruner: SmartPruner, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        data = torch.randn(6, 32, generator=torch.Generator().manual_seed(step))
        pruner.step()
        optimizer.zero_grad()
        model(data).square().mean().backward()
        optimizer.step()


def optimizer_of(pruner: SmartPruner) -> torch.optim.Optimizer:
    return torch.optim.Adam([{"params": pruner.weights()}, pruner.param_group()], lr=1e-2)


@torch.no_grad()
def _pruned(name: str, x: torch.Tensor) -> nn.Module:
    model, pattern = built(name), SAVED[name][2]
    pruner = SmartPruner(model, pattern, pattern.sparsity or 0.5, search_steps=1, example_input=_coupling(pattern, x))
    pruner.finalize()
    if isinstance(pattern, Channel):
        slim_(model, x)
    return model.eval()


def _coupling(pattern, x):
    return x if isinstance(pattern, Channel) else None


def write(directory: Path) -> None:
    for name, (_, shape, pattern) in SAVED.items():
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        model = _pruned(name, x)
        report = compress_(model, x, pattern, backends=("dense", "compact", "bsr", "nm"), policy="size", seconds=0)
        save(model, directory / name, report)
        with torch.no_grad():
            torch.save({"input": x, "output": model(x)}, directory / name / "expected.pt")
    for stage, steps in STOPPED.items():
        torch.manual_seed(0)
        model = mlp()
        pruner = pruner_of(model)
        optimizer = optimizer_of(pruner)
        advance(model, pruner, optimizer, range(steps))
        state = {"model": model.state_dict(), "pruner": pruner.state_dict(), "optimizer": optimizer.state_dict()}
        state = copy.deepcopy(state)  # the tensors in it go on changing
        advance(model, pruner, optimizer, range(steps, 12))
        pruner.finalize()
        torch.save({"state": state, "final": model.state_dict()}, directory / f"{stage}.pt")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
