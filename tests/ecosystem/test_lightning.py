"""Lightning's Trainer with SmartCallback: accumulation, checkpoints, two processes."""

import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from smart_kernels import Block, masked_layers
from smart_train import SmartPruner, TaylorPruner
from smart_train.integrations.lightning import SmartCallback


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))

    def training_step(self, batch, index):
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Stop(pl.Callback):
    """Ends the training in the search."""

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.global_step == 8


def loader(alike: bool = False) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 32, generator=generator)
    x = x[:4].repeat(16, 1) if alike else x
    return DataLoader(TensorDataset(x, x[:, 0].mul(4).long().abs() % 4), batch_size=4)


def trainer(folder, *callbacks, **settings) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    fixed = {"max_steps": 16, "accumulate_grad_batches": 2, "default_root_dir": folder, "devices": 1}
    return pl.Trainer(callbacks=[*callbacks], **quiet | fixed | {"enable_checkpointing": False} | settings)


def pruner_of(module, **settings) -> SmartPruner:
    return SmartPruner(module.net, Block(16, 16), 0.5, **{"search_steps": 10, **settings})


def test_one_step_per_optimizer_step_and_plain_layers_at_the_end(tmp_path):
    module = Module()
    callback = SmartCallback(pruner_of(module))
    trainer(tmp_path, callback, gradient_clip_val=1.0).fit(module, loader())
    assert callback.report["step"] == 16 and not masked_layers(module)
    assert (module.net[2].weight == 0).float().mean() > 0.2


def test_a_resumed_training_ends_as_the_one_that_was_not_interrupted(tmp_path):
    """All batches are alike: where Lightning begins to read again, after an epoch, is its own affair."""
    whole = Module()
    every = pl.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    settings = {"enable_checkpointing": True, "accumulate_grad_batches": 1, "limit_train_batches": 8}
    trainer(tmp_path, SmartCallback(pruner_of(whole)), every, **settings).fit(whole, loader(alike=True))
    again = Module()
    callback = SmartCallback(pruner_of(again))
    continued = trainer(tmp_path, callback, **settings)
    continued.fit(again, loader(alike=True), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
    assert callback.report["step"] == 16  # 8 of them before
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, msg=name)


def test_a_training_that_stops_in_the_search_leaves_the_model_masked(tmp_path):
    module = Module()
    callback = SmartCallback(pruner_of(module))
    trainer(tmp_path, callback, Stop()).fit(module, loader())
    assert callback.report is None and len(masked_layers(module)) == 2
    callback.driver.pruner.finalize()
    assert not masked_layers(module)


def test_two_processes_agree(tmp_path):
    """Each trains on its half of the data; what the second one ends with is what the first one ends with."""
    root = Path(__file__).parents[2]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, "-m", "tests.ecosystem.two_ranks", str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first.keys() == second.keys() and (first["2.weight"] == 0).float().mean() > 0.2
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, msg=name)


def test_typical_mistakes(tmp_path):
    module = Module()
    with pytest.raises(ValueError, match=r"more optimizer steps than dense_steps \+ search_steps = 100, got 16"):
        trainer(tmp_path, SmartCallback(pruner_of(module, search_steps=100))).fit(module, loader())
    with pytest.raises(ValueError, match="must train the model of the pruner, got another"):
        trainer(tmp_path, SmartCallback(pruner_of(Module()))).fit(Module(), loader())
    with pytest.raises(ValueError, match="cannot show TaylorPruner the 4 batches that it looks at"):
        SmartCallback(TaylorPruner(Module().net, Block(16, 16), 0.5, search_steps=8))
    half = Module()
    pruned = trainer(tmp_path, SmartCallback(pruner_of(half)), Stop())
    pruned.fit(half, loader())
    pruned.callbacks[:] = []
    pruned.save_checkpoint(tmp_path / "without.ckpt")
    again = Module()
    with pytest.raises(ValueError, match="a resumed training needs the state of SmartCallback in its checkpoint"):
        callback = SmartCallback(pruner_of(again))
        trainer(tmp_path, callback).fit(again, loader(), ckpt_path=tmp_path / "without.ckpt", weights_only=True)
    manual = Module()
    manual.automatic_optimization = False
    with pytest.raises(ValueError, match="needs automatic optimization with one optimizer, got another loop"):
        trainer(tmp_path, SmartCallback(pruner_of(manual)), accumulate_grad_batches=1).fit(manual, loader())
