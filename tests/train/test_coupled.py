"""Channels that layers share are pruned together, by one score and within one budget."""

import copy

import pytest
import torch
from torch import nn

from smart_kernels import Block, Channel, masked_layers, slim_
from smart_kernels.patterns import keep_best
from smart_train import SmartPruner
from tests.cnn_models import SIZE, make

X = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def train(pruner, model, steps):
    optimizer = torch.optim.Adam([{"params": pruner.weights()}, pruner.param_group()], lr=1e-3)
    for _ in range(steps):
        pruner.step()
        out = model(X)
        loss = sum(y.square().mean() for y in (out if isinstance(out, list) else [out]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["resnet18", "efficientnet", "densenet"])
def test_search_finalize_slim(name):
    model = make(name).train()
    pruner = SmartPruner(model, Channel(), 0.5, search_steps=3, example_input=X)
    before = [scores.detach().clone() for scores in pruner.parameters()]
    train(pruner, model, 4)
    assert not all(scores.equal(old) for scores, old in zip(pruner.parameters(), before, strict=True))
    layers = list(masked_layers(model))
    report = pruner.finalize()
    kept = sum(layer["kept"] for layer in report["layers"].values())
    weights = sum(layer["weights"] for layer in report["layers"].values())
    assert kept <= weights / 2 and list(report["layers"]) == layers
    assert report["kept_sparsity"] == pytest.approx(1 - kept / weights)
    for layer in layers:  # what is counted as kept is what is there
        live = model.get_submodule(layer).weight.flatten(1).ne(0).any(1)
        rows = report["layers"][layer]["kept"] / report["layers"][layer]["weights"] * len(live)
        assert live.sum() >= rows > 0  # channels that stay are not counted
    model.eval()
    with torch.no_grad():
        expected = model(X)
        slimmed = slim_(model, X)
        torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-5)
    assert slimmed.parameters[1] < slimmed.parameters[0]


def test_a_shared_channel_costs_its_rows_in_all_layers():
    model = make("resnet18")
    pruner = SmartPruner(model, Channel(), 0.5, search_steps=1, example_input=X)
    costs = pruner.pools[0].costs
    joint = "blocks.2.body.1.0"  # with its shortcut and the second block of the stage
    assert costs["blocks.0.body.0.0"].unique().tolist() == [16 * 9]
    assert costs[joint].unique().tolist() == [32 * 9 + 16 + 32 * 9]
    assert pruner.pools[0].weights == sum(layer.raw_weight.numel() for layer in masked_layers(model).values())


def test_each_layer_keeps_a_channel_of_its_own():
    scores, cost = torch.tensor([[5.0], [4.0], [3.0], [2.0]]), torch.ones(4, 1, dtype=torch.int64)
    owners = [[torch.tensor([0, 1]), torch.tensor([-1, 3, 2])]]
    (mask,) = keep_best([scores], [cost], 2, owners)
    assert mask[:, 0].tolist() == [1, 0, 1, 0]


def test_resumes_in_the_search_and_after_it():
    model = make("mobilenet_v2").train()
    pruner = SmartPruner(model, Channel(), 0.5, search_steps=3, example_input=X)
    for steps in (2, 2):
        train(pruner, model, steps)
        twin = make("mobilenet_v2").train()
        other = SmartPruner(twin, Channel(), 0.5, search_steps=3, example_input=X)
        twin.load_state_dict(copy.deepcopy(model.state_dict()))
        other.load_state_dict(pruner.state_dict())
        assert torch.equal(twin.eval()(X), copy.deepcopy(model).eval()(X))


def test_example_input_goes_with_a_channel_pattern():
    with pytest.raises(ValueError, match="pattern must be channel"):
        SmartPruner(make("vgg"), Block(8, 8), 0.5, search_steps=1, example_input=X)
    with pytest.raises(ValueError, match="pattern must be given"):
        SmartPruner(nn.Linear(8, 8), sparsity=0.5, search_steps=1, example_input=X)
