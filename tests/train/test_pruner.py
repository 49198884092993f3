"""The life of a pruner: its gradients, its stages, its state, and what it finds."""

import io
from itertools import pairwise

import pytest
import torch
from torch import nn

from smart_kernels import NM, Block, Channel, HardGate, SoftGate, mask_, masked_layers
from smart_kernels.patterns import WeightShape
from smart_train import SmartPruner

# sizes that the tiles do not divide, so that tiles cost differently
LINEARS = (nn.Linear, (12, 10), (10, 9))
CONVS = (lambda a, b: nn.Conv2d(a, b, 3, padding=1), (6, 5), (5, 7))
POINTWISE = (lambda a, b: nn.Conv2d(a, b, 1), (6, 8), (8, 4))


def make_layers(kind):
    layer, *sizes = kind
    return nn.Sequential(layer(*sizes[0]), nn.Tanh(), layer(*sizes[1])), sizes[0][0]


def make_mlp():
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("step", [1, 4, 9], ids=["everything", "warmup", "target"])
@pytest.mark.parametrize("kind", [LINEARS, CONVS, POINTWISE], ids=["linear", "conv", "pointwise"])
@pytest.mark.parametrize(
    "pattern", [Block(4, 3), Block(2, 4, "all"), Channel(), NM(2, 4)], ids=["block", "all-taps", "channel", "nm"]
)
def test_score_gradients_match_finite_differences_through_the_whole_pruner(pattern, kind, step, scope):
    model, inputs = make_layers(kind)
    sparsity = pattern.sparsity or 0.5
    pruner = SmartPruner(
        model,
        pattern,
        sparsity,
        scope=scope,
        search_steps=10,
        eps=0.0,
        temperature=(0.5, 0.1),
        filter_fn=lambda *_: True,
    )
    model.double()
    x = torch.randn(3, inputs, dtype=torch.float64) if kind is LINEARS else torch.randn(2, inputs, 4, 4).double()
    target = torch.randn_like(model(x))
    pruner.step()  # the scores start here

    def loss():
        pruner.steps = step - 1
        pruner.step()
        return ((model(x) - target) ** 2).sum()

    for scores, gradient in zip(pruner.parameters(), torch.autograd.grad(loss(), pruner.parameters()), strict=True):
        direction = torch.randn_like(scores)
        differences = []
        for sign in (1, -1):
            with torch.no_grad():
                scores += sign * 1e-5 * direction
                differences.append(loss())
                scores -= sign * 1e-5 * direction
        expected = (differences[0] - differences[1]) / 2e-5
        torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-6, atol=1e-8)


def test_the_masks_hold_the_budget_at_every_step():
    model = make_mlp()
    pruner = SmartPruner(model, Block(4, 4), 0.75, search_steps=20)
    kept = []
    for _ in range(20):
        pruner.step()
        kept.append(sum(layer.gate.values(layer.scores).sum().item() for layer in pruner.layers.values()))
        assert kept[-1] == pytest.approx(round(kept[-1]), rel=1e-5)  # whole tiles
        for layer in pruner.layers.values():
            layer.scores.data += 0.1 * torch.randn_like(layer.scores)
    assert kept[0] == 24
    assert kept[10:] == pytest.approx([6] * 10, rel=1e-5)
    assert all(a >= b - 1e-4 for a, b in pairwise(kept))


