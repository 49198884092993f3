"""A pruner that is stopped and continued."""

import io

import pytest
import torch

from smart_kernels import NM, Block, SoftGate
from smart_train import SmartPruner

from .small_models import make_mlp


def train(optimizer_class, stop=None, saved=None, **settings):
    """14 steps of a small MLP, or up to ``stop``; continued from ``saved``."""
    torch.manual_seed(3)
    data, target = torch.randn(14, 6, 8), torch.randn(14, 6, 4)
    model = make_mlp()
    pruner = SmartPruner(model, search_steps=8, dense_steps=2, **settings)
    optimizer = optimizer_class([{"params": pruner.weights()}, pruner.param_group()], lr=1e-2)
    if saved:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()  # nothing but the state may matter
        state = torch.load(io.BytesIO(saved), weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        pruner.load_state_dict(state["pruner"])
        assert model(data[0]).equal(state["output"])
    for step in range(pruner.steps, stop or 14):
        pruner.step()
        optimizer.zero_grad()
        (model(data[step]) - target[step]).square().mean().backward()
        optimizer.step()
    if stop is None:
        pruner.finalize()
        return model.state_dict()
    file = io.BytesIO()
    parts = {"model": model, "optimizer": optimizer, "pruner": pruner}
    torch.save({name: part.state_dict() for name, part in parts.items()} | {"output": model(data[0]).detach()}, file)
    return file.getvalue()


def sgd(groups, lr):
    return torch.optim.SGD(groups, lr, momentum=0.9, weight_decay=1e-2)


@pytest.mark.parametrize("stop", [1, 2, 3, 6, 10, 13])
@pytest.mark.parametrize(
    "optimizer_class, settings",
    [
        pytest.param(sgd, {"pattern": Block(4, 3), "sparsity": 0.6}, id="ragged-sgd"),
        pytest.param(torch.optim.Adam, {"pattern": Block(4, 4), "sparsity": 0.6, "scope": "layer"}, id="layer-adam"),
        pytest.param(torch.optim.Adam, {"pattern": NM(1, 4)}, id="nm-adam"),
    ],
)
def test_a_resumed_run_ends_bit_for_bit_the_same(optimizer_class, settings, stop):
    whole = train(optimizer_class, **settings)
    resumed = train(optimizer_class, saved=train(optimizer_class, stop, **settings), **settings)
    assert whole.keys() == resumed.keys()
    assert all(whole[name].equal(resumed[name]) for name in whole)


@pytest.mark.parametrize(
    "other",
    [{"pattern": Block(2, 4)}, {"sparsity": 0.75}, {"scope": "layer"}, {"filter_fn": lambda module, name: name == "0"}],
    ids=lambda other: next(iter(other)),
)
def test_rejects_the_state_of_another_pruner(other):
    settings = {"pattern": Block(4, 4), "sparsity": 0.5, "search_steps": 3}
    state = SmartPruner(make_mlp(), **settings).state_dict()
    with pytest.raises(ValueError, match=r"the state must be of the pools.*block:.*got.*block:4x4"):
        SmartPruner(make_mlp(), **settings | other).load_state_dict(state)


def test_an_old_state_takes_a_finished_search_back():
    pruner = SmartPruner(make_mlp(), Block(4, 4), 0.5, search_steps=3)
    pruner.step()
    state = pruner.state_dict()
    pruner.harden()
    pruner.load_state_dict(state)
    assert pruner.stage == "search"
    assert all(scores.requires_grad for scores in pruner.parameters())
    assert isinstance(pruner.layers["0"].gate, SoftGate)
