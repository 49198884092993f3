"""Every method of the table: exact budget, exact zeros, resumed bit for bit, every kind of pattern."""

import io
from pathlib import Path

import pytest
import torch
from torch import nn

import smart_train
from smart_kernels import NM, VNM, Block, Channel, HardGate, WeightShape, masked_layers
from smart_train import PRUNERS, GradualPruner, OneShotPruner, Pruner, SmartPruner, TaylorPruner

from .small_models import CONVS, LINEARS, Shared, make_layers, make_mlp

NAMES = list(PRUNERS)
SEARCH, STEPS = 6, 9


def batch(number):
    generator = torch.Generator().manual_seed(number)
    return torch.randn(6, 8, generator=generator), torch.randint(4, (6,), generator=generator)


def advance(model, pruner, optimizer, steps):
    """The loop of the docstring of ``Pruner``."""
    for number in steps:
        x, target = batch(number)
        pruner.step()
        (loss(model, x, target) + pruner.penalty()).backward()
        pruner.after_backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.after_step()


def loss(model, x, target):
    return torch.nn.functional.cross_entropy(model(x), target)


def make(name, pattern, sparsity, model=None, **settings):
    torch.manual_seed(1)
    model = model or make_mlp()
    pruner = PRUNERS[name](model, pattern, sparsity, search_steps=SEARCH, **settings)
    optimizer = torch.optim.AdamW([{"params": pruner.weights()}, pruner.param_group()], lr=1e-2)
    return model, pruner, optimizer


def prepare(model, pruner):
    batches = [batch(100 + number) for number in range(pruner.prepare_batches)]
    pruner.prepare(batches, lambda x, target: loss(model, x, target))


CASES = {
    "block": (Block(4, 4), 0.75, {}),
    "ragged": (Block(4, 3), 0.6, {}),
    "per-layer": (Block(4, 4), 0.5, {"scope": "layer"}),
    "channel": (Channel(), 0.5, {}),
    "2:4": (NM(2, 4), None, {}),
    "1:4": (NM(1, 4), None, {}),
    "transposable": (NM(2, 4, transposable=True), None, {}),
    "2:8 of 4": (VNM(4, 2, 8), None, {}),
}


CHANNELS = ("catro", "activation")  # methods that take nothing else


def skip_refused(name, pattern):
    """Skip where a method says that it is not for a pattern; that it says so has a test of its own."""
    refused = name in CHANNELS and not pattern.whole_channels
    refused |= name == "rl" and pattern.local
    refused |= name in ("srste", "dsp") and pattern.whole_channels
    if refused:
        pytest.skip("refused")


@pytest.mark.parametrize(
    "name, pattern", [(n, Block(4, 4)) for n in CHANNELS] + [("rl", NM(2, 4)), ("srste", Channel()), ("dsp", Channel())]
)
def test_a_method_refuses_what_it_is_not_for(name, pattern):
    model = make_mlp()
    with pytest.raises(ValueError, match="must have"):
        PRUNERS[name](model, pattern, pattern.sparsity or 0.5, search_steps=1)
    assert not masked_layers(model)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_budget_and_zeros_are_exact(name, case):
    pattern, sparsity, settings = CASES[case]
    skip_refused(name, pattern)
    model, pruner, optimizer = make(name, pattern, sparsity, **settings)
    prepare(model, pruner)
    advance(model, pruner, optimizer, range(STEPS))
    largest = [max(int(cost.max()) for cost in pool.costs.values()) for pool in pruner.pools]
    budgets = [pool.weights - pool.asked for pool in pruner.pools]
    names = [list(pool.layers) for pool in pruner.pools]
    report = pruner.finalize()
    for pool, budget, tile in zip(names, budgets, largest, strict=True):
        kept = sum(report["layers"][layer]["kept"] for layer in pool)
        assert budget - tile < kept <= budget + 1e-6
    assert not masked_layers(model)
    for layer, counted in report["layers"].items():
        assert (model.get_submodule(layer).weight != 0).sum() == counted["kept"] > 0
    assert report["asked_sparsity"] == pytest.approx(sparsity or pattern.sparsity) and report["stage"] == "finetune"


