"""The command line with the user's own model, data and teacher, named as ``module:function``."""

import json
import sys

import pytest
import torch

from smart_train import data, models
from smart_train.cli import main
from smart_train.run import prune
from smart_train.run.recipe import Recipe

MINE = """
import torch
from torch import nn

def net(channels, classes):
    body = [nn.Flatten(), nn.Linear(64 * channels, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*body, nn.Linear(64, classes))

def images():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (96,), generator=generator)
    pictures = torch.randint(0, 100, (96, 1, 8, 8), generator=generator) + 100 * labels.view(-1, 1, 1, 1)
    pictures = pictures.to(torch.uint8)
    return (pictures[:64], labels[:64]), (pictures[64:], labels[64:]), ["dark", "light"]

def parts(split):
    train, test, classes = images()
    half = {None: slice(None), "first": slice(8), "second": slice(8, None)}[split]
    return train, (test[0][half], test[1][half]), classes

def teacher(channels, classes):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, classes))
    nn.init.constant_(net[1].weight[0], -1.0)
    return net

def no_model():
    return 7

def floats():
    part = (torch.zeros(4, 1, 8, 8), torch.zeros(4))
    return part, part

def broken():
    import a_module_that_is_not_there

number = 7
"""
STEPS = ["--dense-steps", "10", "--search-steps", "10", "--finetune-steps", "5", "--batch", "16"]
TASK = ["--data", "mine:images", "--pattern", "block:16x16", "--sparsity", "0.5", *STEPS]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    monkeypatch.setattr(prune, "PATIENCE", 0.0)
    yield
    sys.modules.pop("mine", None)


def test_own_model_and_data(mine, capsys):
    assert main(["prune", "--model", "mine:net", *TASK, "--out", "runs"]) == 0
    with open("runs/report.json") as file:
        report = json.load(file)
    assert report["accuracy"]["smart"] > 80 and report["recipe"]["optimizer"] == "adamw"
    assert main(["run", "runs"]) == 0
    assert "next: smart-train run runs" in capsys.readouterr().out


def test_own_data_is_told_the_split(mine):
    found = [data.load("mine:parts", split=split) for split in (None, "first", "second")]
    assert [len(each.test[1]) for each in found] == [32, 8, 24]
    assert torch.equal(found[0].test[0], torch.cat([each.test[0] for each in found[1:]]))


def test_own_teacher_in_bfloat16(mine, monkeypatch):
    taught = []
    monkeypatch.setattr(
        "smart_train.tasks.classification.divergence", lambda target, logits: taught.append(target) or logits.sum()
    )
    task = ["--model", "mine:net", "--teacher", "mine:teacher", "--amp", *TASK, "--out", "runs"]
    assert main(["prune", *task]) == 0
    assert len(taught) == 15 and {each.dtype for each in taught} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (["--model", "mine:absent"], "must name a function of mine, got nothing"),
        (["--model", "yours:net"], "must name a module that can be imported from here, got none"),
        (["--model", "mine:number"], "must name a function, got int"),
        (["--model", "mine:no_model"], "mine:no_model must return an nn.Module, got int"),
        (["--model", "resnet"], "model must be one of cnn, vit, "),
        (
            ["--data", "mine:floats"],
            "images uint8 (n, channels, size, size), labels int64), got (4, 1, 8, 8) torch.float32",
        ),
        (["--data", "mine:net"], "must be a function of split, got one that needs channels, classes"),
        (["--split", "first"], "mine:images must have a parameter split to be told 'first', got none"),
        (["--data", "digits", "--split", "val"], "split of digits must be test or validation, got 'val'"),
        (["--data", "nowhere"], "data must be digits, fashion, folder:PATH, PATH or package.module:function"),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_typical_mistakes(mine, task, message, capsys):
    whole = ["prune", "--model", "mine:net", *TASK, *task, "--out", "runs"]
    assert main(whole) == 2
    assert message in capsys.readouterr().err


def test_an_error_of_ones_own_code_is_passed_on(mine):
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        main(["prune", "--model", "mine:broken", *TASK, "--out", "runs"])


def test_a_path_is_a_folder_of_pictures(tmp_path):
    with pytest.raises(ValueError, match="must hold at least 2 class subfolders"):
        data.load(str(tmp_path))


@pytest.mark.parametrize("name", ["cnn-tiny", "vit-tiny"])
def test_tiny_models_have_a_budget_that_they_can_meet(name):
    from smart_train.run.stages import Stages

    digits = data.load("digits")
    Stages(Recipe.for_model(name), digits, None, "cpu").check()


def test_other_models_are_built_alike_by_the_same_seed(mine):
    first, second = (models.build("mine:net", 1, 8, 2, seed=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
