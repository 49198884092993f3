"""A rank of ``test_lightning.test_two_processes_agree``: train with DDP, write the weights to the folder given."""

import sys
from pathlib import Path

import torch

from . import conftest  # noqa: F401  it stands in for what torchvision lacks
from .test_lightning import Module, SmartCallback, loader, pruner_of, trainer

module = Module()
callback = SmartCallback(pruner_of(module, search_steps=5))
running = trainer(
    sys.argv[1], callback, devices=2, strategy="ddp_find_unused_parameters_true", accumulate_grad_batches=1, max_steps=8
)
running.fit(module, loader())
torch.save(module.net.state_dict(), Path(sys.argv[1], f"{running.global_rank}.pt"))
