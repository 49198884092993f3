"""Which layers a pruner takes, and on what terms."""

import pytest
import torch
from torch import nn

from smart_kernels import NM, Block, mask_
from smart_train import SmartPruner

from .small_models import Shared, make_mlp


def test_shared_weights_are_counted_once_and_masked_everywhere():
    model = Shared()
    pruner = SmartPruner(model, Block(4, 4), 0.75, search_steps=2)
    assert len(pruner.parameters()) == 1
    for _ in range(3):
        pruner.step()
        assert model.a.gate is model.b.gate is not None
    assert pruner.finalize()["layers"] == {"a": {"weights": 256, "kept": 64}}
    assert model.a.weight is model.b.weight
    assert (model.a.weight != 0).sum() == 64


def test_frozen_weights_are_pruned_but_not_trained():
    model = make_mlp()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    pruner = SmartPruner(model, Block(4, 4), 0.5, search_steps=3)
    optimizer = torch.optim.Adam([{"params": pruner.weights()}, pruner.param_group()])
    for _ in range(5):
        pruner.step()
        model(torch.randn(5, 8)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    report = pruner.finalize()
    kept = model[0].weight != 0
    assert 0 < kept.sum() == report["layers"]["0"]["kept"] < before.numel()
    assert model[0].weight[kept].equal(before[kept])


def test_filter_fn_leaves_layers_out():
    model = make_mlp()
    before = model[2].weight.clone()
    pruner = SmartPruner(model, Block(4, 4), 0.5, search_steps=1, filter_fn=lambda module, name: name == "0")
    assert list(pruner.finalize()["layers"]) == ["0"]
    assert model[2].weight.equal(before)


def test_adopts_layers_with_patterns_of_their_own():
    model = make_mlp()
    mask_(model, Block(4, 4), lambda module, name: name == "0")
    mask_(model, NM(2, 4), lambda module, name: name == "2")
    pruner = SmartPruner(model, sparsity=0.75, search_steps=4)
    assert [str(layer.pattern) for layer in pruner.layers.values()] == ["block:4x4", "nm:2:4"]
    for _ in range(4):
        pruner.step()
        model(torch.randn(5, 8)).square().sum().backward()
    report = pruner.finalize()
    assert {name: layer["kept"] for name, layer in report["layers"].items()} == {"0": 32, "2": 128}
    assert report["asked_sparsity"] == (0.75 * 128 + 0.5 * 256) / 384


def test_a_layer_of_one_tile_is_safe_and_kept():
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 8), nn.Linear(8, 2))
    pruner = SmartPruner(model, Block(8, 32), 0.5, search_steps=3)
    pruner.step()
    assert pruner.layers["1"].scores.tolist() == [[0.0]]
    assert pruner.finalize()["layers"]["1"]["kept"] == 256


@pytest.mark.parametrize("value", [0.0, 0.3, -7.1])
def test_equal_importance_gives_equal_scores(value):
    model = make_mlp()
    nn.init.constant_(model[0].weight, value)
    nn.init.constant_(model[2].weight, value)
    pruner = SmartPruner(model, Block(4, 16), 0.5, search_steps=3)
    pruner.step()
    assert all(layer.scores.abs().max() < 0.1 for layer in pruner.layers.values())
    assert pruner.report()["live"] == 1


def test_rejects_a_model_without_layers_to_prune():
    with pytest.raises(ValueError, match="block:64x64"):
        SmartPruner(make_mlp(), Block(64, 64), 0.5, search_steps=1)
    with pytest.raises(ValueError, match="prepared by mask_"):
        SmartPruner(make_mlp(), sparsity=0.5, search_steps=1)
    with pytest.raises(ValueError, match="filter_fn"):
        SmartPruner(make_mlp(), sparsity=0.5, search_steps=1, filter_fn=lambda module, name: True)


@pytest.mark.parametrize("wrong", [{"scope": "all"}, {"eps": -1.0}, {"warmup": 1.0}, {"search_steps": 0}], ids=str)
def test_rejects(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        SmartPruner(make_mlp(), Block(4, 4), 0.5, **{"search_steps": 1} | wrong)


def test_score_group_has_no_weight_decay_and_weights_are_the_rest():
    model = make_mlp()
    plain = list(model.parameters())
    pruner = SmartPruner(model, Block(4, 4), 0.5, search_steps=1)
    assert [id(p) for p in pruner.weights()] == [id(p) for p in plain]
    assert pruner.param_group(lr=0.03) == {"params": pruner.parameters(), "lr": 0.03, "weight_decay": 0.0}


@pytest.mark.parametrize("sparsity, eps", [(0.5, 1e-3), (0.98, 1e-3), (0.999, 1e-4)])
def test_eps_lets_equal_scores_live(sparsity, eps):
    model = nn.Sequential(nn.Linear(128, 128), nn.Linear(128, 2))
    pruner = SmartPruner(model, Block(2, 2), sparsity, search_steps=1)
    assert pruner.pools[0].eps == pytest.approx(eps, rel=0.03)
