"""The soft masks of a pruner: exact gradients, exact budgets."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from smart_kernels import NM, Block, Channel
from smart_train import SmartPruner
from smart_train.masks import floor
from tests.conftest import INTERPRETED

from .small_models import CONVS, LINEARS, POINTWISE, Shared, make_layers, make_mlp


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("step", [1, 4, 9], ids=["everything", "warmup", "target"])
@pytest.mark.parametrize("kind", [LINEARS, CONVS, POINTWISE], ids=["linear", "conv", "pointwise"])
@pytest.mark.parametrize(
    "pattern", [Block(4, 3), Block(2, 4, "all"), Channel(), NM(2, 4)], ids=["block", "all-taps", "channel", "nm"]
)
def test_score_gradients_match_finite_differences_through_the_whole_pruner(monkeypatch, pattern, kind, step, scope):
    monkeypatch.setattr(floor, "MARGIN", -torch.inf)  # what it lifts is by a constant, for the gradient
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


def mask_of(layer):
    """(N, taps, C) mask, read off the weight."""
    with torch.no_grad():
        layer.raw_weight.fill_(1)
        weight = layer.weight
    return weight.flatten(2).transpose(1, 2) if weight.dim() == 4 else weight.unsqueeze(1)


def test_whole_tiles_hold_the_budget_at_every_step():
    pruner = SmartPruner(make_mlp(), Block(4, 4), 0.75, search_steps=20, eps=0.0)
    kept = []
    for _ in range(20):
        pruner.step()
        kept.append(sum(mask_of(layer).sum().item() for layer in pruner.layers.values()) / 16)
        for layer in pruner.layers.values():
            layer.scores.data += 0.1 * torch.randn_like(layer.scores)
    assert kept == pytest.approx([round(tiles) for tiles in kept], rel=1e-5)
    assert kept[0] == 24
    assert kept[10:] == pytest.approx([6] * 10, rel=1e-5)
    assert all(a >= b - 1e-4 for a, b in pairwise(kept))


@pytest.mark.parametrize("kind", [LINEARS, CONVS], ids=["linear", "conv"])
@pytest.mark.parametrize("pattern", [Block(4, 3), Block(2, 4, "all"), Channel()], ids=["block", "all-taps", "channel"])
def test_unequal_tiles_hold_the_budget_in_weights(pattern, kind):
    model, _ = make_layers(kind)
    pruner = SmartPruner(model, pattern, 0.5, search_steps=9, eps=0.0, filter_fn=lambda *_: True)
    for _ in range(9):
        pruner.step()
    masks = [mask_of(layer) for layer in pruner.layers.values()]
    budget = sum(mask.numel() for mask in masks) // 2
    assert sum(mask.sum().item() for mask in masks) == pytest.approx(budget, rel=1e-5)


@pytest.mark.parametrize("inputs", [5, 7, 8, 9, 10])
@pytest.mark.parametrize("kernel", [0, 1, 3], ids=["linear", "conv1x1", "conv3x3"])
def test_every_group_of_nm_holds_n(kernel, inputs):
    layer = nn.Conv2d(inputs, 3, kernel) if kernel else nn.Linear(inputs, 3)
    pruner = SmartPruner(nn.Sequential(layer), NM(2, 4), search_steps=9, eps=0.0, filter_fn=lambda *_: True)
    for _ in range(5):
        pruner.step()
    for group in mask_of(layer).split(4, 2):
        kept = group.sum(2)
        torch.testing.assert_close(kept, torch.full_like(kept, min(2, group.shape[2])))
    x = torch.randn(2, inputs, 3, 3) if kernel else torch.randn(2, inputs)
    dense = nn.functional.conv2d if kernel else nn.functional.linear
    torch.testing.assert_close(layer(x), dense(x, layer.weight, layer.bias))


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


@pytest.mark.skipif(INTERPRETED, reason="traces, which the interpreter does not change")
@pytest.mark.parametrize("pattern", [Block(32, 32), NM(2, 4)], ids=str)
def test_nothing_is_compiled_anew_while_the_temperature_falls(pattern):
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    pruner = SmartPruner(model, pattern, 0.5, search_steps=20)
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for _ in range(20):
        pruner.step()
        compiled(torch.randn(4, 64)).sum().backward()
    assert len(graphs) <= 2  # the first threshold has no predecessor


@pytest.mark.parametrize("pattern", [Block(4, 4), Channel()], ids=["block", "channel"])
def test_soft_masks_keep_the_best_tile_of_a_layer_whose_scores_are_all_low_as_hard_ones_do(pattern):
    pruner = SmartPruner(make_mlp(), pattern, 0.8, search_steps=8, temperature=(1e-3, 1e-3), warmup=0.0)
    pruner.step()
    low = list(pruner.layers)[1]
    with torch.no_grad():
        pruner.layers[low].scores.sub_(9)
        tops = pruner.layers[low].scores.flatten().topk(2).indices
    for _ in range(3):
        pruner.step()
    soft, hard = pruner.masks(), pruner.masked.hard_masks()
    assert soft[low].flatten()[tops].round(decimals=3).tolist() == [1, 0] and hard[low].sum() == 1


def test_layers_that_share_scores_keep_a_tile_each():
    """Of four scores of a pool two layers have two each, whatever a third has."""
    first, second = SimpleNamespace(index=torch.tensor([0, 1, -1])), SimpleNamespace(index=torch.tensor([2, 3]))
    pool = SimpleNamespace(
        sharing={"a": {"x": first, "y": second}, "b": {"z": SimpleNamespace(index=None)}},
        costs={"a": torch.ones(4, 1), "b": torch.ones(3, 1)},
        scored=7,
    )
    scores = torch.tensor([0.1, 0.2, -3.0, -4.0, 5.0, 6.0, 7.0], requires_grad=True)
    lifted = floor.Floor([pool]).lifted(scores, torch.tensor([4.0], dtype=torch.float64))
    assert lifted.tolist() == pytest.approx([0.1, 5.0, 5.0, -4.0, 5.0, 6.0, 7.0])
    assert torch.autograd.grad(lifted.sum(), scores)[0].tolist() == [1] * 7
    assert floor.Floor([pool]).lifted(scores, torch.tensor([torch.nan])).equal(scores)