@pytest.mark.parametrize("kind", [LINEARS, CONVS], ids=["linear", "conv"])
@pytest.mark.parametrize("name", NAMES)
def test_prunes_every_kind_of_layer(name, kind):
    pattern = Channel() if name in CHANNELS else Block(2, 4)
    model, inputs = make_layers(kind)
    pruner = PRUNERS[name](model, pattern, 0.5, search_steps=3, filter_fn=lambda *_: True)
    x = torch.randn(3, inputs) if kind is LINEARS else torch.randn(3, inputs, 4, 4)
    pruner.prepare([(x, torch.tensor([0, 1, 0]))], lambda x, _: model(x).square().mean())
    for _ in range(4):
        pruner.step()
        model(x).square().mean().backward()
        pruner.after_backward()
    assert 0 <= pruner.finalize()["kept_sparsity"] - 0.5 < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_coupled_channels_and_shared_weights(name):
    if name not in CHANNELS:
        model = Shared()
        pruner = PRUNERS[name](model, Block(4, 4), 0.75, search_steps=2)
        x = torch.randn(5, 16)
        pruner.prepare([(x,)], lambda x: model(x).square().sum())
        for _ in range(3):
            pruner.step()
            assert model.a.gate is model.b.gate
        assert pruner.finalize()["layers"] == {"a": {"weights": 256, "kept": 64}}
    skip_refused(name, Channel())

    net = nn.Sequential(nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 6, 1))
    x = torch.randn(2, 8, 6, 6)
    settings = {"example_input": x, "filter_fn": lambda module, path: path == "0"}
    pruner = PRUNERS[name](net, Channel(), 0.5, search_steps=2, **settings)
    pruner.prepare([(x, torch.tensor([0, 1]))], lambda x, _: net(x).square().sum())
    for _ in range(3):
        pruner.step()
        net(x).square().mean().backward()
        pruner.after_backward()
    pruner.finalize()
    dead = net[0].weight.flatten(1).eq(0).all(1)
    assert dead.sum() == 6 and net[1].weight[dead].eq(0).all() and net[1].bias[dead].eq(0).all()


REMEMBERED = ("smart", "oneshot", "taylor", "gradual", "acdc")  # methods whose masks of the search are in their state


def run(name, case, stop=None, saved=None):
    """STEPS steps, or up to ``stop``; continued from ``saved``."""
    pattern, sparsity, settings = CASES[case]
    own = {"every": 4} if "every" in PRUNERS[name].options else {}
    model, pruner, optimizer = make(name, pattern, sparsity, dense_steps=1, **settings, **own)
    parts = {"model": model, "optimizer": optimizer, "pruner": pruner}
    if saved is None:
        prepare(model, pruner)
    else:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()  # nothing but the state may matter
        state = torch.load(io.BytesIO(saved), weights_only=True)
        for part, value in parts.items():
            value.load_state_dict(state[part])
        if pruner.stage != "search" or name in REMEMBERED:
            assert model(batch(0)[0]).equal(state["output"])
    advance(model, pruner, optimizer, range(pruner.steps, stop or STEPS))
    if stop is None:
        pruner.finalize()
        return model.state_dict()
    file = io.BytesIO()
    states = {part: value.state_dict() for part, value in parts.items()}
    torch.save(states | {"output": model(batch(0)[0]).detach()}, file)
    return file.getvalue()


