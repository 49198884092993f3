"""Forward and backward as graphs, with masks that go on: each graph reads and writes the same tensors each time.

There is no GPU. ``make_fx`` stands in for what ``torch.cuda.make_graphed_callables`` captures.
"""

from unittest import mock

import pytest
import torch
import triton
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from smart_kernels import NM, Block, Channel
from smart_train import GradualPruner, SmartPruner

pytestmark = pytest.mark.skipif(triton.knobs.runtime.interpret, reason="launches of the interpreter are not traced")
STEPS = 12


def traced(module, static, allow_unused_input):
    """Trace a module as graphs capture it: with the tensors of now, in the mode of now."""
    assert allow_unused_input, "scores are not read by the graphs of soft masks"
    surface = (*static, *module.parameters())
    wanted = [each for each in surface if each.requires_grad]

    def both(dy):
        y = module(*static)
        found = torch.autograd.grad(y, wanted, dy, allow_unused=True)
        return y.detach(), [each if each is None else each.detach() for each in found]

    graph = make_fx(both)(torch.ones_like(module(*static)))

    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            with torch.no_grad():
                for own, each in zip(static, inputs, strict=False):
                    own.copy_(each)
                return graph(torch.ones(inputs[0].shape[0], 8))[0]

        @staticmethod
        def backward(ctx, dy):
            with torch.no_grad():
                grads = iter(graph(dy.contiguous())[1])
            return tuple(next(grads) if each.requires_grad else None for each in surface)

    own, captured_in = module.forward, module.training
    module.forward = lambda *inputs: (
        Replay.apply(*inputs, *surface[len(static) :]) if module.training == captured_in else own(*inputs)
    )
    return module


@pytest.fixture(autouse=True)
def _no_gpu():
    with mock.patch("torch.cuda.make_graphed_callables", traced):
        yield


def trained(pattern, with_graphs, pruner_class=SmartPruner):
    """Train, and return all that has become of weights and masks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32), nn.Linear(32, 8))
    sparsity = pattern.sparsity or 0.5
    pruner = pruner_class(model, pattern, sparsity, search_steps=6, dense_steps=2, filter_fn=lambda *_: True)
    groups = [{"params": pruner.weights(), "lr": 1e-2}, {**pruner.param_group(), "lr": 0.1}]
    optimizer = torch.optim.AdamW(groups)
    run, stage, seen = model, None, []
    for _ in range(STEPS):
        pruner.step()
        x, target = torch.randn(16, 32), torch.randn(16, 8)
        if with_graphs and pruner.stage != stage:
            statistics = [each.clone() for each in model.buffers()]
            run, stage = pruner.graphed(x), pruner.stage
            for buffer, before in zip(model.buffers(), statistics, strict=True):
                buffer.copy_(before)  # tracing has run the model
        (run(x) - target).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        seen += [layer.weight.detach().clone() for layer in pruner.layers.values()]
    return seen, [each.detach().clone() for each in model.parameters()], run, pruner


@pytest.mark.parametrize("pattern", [Block(8, 8), Channel(), NM(2, 4)], ids=str)
def test_training_in_graphs_is_training(pattern):
    seen, weights, *_ = trained(pattern, with_graphs=True)
    wanted, as_wanted, *_ = trained(pattern, with_graphs=False)
    for got, expected in zip((*seen, *weights), (*wanted, *as_wanted), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    layers = len(seen) // STEPS
    assert not torch.equal(seen[3 * layers] != 0, seen[-1] != 0), "masks have moved"


def test_masks_that_are_chosen_anew_are_read():
    seen, *_ = trained(Block(8, 8), True, GradualPruner)
    wanted, *_ = trained(Block(8, 8), False, GradualPruner)
    assert all(torch.equal(a != 0, b != 0) for a, b in zip(seen, wanted, strict=True))


def test_the_model_itself_stays_as_it_is():
    *_, run, pruner = trained(Block(8, 8), True)
    gates = [layer.gate for layer in pruner.layers.values()]
    run(torch.randn(16, 32))
    assert gates == [layer.gate for layer in pruner.layers.values()]
    pruner.model.eval()
    x = torch.randn(16, 32)
    assert torch.equal(run(x), pruner.model(x)), "captured in training, so not replayed"


def test_another_stage_wants_another_graph():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    pruner = SmartPruner(model, Block(8, 8), 0.5, search_steps=3, filter_fn=lambda *_: True)
    pruner.step()
    run = pruner.graphed(torch.randn(16, 32))
    pruner.harden()
    with pytest.raises(ValueError, match=r"captured anew for each stage, got masks of another kind"):
        run(torch.randn(16, 32))
    pruner.finalize()
    with pytest.raises(ValueError, match="a pruner must have masked layers"):
        pruner.graphed(torch.randn(16, 32))