@pytest.mark.parametrize("kind", [LINEARS, CONVS], ids=["linear", "conv"])
@pytest.mark.parametrize("pattern", [Block(4, 3), Block(2, 4, "all"), Channel()], ids=["block", "all-taps", "channel"])
def test_unequal_tiles_hold_the_budget_in_weights(pattern, kind):
    model, _ = make_layers(kind)
    pruner = SmartPruner(model, pattern, 0.5, search_steps=9, filter_fn=lambda *_: True)
    total, kept = 0, 0.0
    for _ in range(9):
        pruner.step()
    for layer in pruner.layers.values():
        cost = layer.pattern.cost(layer.shape)
        total, kept = total + cost.sum().item(), kept + (cost * layer.gate.values(layer.scores)).sum().item()
    assert kept == pytest.approx(total // 2, rel=1e-5)


@pytest.mark.parametrize("kind", [LINEARS, CONVS], ids=["linear", "conv"])
def test_every_group_of_nm_holds_n(kind):
    model, _ = make_layers(kind)
    pruner = SmartPruner(model, NM(2, 4), search_steps=9, filter_fn=lambda *_: True)
    for _ in range(5):
        pruner.step()
    for layer in pruner.layers.values():
        values, start = layer.gate.values(layer.scores).view(-1, layer.shape.C), 0
        while start < layer.shape.C:
            group = values[:, start : start + 4].sum(1)
            torch.testing.assert_close(group, torch.full_like(group, min(2, layer.shape.C - start)))
            start += 4


def test_stages_follow_each_other():
    model = make_mlp()
    pruner = SmartPruner(model, Block(4, 4), 0.5, search_steps=3, dense_steps=2)
    stages, gates = [], []
    for _ in range(7):
        pruner.step()
        stages.append(pruner.report()["stage"])
        gates.append(type(masked_layers(model)["0"].gate))
    assert stages == ["dense"] * 2 + ["search"] * 3 + ["finetune"] * 2
    assert gates == [type(None)] * 2 + [SoftGate] * 3 + [HardGate] * 2


def test_the_search_starts_from_the_weights_of_its_first_step():
    model = make_mlp()
    pruner = SmartPruner(model, Block(4, 4), 0.5, search_steps=3, dense_steps=1)
    pruner.step()
    with torch.no_grad():
        model[0].raw_weight.copy_(torch.arange(128.0).view(16, 8))
    pruner.step()
    scores = pruner.layers["0"].scores
    assert scores.argmax() == scores.numel() - 1
    torch.testing.assert_close(scores.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(scores.std(correction=0), torch.tensor(1.0))


@pytest.mark.parametrize("value", [0.0, 0.3, -7.1])
def test_equal_importance_gives_equal_scores(value):
    model = make_mlp()
    nn.init.constant_(model[0].weight, value)
    nn.init.constant_(model[2].weight, value)
    pruner = SmartPruner(model, Block(4, 16), 0.5, search_steps=3)
    pruner.step()
    assert all(layer.scores.abs().max() < 0.1 for layer in pruner.layers.values())
    assert pruner.report()["live"] == 1


def test_a_layer_of_one_tile_is_safe_and_kept():
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 8), nn.Linear(8, 2))
    pruner = SmartPruner(model, Block(8, 32), 0.5, search_steps=3)
    pruner.step()
    assert pruner.layers["1"].scores.tolist() == [[0.0]]
    assert pruner.finalize()["layers"]["1"]["kept"] == 256


def test_hardening_at_once_is_one_shot_magnitude():
    model = make_mlp()
    pruner = SmartPruner(model, Block(4, 4), 0.5, scope="layer", search_steps=3)
    layer = pruner.layers["2"]
    best = layer.pattern.importance(layer.matrix()).flatten().topk(8).indices.sort().values
    pruner.harden()
    assert layer.gate.mask.flatten().nonzero()[:, 0].equal(best)
    pruner.step()
    assert pruner.stage == "finetune"


