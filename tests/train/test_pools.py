"""What pools and those around them promise one by one: settings, prices, who owns a layer, and that processes agree."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from smart_kernels import Block, Channel, mask_
from smart_train import SmartPruner
from smart_train.masks import owners
from smart_train.masks.inputs import Graphed
from smart_train.masks.planned import PlannedPool, _whole
from smart_train.masks.pools import Budget
from smart_train.masks.ranks import Ranks
from smart_train.masks.sharing import standardised
from smart_train.masks.tiles import fold_, tile_means


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scope": "model"}, "scope must be 'global' or 'layer', got 'model'"),
        ({"eps": 1.0}, r"eps must be in \[0, 1\), got 1.0"),
        ({"eps": -0.1}, r"eps must be in \[0, 1\), got -0.1"),
        ({"sparsity": 90}, r"sparsity must be in \[0, 1\), got 90; 90 % is 0.9"),
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1.0$"),
    ],
)
def test_a_budget_says_what_must_hold(change, message):
    with pytest.raises(ValueError, match=message):
        Budget(**({"sparsity": 0.5, "eps": 0.0} | change))
    assert Budget.__dataclass_params__.frozen  # pools are made of it, and it is kept


def test_prices_are_whole_thousandths_of_the_largest():
    assert [_whole(price, 0.6) for price in (0.6, 0.3, 0.0006, 0.0, 1e-9)] == [1000, 500, 1, 1, 1]
    assert _whole(0.0, 0.0) == 1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_importances_of_any_scale_become_comparable(scale):
    found = standardised(scale * torch.rand(50))
    assert found.mean().item() == pytest.approx(0, abs=1e-9)
    assert found.square().mean().item() == pytest.approx(1, rel=1e-6)
    assert standardised(torch.full((50,), 0.1 * scale)).abs().max() < 1e-6
    assert not standardised(torch.zeros(50)).any()


@pytest.mark.parametrize("given", [{"filter_fn": lambda module, name: True}, {"example_input": torch.ones(1, 16)}])
def test_where_a_pattern_goes_needs_a_pattern(given):
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 2))
    mask_(model, Channel())
    with pytest.raises(ValueError, match="so pattern must be given, got None"):
        SmartPruner(model, sparsity=0.5, search_steps=2, **given)


def test_a_layer_has_one_pruner_until_that_is_done():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 2))
    first = SmartPruner(model, Block(4, 4), 0.5, search_steps=2)
    with pytest.raises(ValueError, match="a model must have one pruner, got a second one for 0: "):
        SmartPruner(model, sparsity=0.5, search_steps=2)
    first.finalize()
    assert model[0] not in owners._OWNERS


def test_folded_weights_are_what_the_masked_model_reads():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 2))
    pruner = SmartPruner(model, Channel(), 0.5, search_steps=2)
    pruner.step(), pruner.harden()
    read, raw, head = model[0].weight.detach().clone(), model[0].raw_weight.clone(), model[1].weight.clone()
    fold_(pruner.masked)
    assert torch.equal(model[0].raw_weight, read) and not torch.equal(raw, read)
    assert torch.equal(model[1].weight, head)


@pytest.fixture
def one_of_two():
    """As if there were a second process, that gets and gives whatever this one does."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


def test_each_process_takes_its_part_of_a_mean(one_of_two):
    ranks = Ranks(nn.Linear(2, 2))
    scores = torch.ones(3, requires_grad=True)
    whole = ranks.whole({"a": scores})["a"]
    assert ranks.count == 2 and whole is not scores and torch.equal(whole, scores)
    whole.sum().backward()
    leaf = nn.Parameter(torch.tensor([4.0, 2.0]))
    ranks.mean_([leaf])
    assert scores.grad.tolist() == [0.5] * 3 and leaf.tolist() == [2, 1] and leaf.requires_grad


def test_the_first_process_is_the_one_to_follow(one_of_two, monkeypatch):
    def broadcast(flat, group, group_src):
        assert group_src == 0
        flat.fill_(7)

    monkeypatch.setattr(dist, "broadcast", broadcast)
    pair = [torch.zeros(2, 2), torch.zeros(3)]
    Ranks(nn.Linear(2, 2)).same_(pair)
    assert all((each == 7).all() for each in pair)


def test_a_wrapper_that_waits_for_scores_is_refused(one_of_two):
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 2))
    mask_(model, Block(4, 4))
    wrapper = nn.parallel.DistributedDataParallel(nn.Sequential(model))
    with pytest.raises(ValueError, match="waits for scores"):
        SmartPruner(model, sparsity=0.5, search_steps=2)
    del wrapper


@pytest.mark.parametrize("settings", [{"sparsity": "0.5"}, {"sparsity": 0.5, "eps": "0.1"}])
def test_a_budget_is_made_of_numbers(settings):
    with pytest.raises(TypeError, match="must be a number"):
        Budget(**settings)


@pytest.mark.parametrize("kept", [1, 8, 200])
def test_what_counts_as_dead_follows_from_the_budget(kept):
    """Equal scores have a mask of keep / n each, a tenth of which must still be alive."""
    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    (pool,) = SmartPruner(model, Block(4, 4), 1 - kept / 256, search_steps=2).pools
    assert pool.target == kept and pool.eps == pytest.approx(min(1e-3, 0.1 * kept / 256))


@pytest.mark.parametrize("u", [0.25, 0.5, 1.0])
def test_tiles_of_different_costs_fill_a_budget_on_the_way(u):
    model = nn.Sequential(nn.Linear(18, 18, bias=False))  # tiles at the edge are smaller
    pruner = SmartPruner(model, Block(4, 4), 0.75, search_steps=4)
    pruner.step()
    (pool,) = pruner.pools
    keep = pool.keep(u)
    spent = sum(float((mask * pool.costs[name]).sum()) for name, mask in pool.hard_masks(keep).items())
    assert keep - 16 < spent <= keep


def test_a_planned_search_begins_between_the_last_tile_and_the_next():
    pool = object.__new__(PlannedPool)
    scores = torch.tensor([[9.0, 5.0, 7.0, 6.0]])
    pool.layers, pool._densities = {"a": SimpleNamespace(scores=scores.clone())}, {"a": 0.5}
    pool.start_scores_()
    assert pool.layers["a"].scores.tolist() == [[2.5, -1.5, 0.5, -0.5]]
    pool.layers, pool._densities = {"a": SimpleNamespace(scores=scores.clone())}, {"a": 0.1}
    pool.start_scores_()
    assert pool.layers["a"].scores.max() == 0, "not even one tile: the best is at the threshold"


def test_means_of_tiles_have_no_gradient():
    model = nn.Sequential(nn.Linear(8, 8, bias=False))
    pruner = SmartPruner(model, Block(4, 4), 0.5, search_steps=2)
    (means,) = tile_means(pruner.masked, lambda layer: layer.matrix().square()).values()
    assert not means.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_what_is_captured_is_in_the_mode_of_the_model(training):
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).train(training)
    pruner = SmartPruner(model, Block(4, 4), 0.5, search_steps=2)
    pruner.step()
    seen = []
    Graphed(pruner.masked, (torch.ones(1, 8),), lambda module, samples, **_: seen.append(module))
    assert seen[0].training == training and model[1].training == training
