"""The hard mask follows the rule to the weight."""

from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from smart_kernels import NM, Block, Channel, mask_, masked_layers
from smart_kernels.patterns import allowed_weights, keep_best, keep_n
from smart_train import SmartPruner


@pytest.mark.parametrize("percent", range(100))
def test_allowed_weights_are_exact(percent):
    for weights in (1, 7, 10, 1000, 999_999_990):
        assert allowed_weights(percent / 100, weights) == (100 - percent) * weights // 100


def test_owners_are_given_for_every_layer():
    scores = [torch.ones(2), torch.ones(2)]
    with pytest.raises(ValueError, match="shorter"):
        keep_best(scores, scores, 2, [[None]])


@pytest.mark.parametrize("weights", [3, 300, 3 * 10**8])
def test_allowed_weights_of_a_third(weights):
    assert allowed_weights(1 - 1 / 3, weights) == weights // 3
    assert allowed_weights(2 / 3, weights) == weights // 3


def oracle(scores, costs, budget):
    """The rule of ``keep_best``, literally: (layer, index) kept, or None where the best tiles do not fit."""
    best = {(layer, row.index(max(row))) for layer, row in enumerate(scores)}
    order = [(layer, index) for layer, row in enumerate(scores) for index in range(len(row))]
    order.sort(key=lambda tile: -scores[tile[0]][tile[1]])
    order.sort(key=lambda tile: tile not in best)
    kept, spent = set(), 0
    for layer, index in order:
        spent += costs[layer][index]
        if spent > budget:
            break
        kept.add((layer, index))
    return kept if best <= kept else None


tiles = st.lists(st.tuples(st.integers(-2, 2), st.integers(1, 5)), min_size=1, max_size=6)


@given(st.lists(tiles, min_size=1, max_size=4), st.integers(0, 60))
def test_keep_best_follows_the_rule(layers, budget):
    scores, costs = [[s for s, _ in layer] for layer in layers], [[c for _, c in layer] for layer in layers]
    given_scores, given_costs = [torch.tensor(s).float() for s in scores], [torch.tensor(c) for c in costs]
    expected = oracle(scores, costs, budget)
    if expected is None:
        with pytest.raises(ValueError, match=f"best tile of each layer.*got {budget}"):
            keep_best(given_scores, given_costs, budget)
        return
    masks = keep_best(given_scores, given_costs, budget)
    assert {(layer, i) for layer, mask in enumerate(masks) for i in mask.nonzero()[:, 0].tolist()} == expected


def test_infinite_scores_keep_their_rank():
    inf = float("inf")
    (mask,) = keep_best([torch.tensor([[1.0, -inf], [inf, 2.0]])], [torch.ones(2, 2, dtype=torch.int64)], 3)
    assert mask.tolist() == [[1, 0], [1, 1]]


def test_keep_n_breaks_ties_by_index():
    groups = torch.tensor([[0.0, 0, 0, 0], [1, 3, 2, 3], [float("-inf"), 5, float("-inf"), float("-inf")]])
    assert keep_n(groups, 2).tolist() == [[1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 0, 0]]


def make_model(*sizes):
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)), nn.Linear(sizes[-1], 2))


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.75, 0.9])
@pytest.mark.parametrize(
    "pattern, sizes",
    [
        pytest.param(Block(8, 8), (64, 96, 64), id="equal-tiles"),
        pytest.param(Block(8, 16), (70, 90, 50), id="ragged"),
        pytest.param(Channel(), (64, 96, 32), id="channel"),
    ],
)
def test_kept_weights_use_up_the_budget_but_for_less_than_a_tile(pattern, sizes, sparsity, scope):
    model = make_model(*sizes)
    pruner = SmartPruner(model, pattern, sparsity, scope=scope, search_steps=1)
    pruner.harden()
    report, layers = pruner.report(), masked_layers(model)
    for pool in pruner.pools:
        budget = (1 - Fraction(str(sparsity))) * pool.weights
        kept = sum(report["layers"][name]["kept"] for name in pool.layers)
        largest = max(int(cost.max()) for cost in pool.costs.values())
        assert kept <= budget < kept + largest or kept == budget == pool.weights
    for name, layer in layers.items():
        assert (layer.weight != 0).sum() == report["layers"][name]["kept"] >= 1
    assert report["asked_sparsity"] == pytest.approx(sparsity)


def test_equal_tiles_are_kept_exactly():
    pruner = SmartPruner(make_model(64, 64, 64), Block(8, 8), 0.9, search_steps=1)
    assert sum(layer["kept"] for layer in pruner.finalize()["layers"].values()) == 12 * 64  # of 2 * 64 tiles


@pytest.mark.parametrize("inputs", [64, 30])
def test_nm_keeps_n_of_every_group(inputs):
    model = nn.Sequential(nn.Linear(inputs, 8), nn.Linear(8, 2))
    SmartPruner(model, NM(2, 4), search_steps=1).finalize()
    for start in range(0, inputs, 4):
        group = model[0].weight[:, start : start + 4]
        assert ((group != 0).sum(1) == min(2, group.shape[1])).all()


def test_each_layer_keeps_its_best_tile():
    model = make_model(64, 64, 64)
    with torch.no_grad():
        model[1].weight.mul_(1e-6)
    pruner = SmartPruner(model, Block(8, 8), 0.98, search_steps=2)
    pruner.step()
    with torch.no_grad():
        pruner.layers["1"].scores.fill_(-100)
    assert pruner.finalize()["layers"]["1"] == {"weights": 64 * 64, "kept": 64}


def test_rejects_a_budget_below_one_tile_per_layer_and_leaves_the_model_plain():
    model = make_model(64, 64, 64)
    with pytest.raises(ValueError, match=r"a tile of each of 0, 1.*128 weights, got 81 of 8192"):
        SmartPruner(model, Block(8, 8), 0.99, search_steps=1)
    assert not masked_layers(model)


def test_rejects_a_layer_budget_below_one_tile_by_name():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8), nn.Linear(8, 2))
    with pytest.raises(ValueError, match="a tile of each of 1, together 64 weights, got 51 of 512"):
        SmartPruner(model, Block(8, 8), 0.9, scope="layer", search_steps=1)


@pytest.mark.parametrize("sparsity", [0.25, 0.5 + 1e-6])
def test_rejects_another_sparsity_than_nm_implies(sparsity):
    with pytest.raises(ValueError, match=r"nm:2:4 implies sparsity 0\.5"):
        SmartPruner(make_model(8, 8), NM(2, 4), sparsity, search_steps=1)
    assert SmartPruner(make_model(8, 8), NM(2, 4), 0.5, search_steps=1).report()["asked_sparsity"] == 0.5


@pytest.mark.parametrize("sparsity", [None, -0.1, 1.0, 90, float("nan")])
def test_rejects_sparsity(sparsity):
    with pytest.raises(ValueError, match="sparsity must be"):
        SmartPruner(make_model(64, 64), Block(8, 8), sparsity, search_steps=1)


def test_patterns_side_by_side_have_their_own_budgets():
    model = make_model(64, 64, 64, 64)
    for name, pattern in {"0": Block(8, 8), "1": NM(1, 4), "2": Channel()}.items():
        mask_(model, pattern, lambda module, own, name=name: own == name)
    pruner = SmartPruner(model, sparsity=0.75, search_steps=3)
    report = pruner.finalize()
    kept = {name: layer["kept"] for name, layer in report["layers"].items()}
    assert kept["1"] == 64 * 64 // 4
    assert kept["0"] + kept["2"] <= 2 * 64 * 64 // 4
    assert report["kept_sparsity"] == pytest.approx(0.75, abs=0.01)
