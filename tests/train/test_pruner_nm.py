"""N:M patterns through the pruner: soft, straight-through, transposable, V:N:M; and training after hardening."""

import pytest
import torch
from torch import nn

from smart_kernels import NM, VNM, Block, GroupGate, SparseLinear, WeightShape, compress_, masked_layers
from smart_train import SmartPruner

PATTERNS = [NM(2, 4), NM(1, 4), NM(2, 4, transposable=True), VNM(16, 2, 8)]


def search(pattern, steps=20, **options):
    """Prune the second layer of a small net; the net and its pruner after the search."""
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
    pruner = SmartPruner(net, pattern, search_steps=steps, filter_fn=lambda layer, name: name == "2", **options)
    optimizer = torch.optim.Adam([{"params": pruner.weights(), "lr": 1e-2}, pruner.param_group(0.05)])
    x = torch.randn(64, 16)
    target, losses = torch.randn(64, 16), []
    for _ in range(steps):
        pruner.step()
        loss = (net(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return net, pruner, losses


@pytest.mark.parametrize("straight_through", [False, True], ids=["soft", "straight-through"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_search_ends_in_the_pattern(pattern, straight_through):
    net, pruner, losses = search(pattern, straight_through=straight_through)
    gate = masked_layers(net)["2"].gate
    assert isinstance(gate, GroupGate) and gate.straight_through == straight_through
    assert losses[-1] < losses[0]
    before = {name: layer.scores.clone() for name, layer in pruner.layers.items()}
    report = pruner.finalize()
    kept = net[2].weight != 0
    assert kept.float().mean() == 1 - pattern.sparsity
    assert kept.view(16, -1, pattern.m).sum(-1).eq(pattern.n).all()
    lost = report["layers"]["2"]["score_lost"]
    assert 0 <= lost < 1 and (lost > 0) == (str(pattern) not in ("nm:2:4", "nm:1:4"))
    assert lost == pattern.score_lost(before["2"], WeightShape(16, 1, 32))
    if pattern.n == 2 and pattern.m == 4 and pattern.transposable:
        assert kept.view(4, 4, -1).sum(1).eq(2).all()


def test_straight_through_multiplies_by_the_hard_mask_and_moves_pruned_scores():
    net, _, _ = search(NM(2, 4), steps=3, straight_through=True)
    layer = net[2]
    layer.scores.grad = None
    net(torch.randn(8, 16)).square().sum().backward()
    pruned = layer.weight == 0
    assert pruned.float().mean() == 0.5
    assert layer.scores.grad[pruned].ne(0).any()


def test_straight_through_is_for_nm():
    net = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    with pytest.raises(ValueError, match="straight_through is for N:M"):
        SmartPruner(net, Block(4, 4), 0.5, search_steps=1, straight_through=True)


def test_a_hardened_layer_goes_on_training_sparse():
    net, pruner, _ = search(NM(2, 4, transposable=True))
    pruner.finalize()
    layer = SparseLinear.from_dense(net[2], NM(2, 4, transposable=True), 0.5)
    assert layer.format.transposable
    kept, x = net[2].weight != 0, torch.randn(8, 32, requires_grad=True)
    assert torch.equal(layer.weight != 0, kept)
    dx = torch.autograd.grad(layer(x).square().sum(), x)[0]
    torch.testing.assert_close(dx, torch.autograd.grad(net[2](x).square().sum(), x)[0])


def test_a_pruned_convolution_is_stored_as_it_was_pruned():
    net = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 8, 3, stride=2))
    pruner = SmartPruner(net, NM(2, 4), search_steps=2, filter_fn=lambda layer, name: True)
    optimizer = torch.optim.Adam([{"params": pruner.weights()}, pruner.param_group(0.05)])
    x = torch.randn(2, 16, 6, 6)
    for _ in range(2):
        pruner.step()
        net(x).square().mean().backward()
        optimizer.step()
    pruner.finalize()
    expected = net.eval()(x)
    report = compress_(net, x, policy="size", seconds=0.01)
    assert [row.choice for row in report.rows] == ["nm", "nm"]
    assert [layer.format.taps for layer in (net[0], net[2])] == [9, 9]
    torch.testing.assert_close(net(x), expected)
