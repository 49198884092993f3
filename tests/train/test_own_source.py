"""One more source of images: a function in a file and a line in the table, and everything takes it."""

import json

import pytest
import torch

from smart_train import data
from smart_train.cli import main
from smart_train.data import SOURCES, Source
from smart_train.run import prune


def stripes(wanted):
    """Pictures with a bright line, across or down."""
    count = int(wanted.argument)
    labels = torch.arange(count) % 2
    images = torch.zeros(count, 1, 8, 8, dtype=torch.uint8)
    for number, label in enumerate(labels.tolist()):
        line = images[number, 0] if label else images[number, 0].T
        line[number % 8] = 255
    half = count // 2
    return (images[:half], labels[:half]), (images[half:], labels[half:]), ("across", "down")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(SOURCES, "stripes", Source(stripes, "COUNT"))


def test_it_loads_by_name():
    found = data.load("stripes:64")
    assert found.classes == ("across", "down") and found.size == 8 and len(found.train[1]) == 32
    for wrong in ("stripes", "stripes:", "digits:3", "digits:", "stripe:64"):
        with pytest.raises(ValueError, match=r"stripes:COUNT, PATH or package\.module:function, got"):
            data.load(wrong)


def test_the_command_line_takes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(prune, "PATIENCE", 0.0)
    monkeypatch.setattr(prune.plots, "draw", lambda *_: [])
    command = ["prune", "--model", "vit-tiny", "--data", "stripes:64", "--pattern", "block:16x16", "--sparsity", "0.5"]
    steps = ["--batch", "16", "--dense-steps", "2", "--search-steps", "2", "--finetune-steps", "1"]
    assert main([*command, *steps, "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/report.json").read_text())["recipe"]["data"] == "stripes:64"
