"""``SmartCallback``: pruning in the Trainer of Lightning."""

from typing import Any

from smart_train.pruners import Pruner

from .driver import Driver

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise ImportError("SmartCallback needs lightning: pip install smart-kernels[lightning]") from error


class SmartCallback(Callback):
    """Prunes a ``LightningModule``, or a module in it, while a Lightning ``Trainer`` trains it.

    ::

        pruner = SmartPruner(module.net, Block(32, 32), sparsity=0.8, search_steps=1000)
        trainer = Trainer(max_epochs=10, callbacks=[SmartCallback(pruner)])
        trainer.fit(module, loader)  # at the end: plain layers, exact zeros

    One step of the pruner per optimizer step, whatever ``accumulate_grad_batches``. Its state is in the checkpoints,
    and ``fit(..., ckpt_path=...)`` continues. Optimization must be automatic, with one optimizer.

    Args:
        pruner: made before ``fit``, of the module or of a part of it.
        lr: Adam's learning rate for the scores; 0.03 suits N:M better.

    Attributes:
        report: of ``finalize()``, once training has ended; None before.

    Raises:
        ValueError: when training begins: another module, manual optimization, several optimizers or too few steps.
    """

    def __init__(self, pruner: Pruner, lr: float = 0.1):
        if pruner.prepare_batches:
            raise ValueError(
                f"SmartCallback cannot show {type(pruner).__name__} the {pruner.prepare_batches} batches that it looks "
                "at before the first step: give it dense_steps or init='magnitude', or write the loop yourself"
            )
        self.driver = Driver(pruner, lr)
        self.report = None

    def on_train_start(self, trainer, pl_module) -> None:
        """Look whether everything fits."""
        if self.driver.pruner.model not in {*pl_module.modules()}:
            raise ValueError("fit must train the model of the pruner, got another: make the pruner of the module")
        if not pl_module.automatic_optimization or len(trainer.optimizers) != 1:
            raise ValueError("SmartCallback needs automatic optimization with one optimizer, got another loop")
        if trainer.global_step and not self.driver.pruner.steps:
            raise ValueError(
                "a resumed training needs the state of SmartCallback in its checkpoint, got none: Lightning finds it "
                "by the name of the class, so the callback must be of the same one"
            )
        self.driver.begin(trainer.estimated_stepping_batches, trainer.optimizers[0])
        self._step = -1

    def on_train_batch_start(self, trainer, pl_module, batch: Any, batch_idx: int) -> None:
        """Set the masks, in front of the first batch of an optimizer step."""
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self.driver.before_forward()

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        """Update the scores; comes after the last backward and before clipping."""
        self.driver.before_update()

    def on_train_batch_end(self, trainer, pl_module, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Pass on that the weights have moved, after the last batch of an optimizer step."""
        if trainer.global_step != self._step:
            self.driver.after_update()

    def on_train_end(self, trainer, pl_module) -> None:
        """Leave plain layers, if the search has ended."""
        self.report = self.driver.end()

    def state_dict(self) -> dict[str, Any]:
        """Return the pruner's state, for the checkpoint; empty once the layers are plain."""
        return {} if self.report is not None else self.driver.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a checkpoint was written."""
        if state_dict:
            self.driver.load_state_dict(state_dict)