def test_hardening_freezes_scores_and_masks():
    model = make_mlp()
    pruner = SmartPruner(model, Block(4, 4), 0.5, search_steps=4)
    optimizer = torch.optim.Adam([{"params": pruner.weights()}, pruner.param_group()])
    for step in range(8):
        pruner.step()
        if step == 4:
            scores, masks = [[t.clone() for t in ts] for ts in (pruner.parameters(), hard_masks(pruner))]
        model(torch.randn(5, 8)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(a.equal(b) for a, b in zip(scores, pruner.parameters(), strict=True))
    assert all(a.equal(b) for a, b in zip(masks, hard_masks(pruner), strict=True))


def hard_masks(pruner):
    return [layer.gate.mask for layer in pruner.layers.values()]


def test_finalize_leaves_plain_layers_with_exact_zeros():
    model = make_mlp()
    pruner = SmartPruner(model, Block(4, 4), 0.75, search_steps=2)
    for _ in range(3):
        pruner.step()
    x, masks = torch.randn(5, 8), hard_masks(pruner)
    masked_output = model(x)
    report = pruner.finalize()
    assert [type(layer) for layer in model] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    torch.testing.assert_close(model(x), masked_output)
    for layer, mask in zip((model[0], model[2]), masks, strict=True):
        zero = Block(4, 4).expand(mask, WeightShape(layer.out_features, 1, layer.in_features)).squeeze(1) == 0
        assert (layer.weight[zero] == 0).all()
    assert report["kept_sparsity"] == 0.75
    assert (report["gap"], report["live"], report["step"]) == (0, 0.25, 3)


def test_accumulated_gradients_are_the_sum():
    model = make_mlp()
    pruner = SmartPruner(model, Block(4, 4), 0.5, search_steps=8)
    for _ in range(4):
        pruner.step()
    batches = torch.randn(2, 5, 8)
    for x in batches:
        model(x).square().sum().backward()
    accumulated = [scores.grad.clone() for scores in pruner.parameters()]
    model.zero_grad()
    pruner.steps -= 1
    pruner.step()
    model(batches.flatten(0, 1)).square().sum().backward()
    for grad, scores in zip(accumulated, pruner.parameters(), strict=True):
        torch.testing.assert_close(grad, scores.grad)


class Shared(nn.Module):
    """One weight in two modules, and one of them called twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.head(self.a(torch.tanh(self.b(torch.tanh(self.a(x))))))


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


def test_score_gradients_of_a_shared_weight_called_three_times():
    model = Shared()
    pruner = SmartPruner(model, Block(4, 4), 0.5, search_steps=8, eps=0.0)
    model.double()
    pruner.step()
    x, (scores,) = torch.randn(3, 16, dtype=torch.float64), pruner.parameters()

    def loss():
        pruner.steps = 3
        pruner.step()
        return model(x).square().sum()

    (gradient,) = torch.autograd.grad(loss(), scores)
    direction = torch.randn_like(scores)
    with torch.no_grad():
        scores += 1e-5 * direction
        up = loss()
        scores -= 2e-5 * direction
        expected = (up - loss()) / 2e-5
    torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-6, atol=1e-9)


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


def test_report_counts_what_lives_and_what_hardening_would_change():
    pruner = SmartPruner(make_mlp(), Block(4, 4), 0.75, search_steps=3, warmup=0.0, temperature=(0.2, 0.1), eps=0.3)
    assert pruner.report() | {"layers": None} == {
        "step": 0,
        "stage": "dense",
        "temperature": 0.0,
        "asked_sparsity": 0.75,
        "kept_sparsity": 0.0,
        "live": 1.0,
        "gap": 0.0,
        "layers": None,
    }
    pruner.step()
    report = pruner.report()
    soft = torch.cat([layer.gate.values(layer.scores).flatten() for layer in pruner.layers.values()]).detach()
    hard = torch.zeros_like(soft).index_fill_(0, soft.topk(6).indices, 1)
    assert report["temperature"] == 0.2
    assert report["live"] == pytest.approx((soft > 0.3).float().mean().item())
    assert report["gap"] == pytest.approx(((soft - hard).abs().sum() / 6).item(), rel=1e-5)
    assert report["kept_sparsity"] == 0.75


def test_report_names_the_layer_with_nan_and_step_does_not_look():
    pruner = SmartPruner(make_mlp(), Block(4, 4), 0.5, search_steps=3)
    pruner.step()
    with torch.no_grad():
        pruner.layers["2"].scores[0, 0] = float("nan")
    pruner.step()
    with pytest.raises(ValueError, match="scores must be free of NaN, got NaN in 2"):
        pruner.report()
    with pytest.raises(ValueError, match="NaN in 2"):
        pruner.harden()


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


@pytest.mark.parametrize("stop", [1, 2, 3, 6, 10, 11, 13])
@pytest.mark.parametrize("optimizer_class", [sgd, torch.optim.Adam], ids=["sgd", "adam"])
@pytest.mark.parametrize(
    "settings",
    [
        {"pattern": Block(4, 3), "sparsity": 0.6},
        {"pattern": Block(4, 4), "sparsity": 0.6, "scope": "layer"},
        {"pattern": NM(1, 4)},
    ],
    ids=["ragged", "layer", "nm"],
)
def test_a_resumed_run_ends_bit_for_bit_the_same(settings, optimizer_class, stop):
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


@pytest.mark.gpu
def test_step_does_not_wait_for_the_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    model = make_mlp().cuda()
    pruner = SmartPruner(model, Block(4, 3), 0.5, search_steps=6, dense_steps=1)
    for step in range(6):
        torch.cuda.set_sync_debug_mode("error" if step > 2 else "default")  # the first steps compile
        try:
            pruner.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def regress(steps, finetune, seed):
    """Least squares with a block-sparse truth, from random weights: which part of the true blocks is found, and the loss."""
    torch.manual_seed(seed)
    truth = torch.zeros(64).index_fill_(0, torch.randperm(64)[:10], 1)
    weight = torch.randn(32, 32) * Block(4, 4).expand(truth.view(8, 8), WeightShape(32, 1, 32)).squeeze(1)
    model = nn.Sequential(nn.Linear(32, 32, bias=False))
    pruner = SmartPruner(model, Block(4, 4), 1 - 10 / 64, search_steps=steps)
    optimizer = torch.optim.Adam([{"params": pruner.weights()}, pruner.param_group()], lr=1e-2)
    if steps == 1:
        pruner.harden()
    for _ in range(steps + finetune):
        pruner.step()
        x = torch.randn(32, 32)
        loss = (model(x) - x @ weight.T).square().mean() / weight.square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pruner.finalize()
    found = Block(4, 4).importance(model[0].weight[:, None]).flatten() > 0
    return (found & (truth > 0)).sum().item() / 10, loss.item()


def test_smart_finds_the_true_blocks_and_one_shot_magnitude_does_not():
    for seed in range(2):
        smart, smart_loss = regress(150, 100, seed)
        one_shot, one_shot_loss = regress(1, 249, seed)
        assert smart >= one_shot + 0.3
        assert smart_loss < one_shot_loss
