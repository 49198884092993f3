"""A target becomes a pattern and a density for each layer, and the pruner holds it."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smart_kernels import NM, Block, Channel, Curve, LatencyTable, LayerTimes, WeightShape, parse
from smart_kernels.convert.measure import Cost
from smart_train import (
    PRUNERS,
    Latency,
    Macs,
    OneShotPruner,
    Plan,
    Size,
    SmartPruner,
    Sparsity,
    Speedup,
    correct_,
    plan,
)
from smart_train.planning import parse_target
from smart_train.planning.losses import loss_curves
from smart_train.planning.options import options_of
from smart_train.planning.solve import UNITS, in_units, solve
from tests.test_transactions import everything

SMALL, LARGE = Block(8, 8), Block(16, 16)
CHANNELS = {"catro", "activation"}  # methods that prune nothing else
REST = 1.0  # ms of the model beside the layers


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4)).eval()


def curve(pattern, ratios, densities=(0.1, 0.25, 0.5)):
    return Curve(pattern, densities, ratios, ("jit",) * len(ratios))


def table_of(model, curves, ms=(2.0, 4.0)):
    """A table of the two prunable layers of the MLP: ``curves`` by name, or the same for both."""
    layers = {}
    for name, dense_ms in zip("02", ms, strict=True):
        N, C = model.get_submodule(name).weight.shape
        own = curves.get(name, ()) if isinstance(curves, dict) else curves
        by_text = {str(each.pattern): each for each in own}
        layers[name] = LayerTimes((name,), WeightShape(N, 1, C), 4, 1, 8 * N * C, dense_ms, "packed", by_text)
    parameters = sum(p.numel() for p in model.parameters())
    return LatencyTable(layers, Cost(8 * 6400, parameters, 4 * parameters, REST + sum(ms)), "an imagined one")


LINES = (curve(SMALL, (0.3, 0.5, 0.8)), curve(LARGE, (0.2, 0.35, 0.6)))


@pytest.mark.parametrize("seed", range(30))
def test_the_choice_is_as_good_as_that_of_brute_force(seed):
    draw = np.random.default_rng(seed)
    items = [draw.integers(1, 5) for _ in range(draw.integers(1, 6))]
    costs = [draw.integers(0, 12, size).tolist() for size in items]
    losses = [draw.integers(0, 9, size).astype(float).tolist() for size in items]
    for limit in (0, 3, 9, 20, 60):
        every = itertools.product(*map(range, items))
        fitting = [places for places in every if _total(costs, places) <= limit]
        found = solve(costs, losses, limit)
        assert (found is None) == (not fitting)
        if found is not None:
            assert _total(costs, found) <= limit
            assert _total(losses, found) == min(_total(losses, places) for places in fitting)


def _total(values, places):
    return sum(own[place] for own, place in zip(values, places, strict=True))


def test_units_never_exceed_the_limit():
    costs = np.random.default_rng(0).uniform(0, 1, 1000).tolist()
    units = in_units(costs, 7.0)
    assert all(unit * 7.0 / UNITS >= cost * (1 - 1e-5) for unit, cost in zip(units, costs, strict=True))
    assert in_units([7.0, 3.5, 0.0], 7.0) == [UNITS, UNITS // 2, 0]


def test_options_that_another_beats_are_none():
    model = mlp()
    flat = (curve(SMALL, (0.5, 0.5, 1.2)), curve(LARGE, (0.5, 0.9, 1.3)))
    table = table_of(model, flat)
    found = options_of(
        table.layers["2"], loss_curves(model, {SMALL: ["2"], LARGE: ["2"]}, None, None), Speedup(2), True
    )
    assert found[0].pattern is None and found[0].loss == 0 and found[0].cost == 4.0
    assert all(a.loss < b.loss and a.cost > b.cost for a, b in itertools.pairwise(found))
    cheapest = found[-1]
    assert (cheapest.pattern, cheapest.density) == (SMALL, 0.25), "fewer on the plateau buy no time"


@pytest.mark.parametrize("target", [Speedup(1.6), Latency(3.5), Size(9000), Macs(25_000), Sparsity(0.7)])
def test_a_target_is_met(target):
    model = mlp()
    found = plan(model, torch.randn(8, 32), target, table=table_of(model, LINES))
    assert found.met and found.predicted <= found.limit < found.dense
    assert found.predicted >= 0.85 * found.limit, "not much more than needed is pruned"
    assert found.ms == pytest.approx(REST + sum(layer.ms for layer in found.layers))
    assert found.target == str(target) and len(found.layers) == 2
    masked = found.mask_(mlp())
    assert {name: str(layer.pattern) for name, layer in masked.items()} == {
        name: layer.pattern for name, layer in found.pruned.items()
    }
    assert Plan.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_more_speed_never_costs_less():
    model = mlp()
    table = table_of(model, LINES)
    plans = [plan(model, None, Speedup(factor), table=table) for factor in (1.1, 1.3, 1.5, 1.8, 2.1, 2.5, 2.9)]
    assert all(each.met for each in plans)
    losses = [sum(layer.loss for layer in each.layers) for each in plans]
    assert losses == sorted(losses) and losses[0] < losses[-1]
    times = [each.ms for each in plans]
    assert times == sorted(times, reverse=True)


def test_layers_that_stay_dense_say_why():
    model = mlp()
    slow = curve(SMALL, (1.1, 1.3, 1.5))
    text = str(plan(model, None, Speedup(1.5), table=table_of(model, {"0": (slow,), "2": LINES})))
    assert "stays dense: no pattern is faster" in text
    text = str(plan(model, None, Speedup(1.5), table=table_of(model, {"2": LINES})))
    assert "no sparse form was measured" in text
    found = plan(model, None, Latency(7.0), table=table_of(model, LINES))
    assert found.met and not found.pruned and "so nothing is to be pruned" in found.note
    with pytest.raises(ValueError, match="must prune a layer, got one that leaves all dense: the dense model meets it"):
        found.mask_(model)
    uneven = table_of(model, LINES, ms=(0.01, 5.99))
    found = plan(model, None, Speedup(1.5), table=uneven)
    assert [layer.pattern == "" for layer in found.layers] == [True, False]
    assert "loss here, at most" in found.layers[0].why and "saves" in found.layers[1].why


def test_out_of_reach_is_the_nearest_and_no_error():
    model = mlp()
    found = plan(model, None, Speedup(100), table=table_of(model, LINES))
    least = REST + 0.225 * 2.0 + 0.2 * 4.0  # the smaller layer has 8 large tiles, so keeps at least an eighth
    assert not found.met and least <= found.predicted <= least + 0.01 * (7.0 - least)
    assert "not reachable, this is the nearest" in str(found) and f"at best it has {least:.4g} of 7" in found.note
    assert not plan(model, None, Speedup(7.5), table=table_of(model, {})).pruned, "nothing can be pruned"


def test_zeros_that_buy_no_time_are_for_other_targets_only():
    model = mlp()
    curves = {"0": (curve(SMALL, (1.1, 1.3, 1.5)),), "2": LINES}
    few = plan(model, None, Sparsity(0.4), table=table_of(model, curves))
    assert few.met and [layer.pattern == "" for layer in few.layers] == [True, False] and not few.note
    many = plan(model, None, Sparsity(0.8), table=table_of(model, curves))
    assert many.met and len(many.pruned) == 2 and "buy no time" in many.note


def test_saliency_sees_what_magnitude_does_not():
    """A layer whose output nothing reads costs no loss; magnitudes cannot know."""
    model = mlp()
    model[4].weight.data.zero_()[:, :8].normal_()
    model[2].weight.data[8:] *= 10

    def loss(x, y):
        return F.cross_entropy(model(x), y)

    batches = [(torch.randn(16, 32), torch.randint(0, 4, (16,))) for _ in range(3)]
    before = everything(model)
    by_loss = loss_curves(model, {SMALL: ["0", "2"]}, batches, loss)["2", str(SMALL)]
    by_size = loss_curves(model, {SMALL: ["0", "2"]}, None, None)["2", str(SMALL)]
    assert everything(model) == before
    assert by_loss.at(0.126)[1] == 0 < by_size.at(0.126)[1], "one row of tiles in eight is read"
    assert by_loss.at(0.0625)[1] > 0
    assert 0 < by_size.at(0.5)[1] < by_size.at(0.25)[1]
    assert by_size.at(0.001) is None, "not even a tile"


def test_losses_of_local_patterns_are_those_of_their_mask():
    model = mlp()
    found = loss_curves(model, {NM(2, 4): ["2"], Channel(): ["2"]}, None, None)
    density, loss = found["2", "nm:2:4"].at(0.1)
    weight = model[2].weight.detach().square()
    best = weight.view(-1, 4).topk(2).values.sum()
    assert density == 0.5 and loss == pytest.approx(float((weight.sum() / best).log()), rel=1e-5)
    assert found["2", "channel"].at(0.5)[0] == 0.5


@pytest.mark.parametrize("name", sorted(PRUNERS.keys() - CHANNELS))
def test_any_pruner_takes_a_plan(name):
    model = mlp()
    found = plan(model, None, Speedup(1.9), table=table_of(model, {"0": LINES[1:], "2": LINES[:1]}))
    pruner = PRUNERS[name](model, found, search_steps=3)
    optimizer = torch.optim.SGD([{"params": pruner.weights()}], 0.01)
    learns = torch.optim.Adam([pruner.param_group()])
    x, y = torch.randn(16, 32), torch.randint(0, 4, (16,))
    if pruner.prepare_batches:
        pruner.prepare([(x, y)], lambda x, y: F.cross_entropy(model(x), y))
    for _ in range(5):
        pruner.step()
        F.cross_entropy(model(x), y).backward()
        optimizer.step(), learns.step(), optimizer.zero_grad(), learns.zero_grad()
    report = pruner.finalize()
    assert report["asked_sparsity"] == pytest.approx(1 - sum(_kept(found).values()) / 6144, abs=0.02)
    spent = sum(found.pruned[key].price * model.get_submodule(key).weight.count_nonzero().item() for key in "02")
    planned = sum(found.pruned[key].price * kept for key, kept in _kept(found).items())
    tile = max(found.pruned[key].price * parse(found.pruned[key].pattern).rows ** 2 for key in "02")
    assert planned - tile <= spent * (1 + 2e-3) and spent <= planned * (1 + 2e-3), "the budget is the plan's"
    for key in "02":
        rows = parse(found.pruned[key].pattern).rows
        tiles = model.get_submodule(key).weight.unfold(0, rows, rows).unfold(1, rows, rows).ne(0).float().mean((-1, -2))
        assert set(tiles.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_the_budget_is_corrected_once_by_what_was_measured(factor, monkeypatch):
    """A model that turns out slower than planned loses tiles along the slopes; one that is faster gets some back."""
    model = mlp()
    found = plan(model, None, Latency(4.0), table=table_of(model, LINES))
    pruner = SmartPruner(model, found, search_steps=2)
    pruner.harden()
    before = everything(model)[1]
    monkeypatch.setattr("smart_train.planning.correct.measured_ms", lambda *_: 4.0 * factor)
    (pool,) = pruner.pools
    budget = pool.budget
    correction = correct_(pruner, found, torch.randn(8, 32))
    assert correction.measured_ms == 4.0 * factor and correction.goal_ms == 4.0
    change = (4.0 - 4.0 * factor) / (max(layer.price for layer in found.layers) * budget / 1000)
    assert pool.budget == pytest.approx(budget * (1 + max(-0.5, min(0.5, change))), abs=1)
    assert (factor - 1) * (correction.kept_after - correction.kept_before) <= 0
    spent = sum(int((mask * pool.prices[name]).sum()) for name, mask in pruner.masks().items())
    assert 0 <= pool.budget - spent < max(int(price.max()) for price in pool.prices.values()), "exact to a tile"
    assert everything(model)[1] == before, "weights and scores are what they were"


def test_several_pools_share_a_correction(monkeypatch):
    """What is too much is taken away once, not once from each pool."""
    model = mlp()
    found = plan(model, None, Latency(4.0), table=table_of(model, LINES))
    pruner = OneShotPruner(model, found, search_steps=2, scope="layer")
    pruner.harden()
    assert len(pruner.pools) == 2
    before = sum(pool.spends for pool in pruner.pools)
    monkeypatch.setattr("smart_train.planning.correct.measured_ms", lambda *_: 4.0 + 0.1 * before)
    correct_(pruner, found, torch.randn(8, 32))
    assert sum(pool.spends for pool in pruner.pools) == pytest.approx(0.9 * before, rel=1e-2)


def test_a_search_begins_at_the_densities_of_the_plan():
    model = mlp()
    model[2].weight.data.mul_(torch.linspace(0.1, 10, 64)[:, None])  # its magnitudes differ more than the other's
    found = plan(model, None, Speedup(1.9), table=table_of(model, {"0": LINES[1:], "2": LINES[:1]}))
    densities = {name: layer.density for name, layer in found.pruned.items()}
    assert len(set(densities.values())) == 2
    pruner = SmartPruner(model, found, search_steps=8)
    pruner.step()
    kept = {name: mask.mean().item() for name, mask in pruner.masked.hard_masks().items()}
    assert kept == pytest.approx(densities, abs=1 / 32), "to a tile"
    for name, layer in pruner.layers.items():
        assert layer.scores.gt(0).float().mean().item() == pytest.approx(densities[name], abs=1 / 32)


@pytest.mark.parametrize(("saved", "share"), [(0.8, 0.8), (1.0, 1.0), (1.1, 1.1), (-0.5, 1.0)])
def test_a_plan_is_tried_before_it_is_returned(saved, share, monkeypatch):
    """Of what the first plan promised to save, the model saves a share: the second one counts with that."""
    model = mlp()
    known = table_of(model, LINES)
    first = plan(model, None, Speedup(1.5), table=known)
    before = everything(model)
    monkeypatch.setitem(plan.__globals__, "latency_table", lambda *_, **__: known)
    monkeypatch.setattr(
        "smart_train.planning.confirm.measured_ms", lambda *_: first.dense_ms - saved * (first.dense_ms - first.ms)
    )
    second = plan(model, torch.randn(8, 32), Speedup(1.5))
    assert everything(model) == before
    assert second.met and second.dense_ms == first.dense_ms and second.limit == first.limit
    for old, new in zip(first.layers, second.layers, strict=True):
        assert new.dense_ms == pytest.approx(share * old.dense_ms)
    assert (share - 1) * (second.sparsity - first.sparsity) <= 0, "less is saved by a tile, more have to go"


def test_what_is_measured_is_a_copy(monkeypatch):
    model = mlp()
    found = plan(model, None, Latency(4.0), table=table_of(model, LINES))
    pruner = SmartPruner(model, found, search_steps=2)
    pruner.harden()
    x, seen = torch.randn(8, 32), {}

    def compress(copied, example, seconds):
        seen.update(zeros={key: copied.get_submodule(key).weight.eq(0).float().mean().item() for key in "02"})
        return SimpleNamespace(before=Cost(0, 0, 0, 14.0), after=Cost(0, 0, 0, 8.4))

    monkeypatch.setattr("smart_train.planning.correct.compress_", compress)
    kept = dict.fromkeys("02", 1.0) | {name: mask.mean().item() for name, mask in pruner.masks().items()}
    assert correct_(pruner, found, x).measured_ms == pytest.approx(0.6 * 7.0), "in units of the plan's dense model"
    assert seen["zeros"] == pytest.approx({name: 1 - density for name, density in kept.items()})
    assert pruner.stage == "finetune" and pruner.layers.keys() == found.pruned.keys()


def _kept(found):
    return {name: layer.density * layer.weights for name, layer in found.pruned.items()}


def test_what_costs_more_is_kept_less():
    """Two layers with the same scores: the budget in time goes to the one whose weights take less of it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))
    steep = (curve(SMALL, (0.1, 0.3, 0.9)),)
    gentle = (curve(SMALL, (0.1, 0.12, 0.15)),)
    found = plan(model, None, Latency(REST + 2.4), table=table_of(model, {"0": steep, "2": gentle}, ms=(4.0, 4.0)))
    assert found.pruned["0"].price > 5 * found.pruned["2"].price
    pruner = SmartPruner(model, found, search_steps=2)
    (pool,) = pruner.pools
    prices = {name: int(price[0, 0]) for name, price in pool.prices.items()}
    assert prices["0"] == 64 * 1000 and 64 <= prices["2"] < 64 * 200
    pruner.step()
    kept = {name: mask.double() for name, mask in pruner.masks().items()}
    spent = sum((kept[name] * pool.prices[name]).sum() for name in kept)
    assert float(spent) == pytest.approx(pruner.keep(pool), rel=1e-4), "the soft top-k holds the budget in time"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Latency(0), "latency must be above 0 ms, got 0"),
        (lambda: Speedup(1), "speed-up must be above 1, got 1"),
        (lambda: Size(-1), "size must be above 0 bytes, got -1"),
        (lambda: Macs(0), "MACs must be above 0, got 0"),
        (lambda: Sparsity(80), "sparsity must be between 0 and 1, got 80"),
        (lambda: parse_target("latency:4"), "latency must be a number and s, ms or us, such as 4ms, got '4'"),
        (lambda: plan(mlp(), None, 2.0), "target must be one such as Speedup"),
        (lambda: plan(mlp(), None, Speedup(2), batches=[()]), "batches and loss must be given together"),
        (lambda: SmartPruner(mlp(), _plan(), 0.5, search_steps=1), "a plan says which layers and how much"),
        (lambda: parse_target("speedup:fast"), "speed-up must be a number, got 'fast'"),
        (lambda: parse_target("latency:1e-ems"), "latency must be a number, got '1e-e'"),
        (lambda: parse_target("faster"), "target must be speedup:FACTOR or latency:TIME, got 'faster'"),
        (lambda: correct_(SmartPruner(mlp(), _plan(), search_steps=1), _plan(), None), "correct_ needs a plan in ms"),
        (lambda: SmartPruner(mlp()[:2], _plan(), search_steps=1), "the layers of the plan, got none called 2"),
    ],
)
def test_clear_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _plan():
    model = mlp()
    return plan(model, None, Speedup(1.9), table=table_of(model, LINES[1:]))


def test_a_plan_that_does_not_fit_leaves_the_model_as_it_was():
    model = mlp()[:2]
    before = everything(model)
    with pytest.raises(ValueError, match="must have the layers of the plan"):
        SmartPruner(model, _plan(), search_steps=1)
    assert everything(model) == before


@pytest.mark.parametrize(("text", "ms"), [("4ms", 4.0), (" 0.5 s", 500.0), ("400us", 0.4), ("1e-3s", 1.0)])
def test_latencies_are_read_with_their_unit(text, ms):
    assert parse_target(f"latency:{text}").ms == pytest.approx(ms)
    assert parse_target("speedup:2.5") == Speedup(2.5)
