"""The stages that a model goes through while it is pruned."""

import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from smart_train.masks import Masks, check_not_nan, counts
from smart_train.schedule import Lengths

from .findings import Findings
from .hooks import Hooks
from .learnable import learnable
from .watch import Watch


class Staged(Hooks, ABC):
    """The half of ``Pruner`` that goes on: dense, search, finetune, finalized."""

    repeating: tuple[str, ...] = ("dense", "finetune")  # stages in which a step is like the one before
    lengths: Lengths
    steps: int
    stage: str
    watch: Watch
    findings: Findings

    @abstractmethod
    def search(self) -> None:
        """Set the masks for a step of the search, at ``progress``; or end it with ``harden()``."""

    @property
    def progress(self) -> float:
        """Of the search: 0 in its first step, 1 in its last."""
        return min(1.0, self.lengths.progress(self.steps - 1))  # hardened in the step after the last

    @learnable
    def step(self) -> None:
        """Set the masks for the coming optimizer step, before its first forward; they stay through accumulation.

        Under ``no_grad`` as well the scores learn from what comes after it.

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
        if self.stage == "dense":
            self.dense()
        if self.stage == "search" and self.steps > self.lengths.dense_steps + self.lengths.search_steps:
            self.harden()
        if self.stage == "search":
            self._check_ranks()
            self.search()
        self.masked.prepare()
        self.watch.settle(self._learning())

    @property
    def next_stage(self) -> str:
        """Return the stage of the coming step."""
        taken = self.steps - self.lengths.dense_steps
        if self.stage == "dense" and taken >= 0:
            return "search" if taken < self.lengths.search_steps else "finetune"
        return "finetune" if self.stage == "search" and taken >= self.lengths.search_steps else self.stage

    def repeats(self, stage: str) -> bool:
        """Return whether every step of a stage does the same on the device, so that a CUDA graph may repeat one.

        Those of the search do where ``repeating`` says so. In several processes none does.
        """
        return stage in self.repeating and self.masked.ranks.count == 1

    def replayed(self) -> None:
        """Count a step that a CUDA graph repeats, ``step()`` included; not the first, which ``step()`` has counted.

        Raises:
            ValueError: the step is of another stage than the last one, or of one whose steps differ.
        """
        self._check_open()
        if self.next_stage != self.stage or not self.repeats(self.stage):
            raise ValueError(
                f"a graph must be captured anew for each stage, and repeat one whose steps are alike, got one of the "
                f"{self.stage} for the {self.next_stage}"
            )
        self.steps += 1

    @learnable
    def harden(self) -> None:
        """End the search: the best scores within the budget are kept, masks are fixed and scores frozen.

        In the dense stage this prunes at once by the scores of ``start()``; in the finetune stage it does nothing.

        Raises:
            ValueError: NaN in the scores, a budget too small for the best tile of each layer, or a finalized pruner.
        """
        self._check_open()
        if self.stage == "finetune":
            return
        searched = self.stage == "search"
        if not searched:
            self._start_search()
        self.watch.close()
        self.masked.ranks.settle()
        self.masked.check_scores()
        self.masked.ranks.check_same(self.masked.scores())
        hard = self.masked.hard_masks()
        if searched:
            self._end_search(hard)
        self.masked.set_masks(hard)
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
            many are kept, and for N:M the score_lost to further constraints (``NM.score_lost``). Further those of
            ``Findings.report``. A method may add more.

        Raises:
            ValueError: NaN in scores or masks, naming the layers (nothing else looks for it), or a finalized pruner.
        """
        self._check_open()
        self.masked.check_scores()
        masks = self.masks()
        check_not_nan("mask", masks)
        hard = self.masked.hard_masks() if self.stage == "search" else masks
        found = self.findings.report(self.stage, self.steps, hard)
        return {"step": self.steps, "stage": self.stage, **counts(self.masked, masks, hard), **found}

    def _learning(self) -> list[nn.Parameter]:
        """Return what learns now, beside the weights."""
        return self.parameters() if self.learns and self.stage == "search" else []

    @torch.no_grad()
    def _start_search(self) -> None:
        self.start()
        self.masked.ranks.same_(self.masked.scores())
        self.stage = "search"

    @torch.no_grad()
    def _end_search(self, hard: Masks) -> None:
        """Note how soft the masks still are; warn where the search was in vain."""
        self.findings.end(counts(self.masked, self.masks(), hard)["gap"])
        verdict = self.findings.verdict(self.optimizers, self.lengths.search_steps) if self.learns else ""
        if verdict:
            warnings.warn(verdict, stacklevel=4)

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
