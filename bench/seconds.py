"""How long ``compress_`` takes: ``python -m bench.seconds [sparsity]``, on ResNets without random 32x32 blocks."""

import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_kernels import compress_

from .resnet import ResNet

BLOCK = 32
WIDTHS = (64, 128, 256, 512)


class Basic(nn.Module):
    """Two 3x3 convolutions, the first with the stride, added to the input (ResNet-18's block)."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.first, self.second = _conv(inputs, width, 3, stride), _conv(width, width, 3)
        self.shortcut = _conv(inputs, width, 1, stride) if stride > 1 or inputs != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


def resnet18(classes: int = 1000) -> nn.Sequential:
    """Return ResNet-18 with fresh weights."""
    blocks = []
    inputs = WIDTHS[0]
    for stage, width in enumerate(WIDTHS):
        blocks += [Basic(inputs, width, 2 if stage else 1), Basic(width, width, 1)]
        inputs = width
    stem = [_conv(3, WIDTHS[0], 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


def prune(model: nn.Module, sparsity: float) -> None:
    """Set random blocks of all taps to 0, drawn over each whole layer: rows differ, so that few layers are alike."""
    for layer in model.modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d) or any(size % BLOCK for size in layer.weight.shape[:2]):
            continue
        rows, columns = (size // BLOCK for size in layer.weight.shape[:2])
        mask = torch.zeros(rows * columns)
        mask[torch.randperm(len(mask))[: max(1, round((1 - sparsity) * len(mask)))]] = 1
        mask = mask.view(rows, columns).repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
        layer.weight.data.mul_(mask.view(mask.shape + (1,) * (layer.weight.dim() - 2)))


def main(sparsity: float, side: int = 224) -> None:
    """Print the seconds for each model, and what became of it."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, side, side)
    for name, make in {"ResNet-18": resnet18, "ResNet-50": ResNet}.items():
        model = make().eval()
        prune(model, sparsity)
        start = time.perf_counter()
        report = compress_(model, x)
        seconds = time.perf_counter() - start
        sparse = sum(row.sparse for row in report.rows)
        print(f"{name} {sparsity:.0%}: {seconds:.1f} s, {sparse} of {len(report.rows)} layers sparse, {report.device}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.8)
