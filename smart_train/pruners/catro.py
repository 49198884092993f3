"""Channels that tell the classes apart."""

import torch
from torch import Tensor

from smart_train.masks import spread_, uniform

from .outputs import by_path, channels_last, check_channels, kept_buffers, watched
from .prepared import PreparedPruner


class CATROPruner(PreparedPruner):
    """One-shot pruning of the channels with the smallest part in the trace ratio of the classes.

    After Hu et al., "CATRO: Channel Pruning via Class-Aware Trace Ratio Optimization" (IEEE TNNLS 2023, arXiv
    2110.10921), our reading, from the abstract and from memory. Features are a layer's outputs, averaged over
    positions. Of the diagonals of their scatter between and within classes, ``between - ratio * within`` ranks the
    channels of a layer, with the ratio that the channels kept have themselves. Instead of the paper's greedy choice
    among layers each layer keeps the same share. For ``Channel`` and batches (x, ..., class).

    Args:
        prepare_batches: how many batches to look at.
        common: the arguments of ``Pruner``.
    """

    title = "CATRO"

    def check(self, masked):
        check_channels(self.title, masked)

    @torch.no_grad()
    def measure(self, batches, loss):
        layers = by_path(self.masked)
        features: dict[str, list[Tensor]] = {path: [] for path in layers}

        def see(path: str, output: Tensor) -> None:
            features[path].append(channels_last(layers[path], output).mean(1))

        with kept_buffers(self.model), watched(layers, see):
            for batch in batches:
                loss(*batch)
        classes = torch.cat([batch[-1].flatten() for batch in batches])
        images = {sum(map(len, seen)) for seen in features.values()}
        if classes.is_floating_point() or images != {len(classes)}:
            count = f"{len(classes)} {classes.dtype} for {sorted(images)} inputs"
            raise ValueError(f"{self.title} needs batches that end with the class of each input, integers, got {count}")
        return {name: self._ratios(name, features, classes) for name in self.layers}

    def _ratios(self, name: str, features: dict[str, list[Tensor]], classes: Tensor) -> Tensor:
        between = within = torch.zeros_like(self.layers[name].scores)
        for own, layer in self.masked.sharing[name].items():
            parts = scatter(torch.cat(features[f"{name}/{own}"]), classes)
            scale = parts[1].sum().clamp_min(1e-30)
            between = between + layer.per_score((parts[0] / scale).unsqueeze(1))
            within = within + layer.per_score((parts[1] / scale).unsqueeze(1))
        keep = max(1, round((1 - self._sparsity(name)) * len(between)))
        return trace_ratio(between.flatten(), within.flatten(), keep).view_as(between)

    def _sparsity(self, name: str) -> float:
        pool = next(pool for pool in self.pools if name in pool.layers)
        return pool.asked / pool.weights

    def start(self):
        super().start()
        for pool in self.pools:
            spread_(pool, uniform(pool))

    def search(self):
        self.harden()


def scatter(features: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the diagonals (N,) of the scatter of (images, N) features between classes and within them."""
    features = features.double()
    between = torch.zeros_like(features[0])
    within = torch.zeros_like(features[0])
    for each in classes.unique():
        own = features[classes == each]
        between += len(own) * (own.mean(0) - features.mean(0)).square()
        within += (own - own.mean(0)).square().sum(0)
    return between.float(), within.float()


def trace_ratio(between: Tensor, within: Tensor, keep: int) -> Tensor:
    """Return scores whose ``keep`` best have the largest ``sum(between) / sum(within)`` of all choices of so many.

    Dinkelbach's iteration: each ratio is at least the one before, and it ends when the choice stays the same.
    """
    ratio = between.sum() / within.sum().clamp_min(1e-30)
    while True:
        scores = between - ratio * within
        best = scores.topk(keep).indices
        better = between[best].sum() / within[best].sum().clamp_min(1e-30)
        if better <= ratio * (1 + 1e-6):
            return scores
        ratio = better