@pytest.mark.parametrize("stop", [1, 2, 4, 6, 8])
@pytest.mark.parametrize("case", ["ragged", "channel", "1:4"])
@pytest.mark.parametrize("name", NAMES)
def test_resumed_is_uninterrupted_bit_for_bit(name, case, stop):
    skip_refused(name, CASES[case][0])
    whole = run(name, case)
    resumed = run(name, case, saved=run(name, case, stop))
    assert whole.keys() == resumed.keys()
    assert all(whole[key].equal(resumed[key]) for key in whole)


def test_one_shot_is_smart_hardened_at_once():
    masks = []
    for method in (OneShotPruner, SmartPruner):
        torch.manual_seed(0)
        pruner = method(make_mlp(), Block(4, 4), 0.5, search_steps=3)
        if method is SmartPruner:
            pruner.harden()
        pruner.step()
        assert pruner.stage == "finetune"
        masks.append([layer.gate.mask for layer in pruner.layers.values()])
    assert all(a.equal(b) for a, b in zip(*masks, strict=True))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CHANNELS and not PRUNERS[name].learns])
def test_scores_learn_where_a_method_says_so_only(name):
    model, pruner, optimizer = make(name, Block(4, 4), 0.5)
    prepare(model, pruner)
    advance(model, pruner, optimizer, range(3))
    assert not any(scores.requires_grad for scores in pruner.parameters())
    assert not any(id(scores) == id(weight) for scores in pruner.parameters() for weight in pruner.weights())


def test_gradual_follows_the_cube_and_chooses_anew():
    model = make_mlp()
    pruner = GradualPruner(model, Block(4, 4), 0.75, search_steps=11, every=2)
    kept = []
    for _ in range(12):
        pruner.step()
        kept.append(sum(int(layer.gate.mask.sum()) for layer in pruner.layers.values()))
    cube = [6 + 18 * (1 - step / 10) ** 3 for step in range(0, 11, 2)]
    assert kept == [*[round(tiles) for tiles in cube for _ in (0, 1)][:11], 6]


def test_a_tile_masked_gradually_gets_no_gradient_and_may_come_back():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    pruner = GradualPruner(model, Block(4, 4), 0.5, search_steps=4, every=1)
    pruner.step()
    with torch.no_grad():
        model[0].raw_weight.copy_(torch.arange(64.0).view(8, 8))
    for _ in range(2):
        pruner.step()
    mask = model[0].gate.mask.bool()
    assert not mask[0, 0] and mask[1, 1]
    model(torch.randn(3, 8)).square().sum().backward()
    assert model[0].raw_weight.grad[:4, :4].eq(0).all() and model[0].raw_weight.grad[4:, 4:].ne(0).any()
    with torch.no_grad():
        model[0].raw_weight[:4, :4] = 1000
    pruner.step()
    assert model[0].gate.mask.bool()[0, 0]


def test_gradual_keeps_fewer_of_every_group_until_the_pattern_holds():
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 2))
    pruner = GradualPruner(model, NM(1, 4), search_steps=9, every=1)
    kept = []
    for _ in range(10):
        pruner.step()
        per_group = model[0].gate.mask.view(-1, 4).sum(1).unique().tolist()
        assert len(per_group) == 1
        kept += per_group
    assert kept[0] == 4 and kept[-1] == 1 and kept == sorted(kept, reverse=True) and {2, 3} & set(kept)


@pytest.mark.parametrize("pattern", [Block(4, 3), Block(4, 4), NM(2, 4)], ids=str)
def test_taylor_scores_are_the_squared_first_order_changes(pattern):
    model, pruner, _ = make("taylor", pattern, pattern.sparsity or 0.5, prepare_batches=3)
    plain = make_mlp()
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if "scores" not in key})
    prepare(model, pruner)
    expected = {name: 0 for name in pruner.layers}
    for number in range(3):
        plain.zero_grad()
        loss(plain, *batch(100 + number)).backward()
        for name in expected:
            weight = plain.get_submodule(name).weight
            shape = WeightShape(*weight.unsqueeze(1).shape)
            ids = torch.arange(pruner.layers[name].scores.numel()).view(pattern.scores_shape(shape)).double()
            tile = pattern.expand(ids, shape)[:, 0].long()  # which tile each weight is in
            sums = torch.zeros(ids.numel()).index_add_(0, tile.flatten(), (weight * weight.grad).detach().flatten())
            expected[name] += sums.square().view(ids.shape)
    for name, layer in pruner.layers.items():
        torch.testing.assert_close(layer.scores.detach(), expected[name], rtol=1e-4, atol=1e-9)


