"""The life of a pruner: its stages, its report, and what it finds."""

import pytest
import torch
from torch import nn

from smart_kernels import Block, HardGate, SoftGate, WeightShape, masked_layers, soft_topk
from smart_train import SmartPruner
from smart_train.masks import floor

from .small_models import make_mlp


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


def test_a_finalized_pruner_is_done():
    pruner = SmartPruner(make_mlp(), Block(4, 4), 0.5, search_steps=2)
    assert pruner.finalize()["stage"] == "finetune"
    for again in (pruner.step, pruner.harden, pruner.report, pruner.finalize):
        with pytest.raises(ValueError, match=r"must have masked layers, got one after finalize"):
            again()


def test_report_counts_what_lives_and_what_hardening_would_change(monkeypatch):
    monkeypatch.setattr(floor, "MARGIN", -torch.inf)  # it has a test of its own
    pruner = SmartPruner(make_mlp(), Block(4, 4), 0.75, search_steps=3, warmup=0.0, temperature=(0.2, 0.1), eps=0.3)
    assert pruner.report() | {"layers": None} == {
        "step": 0,
        "stage": "dense",
        "temperature": 0.0,
        "init": "magnitude",
        "asked_sparsity": 0.75,
        "kept_sparsity": 0.0,
        "live": 1.0,
        "gap": 0.0,
        "layers": None,
    }
    pruner.step()
    report = pruner.report()
    soft, _ = soft_topk(torch.cat([scores.detach().flatten() for scores in pruner.parameters()]), 6, 0.2)
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


def regress(steps, finetune, seed):
    """Least squares with a block-sparse truth, from random weights: the part of the true blocks found, and the loss."""
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
    smart, smart_loss = regress(150, 100, seed=0)
    one_shot, one_shot_loss = regress(1, 249, seed=0)
    assert smart >= one_shot + 0.3
    assert smart_loss < one_shot_loss
