"""``SmartCallback``: pruning in the Trainer of Hugging Face."""

from itertools import islice
from pathlib import Path

import torch

from smart_train.pruners import Pruner

from .driver import Driver

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError("SmartCallback needs transformers: pip install smart-kernels[transformers]") from error

STATE = "smart_pruner.pt"  # beside the Trainer's own files in checkpoint-N


class SmartCallback(TrainerCallback):
    """Prunes the model of a ``Trainer`` while it trains.

    ::

        pruner = SmartPruner(model, Block(32, 32), sparsity=0.8, search_steps=1000)
        trainer = Trainer(model, args, train_dataset=data, callbacks=[SmartCallback(pruner)])
        trainer.train()  # at the end: plain layers, exact zeros

    One step of the pruner per optimizer step, whatever the accumulation of gradients. Its state is written into each
    ``checkpoint-N`` and read by ``train(resume_from_checkpoint=...)``; the pruner and the Trainer have to be made as
    before. Methods that look at batches first get those of the Trainer, with the model's own loss. A training that is
    stopped during the search leaves the model masked: ``pruner.finalize()`` ends it.

    Args:
        pruner: made before the Trainer, of its model.
        lr: Adam's learning rate for the scores; 0.03 suits N:M better. The Trainer's schedule does not touch it.
        resume_from: the checkpoint to continue from, where it is not ``checkpoint-N`` in the Trainer's ``output_dir``.

    Attributes:
        report: of ``finalize()``, once training has ended; None before.

    Raises:
        ValueError: when training begins: the Trainer has another model, takes too few steps, or resumes without the
            pruner's state.
    """

    def __init__(self, pruner: Pruner, lr: float = 0.1, resume_from: str | Path | None = None):
        self.driver = Driver(pruner, lr)
        self.resume_from = resume_from
        self.report = None

    def on_train_begin(self, args, state, control, model=None, optimizer=None, train_dataloader=None, **kwargs):
        """Look whether everything fits; take up the state of a checkpoint, or show the method its first batches."""
        if model is None or not {*map(id, self.driver.pruner.model.modules())} & {*map(id, model.modules())}:
            raise ValueError("the Trainer must have the model of the pruner, got another: make the pruner of it")
        self.driver.begin(state.max_steps, getattr(optimizer, "optimizer", optimizer))  # accelerate wraps it
        if state.global_step:
            self._resume(args, state.global_step)
        elif count := self.driver.pruner.prepare_batches:
            batches = [(batch,) for batch in islice(train_dataloader, count)]
            self.driver.pruner.prepare(batches, lambda batch: _loss(model, batch))

    def on_step_begin(self, args, state, control, **kwargs):
        """Set the masks; comes once per optimizer step."""
        self.driver.before_forward()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """Update the scores; comes after the last backward and clipping."""
        self.driver.before_update()

    def on_optimizer_step(self, args, state, control, **kwargs):
        """Pass on that the weights have moved."""
        self.driver.after_update()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Add sparsity, gap and temperature to what is logged."""
        if logs is not None and "loss" in logs and self.report is None:
            numbers = self.driver.numbers()
            logs |= numbers
            state.log_history[-1] |= numbers

    def on_save(self, args, state, control, **kwargs):
        """Write the pruner's state into the checkpoint that the Trainer has just written."""
        if state.is_world_process_zero and self.report is None:
            torch.save(self.driver.state_dict(), _checkpoint(args, state.global_step) / STATE)

    def on_train_end(self, args, state, control, **kwargs):
        """Leave plain layers, if the search has ended."""
        self.report = self.driver.end()

    def _resume(self, args, step: int) -> None:
        given = self.resume_from or args.resume_from_checkpoint
        folder = Path(given) if isinstance(given, str | Path) else _checkpoint(args, step)
        if not (folder / STATE).is_file():
            raise ValueError(
                f"a resumed training needs {STATE} of SmartCallback in its checkpoint, got none in {folder}: "
                "say SmartCallback(pruner, resume_from=...) where the checkpoint lies elsewhere"
            )
        self.driver.load_state_dict(torch.load(folder / STATE, map_location="cpu", weights_only=True))


def _loss(model: torch.nn.Module, batch: dict) -> torch.Tensor:
    loss = getattr(model(**batch), "loss", None)
    if loss is None:
        raise ValueError("a method that looks at batches first needs the loss of the model, got none: add labels")
    return loss


def _checkpoint(args, step: int) -> Path:
    return Path(args.output_dir) / f"checkpoint-{step}"