def test_taylor_leaves_batchnorms_gates_and_gradients_as_they_were():
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten()).train()
    pruner = TaylorPruner(net, Channel(), 0.5, search_steps=1, filter_fn=lambda *_: True)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    pruner.prepare([(torch.randn(3, 4, 5, 5),)] * 2, lambda x: net(x).square().mean())
    assert all(buffer.equal(before[name]) for name, buffer in net.named_buffers())
    assert all(layer.gate is None for layer in pruner.layers.values())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(layer.scores.gt(0).any() for layer in pruner.layers.values())


OWN_NUMBERS = [
    *[("acdc", "phases"), ("dais", "strength"), ("dais", "every"), ("dhp", "shrinkage"), ("gdp", "strength")],
    *[("gradual", "every"), ("pdp", "softness"), ("srste", "decay"), ("taylor", "prepare_batches")],
    *[("dsp", "groups"), ("dsp", "strength")],
    *[("smart", "prepare_batches"), ("catro", "prepare_batches"), ("rl", "prepare_batches")],
]


@pytest.mark.parametrize("name, option", OWN_NUMBERS)
@pytest.mark.parametrize("value", ["abc", True, float("nan"), -1])
def test_what_is_no_number_is_said(name, option, value):
    model = make_mlp()
    pattern = Channel() if name in CHANNELS else Block(4, 4)
    with pytest.raises(ValueError, match=rf"^{option} must be (a (whole )?number|at least|above).*, got '?{value}'?$"):
        PRUNERS[name](model, pattern, 0.5, search_steps=1, **{option: value})
    assert not masked_layers(model)


def test_taylor_wants_batches_first():
    _, pruner, _ = make("taylor", Block(4, 4), 0.5)
    with pytest.raises(ValueError, match=r"prepare\(batches, loss\) must come before the first step"):
        pruner.step()
    with pytest.raises(ValueError, match="at least one batch, got none"):
        pruner.prepare([], loss)


@pytest.mark.parametrize(
    "name, wrong", [("gradual", {"every": 0}), ("taylor", {"prepare_batches": 0})], ids=["gradual", "taylor"]
)
def test_own_values_are_checked_and_the_model_stays_plain(name, wrong):
    model = make_mlp()
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be at least 1, got 0"):
        PRUNERS[name](model, Block(4, 4), 0.5, search_steps=1, **wrong)
    assert not masked_layers(model)


def test_the_face_of_the_package():
    targets = {"Target", "Latency", "Speedup", "Size", "Macs", "Sparsity"}
    planning = targets | {"plan", "Plan", "LayerPlan", "Correction", "correct_"}
    methods = {"PRUNERS", "Pruner", *(method.__name__ for method in PRUNERS.values())}
    assert set(smart_train.__all__) == methods | planning
    assert all(issubclass(method, Pruner) and method.title for method in PRUNERS.values())


def test_a_method_is_a_short_file():
    for method in PRUNERS.values():
        file = Path(smart_train.__file__).parents[1] / (method.__module__.replace(".", "/") + ".py")
        assert len(file.read_text().splitlines()) <= 120, file


def test_masks_of_the_search_are_hard_where_nothing_learns():
    for name in ("gradual", "oneshot"):
        _, pruner, _ = make(name, Block(4, 4), 0.5)
        pruner.step()
        assert all(isinstance(layer.gate, HardGate) for layer in pruner.layers.values())
