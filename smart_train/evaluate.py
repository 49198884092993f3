"""What a pruned model is worth: accuracy on the test images, and time beside another model."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_train.data import Data

STEADY = 0.05  # spread up to which a measurement needs no repetition


@torch.no_grad()
def accuracy(model: nn.Module, data: Data, device: str = "cpu", limit: int | None = None) -> float:
    """Percent of the first ``limit`` test images (all: None) that ``model`` gets right, in float32."""
    training = model.training
    model.eval()
    right = count = 0
    for images, labels in data.test_batches(250, limit):
        right += (model(images.to(device)).argmax(1).cpu() == labels).sum().item()
        count += len(labels)
    model.train(training)
    return 100 * right / count


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    """Mean over the images of KL(softmax(target) || softmax(logits)), in nats, for (images, classes) logits."""
    return F.kl_div(logits.log_softmax(1), target.log_softmax(1), reduction="batchmean", log_target=True)


@torch.no_grad()
def agreement(dense: nn.Module, model: nn.Module, data: Data, device: str = "cpu") -> dict[str, float]:
    """Over the test images: percent to which both, in eval mode, give the same class, and the mean divergence."""
    same = kl = count = 0.0
    for images, _ in data.test_batches(250):
        target, logits = dense(images.to(device)), model(images.to(device))
        same += (target.argmax(1) == logits.argmax(1)).sum().item()
        kl += divergence(target, logits).item() * len(images)
        count += len(images)
    return {"same": 100 * same / count, "kl": kl / count}


@dataclass(frozen=True)
class Comparison:
    """Two models timed in turns on the same input; ``speedup`` is the median over the pairs of dense / sparse."""

    dense_ms: float
    sparse_ms: float
    speedup: float
    spread: float  # interquartile range of the speedup over its median
    pairs: int

    def to_dict(self) -> dict:
        return asdict(self)


@torch.no_grad()
def compare(dense: nn.Module, sparse: nn.Module, example: Tensor, pairs: int = 40, rounds: int = 3) -> Comparison:
    """Time ``dense(example)`` and ``sparse(example)`` in turns; measured again when the spread exceeds 5 %.

    Args:
        dense, sparse: in eval mode, on the device of ``example``.
        rounds: at most this many measurements; the steadiest counts.
    """
    for _ in range(5):
        dense(example), sparse(example)
    best = _measure(dense, sparse, example, pairs)
    for _ in range(rounds - 1):
        if best.spread <= STEADY:
            break
        best = min(best, _measure(dense, sparse, example, pairs), key=lambda measured: measured.spread)
    return best


def _measure(dense: Callable, sparse: Callable, example: Tensor, pairs: int) -> Comparison:
    times = [(_milliseconds(dense, example), _milliseconds(sparse, example)) for _ in range(pairs)]
    ratios = [slow / fast for slow, fast in times]
    low, middle, high = statistics.quantiles(ratios, n=4)
    dense_ms, sparse_ms = (statistics.median(column) for column in zip(*times, strict=True))
    return Comparison(dense_ms, sparse_ms, middle, (high - low) / middle, pairs)


def _milliseconds(model: Callable, example: Tensor) -> float:
    synchronise = torch.cuda.synchronize if example.is_cuda else lambda: None
    # the time of this thread leaves out what other processes take, but also what other threads do
    clock = time.perf_counter if example.is_cuda or torch.get_num_threads() > 1 else time.thread_time
    synchronise()
    start = clock()
    model(example)
    synchronise()
    return 1e3 * (clock() - start)
