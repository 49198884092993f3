"""A whole step, pruner, forward, backward and optimizer, traced once: replayed it does what the step itself does.

There is no GPU for CUDA graphs here. ``make_fx`` writes down the tensor operations of a step instead, as a graph of a
GPU writes down its launches: what Python decided is fixed in both.
"""

import contextlib
import copy
from unittest import mock

import pytest
import torch
import triton
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from smart_kernels import NM, Block, Channel, parse
from smart_train import GradualPruner, SmartPruner
from smart_train import data as datasets
from smart_train.models import build
from smart_train.run.optimizers import make_capturable_
from smart_train.run.recipe import Recipe
from smart_train.run.replays import WARM, Replays
from smart_train.run.training import Course, Training

pytestmark = pytest.mark.skipif(triton.knobs.runtime.interpret, reason="launches of the interpreter are not traced")
REPLAYS = 20


@pytest.fixture(autouse=True)
def _adam_may_be_captured():
    """On a CPU torch refuses what it can do as well."""
    with mock.patch("torch.optim.adam._get_capturable_supported_devices", lambda *_: ["cpu"]):
        yield


class Traced:
    """The stand-in for ``CudaGraphs``. Tracing takes the step, so the first replay has nothing left to do."""

    def __init__(self):
        self.captures = 0

    aside = staticmethod(contextlib.nullcontext)

    def capture(self, step):
        self.captures += 1
        first = []
        graph = make_fx(lambda: first.append(step()) or first[0])()

        def replay():
            if first:
                return first.pop().detach()
            with torch.no_grad():
                return graph()

        return replay


def made(pattern, scope="global"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
    sparsity = pattern.sparsity or 0.5
    pruner = SmartPruner(model, pattern, sparsity, search_steps=60, scope=scope, filter_fn=lambda *_: True)
    groups = [{"params": pruner.weights(), "lr": 1e-2}, pruner.param_group(lr=0.1)]
    optimizer = torch.optim.AdamW(groups)
    make_capturable_(optimizer, torch.device("cpu"))
    x, target = torch.randn(16, 32), torch.randn(16, 8)

    def step():
        pruner.step()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        masks = [layer.weight.detach() != 0 for layer in pruner.layers.values()]
        stored = [] if isinstance(pattern, NM) else list(pruner.masked.masks().values())
        return [value.clone() for value in (*masks, *stored, *model.parameters())]

    return pruner, step


@pytest.mark.parametrize(
    "pattern, scope",
    [(Block(8, 8), "global"), (Block(8, 24), "layer"), (Channel(), "global"), (NM(2, 4), "global")],
    ids=str,
)
def test_twenty_replays_of_one_step_give_the_masks_of_twenty_steps(pattern, scope):
    _, step = made(pattern, scope)
    expected = [step() for _ in range(WARM + 1 + REPLAYS)]
    pruner, step = made(pattern, scope)
    for _ in range(WARM):
        step()
    graph = make_fx(step)()
    with torch.no_grad():
        for wanted in expected[WARM + 1 :]:
            pruner.replayed()
            got = graph()
            assert all(map(torch.equal, got, wanted))
    assert pruner.steps == len(expected)
    assert not all(map(torch.equal, expected[WARM + 1], expected[-1])), "temperature and budget have moved"
    after = step()  # and eager steps go on from there
    _, step = made(pattern, scope)
    for _ in range(len(expected)):
        step()
    assert all(map(torch.equal, after, step()))


def training(pruner_class=SmartPruner, **settings):
    torch.manual_seed(0)
    recipe = Recipe.for_model("cnn-tiny", batch=16, search_steps=12, finetune_steps=10, pattern="block:8x8", **settings)
    model = build("cnn-tiny", 1, 8, 10, 0)
    pruner = pruner_class(model, parse(recipe.pattern), 0.5, search_steps=12)
    return Training(model, datasets.load("digits"), recipe, Course(22, flat=12), pruner=pruner)


def test_a_training_from_graphs_is_the_training_itself():
    plain, graphed = training(), training()
    graphed.use_graphs(Replays(graphed, strict=True, graphs=(graphs := Traced())))
    for optimizer in plain.optimizers:
        make_capturable_(optimizer, torch.device("cpu"))
    for _ in range(plain.steps):
        assert torch.equal(graphed.advance(), plain.advance())
    assert graphs.captures == 2, "the search and the finetuning"
    assert graphed.pruner.steps == plain.pruner.steps == 22 and graphed.pruner.stage == "finetune"
    for a, b in zip(graphed.pruner.masks().values(), plain.pruner.masks().values(), strict=True):
        assert torch.equal(a, b)
    assert graphed.pruner.findings.signal.count == plain.pruner.findings.signal.count == 12, "replays count"
    state = graphed.state_dict()
    assert type(state["optimizers"][0]["param_groups"][0]["lr"]) is float
    later = training()
    later.load_state_dict(state)
    assert later.step == 22 and later.pruner.stage == "finetune", "with graphs or without"


def test_steps_that_differ_are_taken_one_by_one():
    run = training(GradualPruner)
    run.use_graphs(Replays(run, strict=True, graphs=(graphs := Traced())))
    for _ in range(run.steps):
        run.advance()
    assert graphs.captures == 1, "the finetuning"


def test_a_step_that_cannot_be_captured_is_taken_all_the_same():
    class Broken(Traced):
        def capture(self, step):
            step()
            raise RuntimeError("operation not permitted when stream is capturing")

    run = training()
    run.use_graphs(Replays(run, graphs=Broken()))
    for _ in range(WARM):
        run.advance()
    with pytest.warns(UserWarning, match="goes on without CUDA graphs, a step cannot be captured: operation not"):
        run.advance()
    assert run.replays.failed and run.step == run.pruner.steps == WARM + 1
    strict = training()
    strict.use_graphs(Replays(strict, strict=True, graphs=Broken()))
    for _ in range(WARM):
        strict.advance()
    with pytest.raises(RuntimeError, match="not permitted"):
        strict.advance()


def test_a_graph_of_another_stage_is_refused():
    pruner, step = made(Block(8, 8))
    for _ in range(60):
        step()
    with pytest.raises(ValueError, match=r"captured anew for each stage.* got one of the search for the finetune"):
        pruner.replayed()


def test_a_capture_must_follow_a_step(monkeypatch):
    _, step = made(Block(8, 8))
    monkeypatch.setattr("smart_train.pruners.timetable.capturing", lambda: True)
    step()
    with pytest.raises(ValueError, match="a step must be taken before one is captured"):
        step()


def test_dense_steps_that_gather_saliency_are_not_repeated():
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    settings = {"search_steps": 5, "dense_steps": 6, "filter_fn": lambda *_: True}
    for init, repeated in (("saliency", False), ("magnitude", True)):
        pruner = SmartPruner(copy.deepcopy(model), Block(8, 8), 0.5, init=init, **settings)
        assert pruner.repeats("dense") is repeated and pruner.repeats("search")
