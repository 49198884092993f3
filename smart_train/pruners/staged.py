"""The stages that a model goes through while it is pruned."""

import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from smart_train.masks import check_not_nan, counts
from smart_train.schedule import Lengths

from .hooks import Hooks
from .watch import Watch


class Staged(Hooks, ABC):
    """The half of ``Pruner`` that goes on: dense, search, finetune, finalized."""

    lengths: Lengths
    steps: int
    stage: str
    watch: Watch

    @abstractmethod
    def search(self) -> None:
        """Set the masks for a step of the search, at ``progress``; or end it with ``harden()``."""

    @property
    def progress(self) -> float:
        """Of the search: 0 in its first step, 1 in its last."""
        return self.lengths.progress(self.steps - 1)

    def step(self) -> None:
        """Set the masks for the coming optimizer step, before its first forward; they stay through accumulation.

        Raises:
            ValueError: the pruner is finalized.
        """
        self._check_open()
        self.masked.ranks.settle()
        if self.steps == 0:
            self.masked.ranks.check_wrappers(self.masked.scores())
        self.watch.step(self._learning())
        self.steps += 1
        if self.stage == "dense" and self.steps > self.lengths.dense_steps:
            self._start_search()
        if self.stage == "search" and self.steps > self.lengths.dense_steps + self.lengths.search_steps:
            self.harden()
        if self.stage == "search":
            self._check_ranks()
            self.search()
        self.watch.settle(self._learning())

    def harden(self) -> None:
        """End the search: the best scores within the budget are kept, masks are fixed and scores frozen.

        In the dense stage this prunes at once by the scores of ``start()``; in the finetune stage it does nothing.

        Raises:
            ValueError: NaN in the scores, a budget too small for the best tile of each layer, or a finalized pruner.
        """
        self._check_open()
        if self.stage == "finetune":
            return
        if self.stage == "dense":
            self._start_search()
        self.watch.close()
        self.masked.ranks.settle()
        self.masked.check_scores()
        self.masked.ranks.check_same(self.masked.scores())
        self.masked.set_masks(self.masked.hard_masks())
        self.masked.train_scores(False)
        self.stage = "finetune"

    def finalize(self) -> dict[str, Any]:
        """Harden if that has not happened and leave plain layers with exact zeros.

        Train on before this, in the finetune stage: afterwards nothing holds the zeros, and an optimizer with momentum
        moves them in its next step, which is said in a warning, as is a search that is cut short.

        Returns:
            The last ``report()``, with the gap before hardening.

        Raises:
            ValueError: as by ``harden``, or the weights are in shards of ``fully_shard``; the model is as after
                ``harden()`` then. Its full state and ``state_dict()`` go on without shards, in any number of processes.
        """
        before = self._gap()
        self.harden()
        report = self.report() | before
        self.masked.make_plain()
        self.watch.zeros()
        self.stage = "finalized"
        return report

    @torch.no_grad()
    def report(self) -> dict[str, Any]:
        """Return the state of affairs, in fractions of the prunable weights.

        Looking waits for the GPU, so look now and then, not every step.

        Returns:
            step, stage; asked_sparsity and kept_sparsity, the latter if the masks were hardened now; live: the fraction
            whose mask is above eps; gap: ``sum |mask - hard| / kept``; and for each layer in layers its weights and how
            many are kept, and for N:M the score_lost to further constraints (``NM.score_lost``). A method may add more.

        Raises:
            ValueError: NaN in scores or masks, naming the layers (nothing else looks for it), or a finalized pruner.
        """
        self._check_open()
        self.masked.check_scores()
        masks = self.masks()
        check_not_nan("mask", masks)
        hard = self.masked.hard_masks() if self.stage == "search" else masks
        return {"step": self.steps, "stage": self.stage, **counts(self.masked, masks, hard)}

    def _learning(self) -> list[nn.Parameter]:
        """Return what learns now, beside the weights."""
        return self.parameters() if self.learns and self.stage == "search" else []

    @torch.no_grad()
    def _start_search(self) -> None:
        self.start()
        self.masked.ranks.same_(self.masked.scores())
        self.stage = "search"

    def _check_ranks(self) -> None:
        if self.steps == self.lengths.dense_steps + 2:  # the first scores that an optimizer has moved
            self.masked.ranks.check_same(self.masked.scores())

    def _gap(self) -> dict[str, float]:
        """Return the gap of masks that are still soft; warn where the search would have gone on."""
        found = {"gap": self.report()["gap"]} if self.stage == "search" else {}
        whole = self.lengths.dense_steps + self.lengths.search_steps
        if self.stage != "finetune" and 0 < self.steps < whole:
            gap = "".join(f", at a gap of {gap:.2g}" for gap in found.values())
            warnings.warn(f"finalize() came at step {self.steps} of {whole}, in the {self.stage}{gap}", stacklevel=3)
        return found

    def _check_open(self) -> None:
        if self.stage == "finalized":
            raise ValueError("a pruner must have masked layers, got one after finalize(): they are plain now")
