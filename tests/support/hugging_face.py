"""A layer in other people's Trainer and files."""

from pathlib import Path

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments

from smart_kernels import compress_
from smart_kernels.integrations.transformers import attach_
from smart_train import SmartPruner
from smart_train.integrations.transformers import SmartCallback

from .rows import INPUTS, LAYERS, WIDTH, Row


class Config(PretrainedConfig):
    """Which layer the model has."""

    model_type = "one_layer"

    def __init__(self, layer: str = "Linear", **rest):
        super().__init__(**rest)
        self.layer = layer


class OneLayer(PreTrainedModel):
    """A layer, and a loss."""

    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.layer, self.scale = LAYERS[config.layer](), nn.Parameter(torch.ones(1))
        self.post_init()

    def _init_weights(self, module):
        """Leave what the layers begin with."""

    def forward(self, x, labels=None):
        """Return the output, and a loss in front where there are labels."""
        y = self.scale * self.layer(x)
        return (y.square().mean(), y) if labels is not None else (y,)


def trained(row: Row, folder: Path) -> None:
    """Search in a Trainer, and find zeros afterwards."""
    model = OneLayer(Config(row.layer))
    pruner = SmartPruner(model, row.form, None if row.form.local else 0.5, search_steps=2, filter_fn=lambda *_: True)
    data = [{"x": torch.randn(WIDTH, *INPUTS[row.layer]), "labels": 0} for _ in range(8)]
    quiet = {
        "report_to": [],
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    arguments = TrainingArguments(str(folder), max_steps=3, per_device_train_batch_size=2, **quiet)
    Trainer(model, arguments, train_dataset=data, callbacks=[SmartCallback(pruner)]).train()
    assert type(model.layer) is type(LAYERS[row.layer]()) and (model.layer.weight == 0).float().mean() > 0.4


def saved(row: Row, folder: Path) -> None:
    """Save compressed, load, and compare."""
    model = OneLayer(Config(row.layer)).eval()
    _, dense, x = row.build()
    model.layer.load_state_dict(dense[0].state_dict())
    report = compress_(model, x, policy="size", backends=("dense", row.form.name), seconds=0)
    choice = report.rows[0].choice
    assert choice == row.form.name, f"chosen was {choice}"
    attach_(model, report).save_pretrained(folder)
    again = OneLayer.from_pretrained(folder).eval()
    assert again.layer.format.name == row.form.name
    with torch.no_grad():
        torch.testing.assert_close(again(x)[0], dense(x), rtol=1e-4, atol=1e-4)
