"""What pools and those around them promise one by one: settings, prices, who owns a layer, and that processes agree."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from smart_kernels import Block, Channel, mask_
from smart_train import SmartPruner
from smart_train.masks import owners
from smart_train.masks.planned import _whole
from smart_train.masks.pools import Budget
from smart_train.masks.ranks import Ranks
from smart_train.masks.sharing import standardised
from smart_train.masks.tiles import fold_


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
