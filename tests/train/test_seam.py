"""The seam carries methods that learn gates, go straight through, let weights back, or look at data first."""

import pytest
import torch
from torch import nn

from smart_kernels import Block, Channel
from smart_train import PRUNERS, Pruner
from smart_train.data import load
from smart_train.models import build
from smart_train.run.loop import fit
from smart_train.run.recipe import Recipe
from smart_train.run.training import Course, Training

from .small_models import make_mlp


class Diary(Pruner):
    """Writes down when it is called."""

    prepare_batches = 3

    def note(self, word):
        self.__dict__.setdefault("notes", []).append(word)

    def prepare(self, batches, loss):
        self.batches = batches
        loss(*batches[0]).backward()
        self.model.zero_grad()
        self.note("prepare")

    def search(self):
        self.note("search")

    def penalty(self):
        self.note("penalty")
        return self.layers["stage5.pointwise.conv"].raw_weight.sum()

    def after_backward(self):
        self.note("graded" if self.gradient() is not None else "no gradient")
        self.before = self.weight().clone()

    def after_step(self):
        self.note("moved" if not self.before.equal(self.weight()) and self.gradient() is None else "too early")

    def weight(self):
        return self.layers["stage5.pointwise.conv"].raw_weight.detach()

    def gradient(self):
        return self.layers["stage5.pointwise.conv"].raw_weight.grad


def training(method, steps=6, **settings):
    recipe = Recipe.for_model("cnn-tiny", batch=16, search_steps=4, finetune_steps=2)
    model = build("cnn-tiny", 1, 8, 10)
    pruner = method(model, Block(8, 8), 0.5, **{"search_steps": 4} | settings)
    return Training(model, load("digits"), recipe, Course(steps, flat=4, seen=10), pruner=pruner)


def test_the_loop_calls_every_hook_in_its_place(tmp_path):
    running = training(Diary)
    fit(running, tmp_path)
    step = ["penalty", "graded", "moved"]
    assert running.pruner.notes == ["prepare"] + 3 * ["search", *step]
    assert running.pruner.optimizers == running.optimizers


def test_passes_of_the_preparation_are_taken_off_the_steps():
    running = training(Diary)
    assert running.steps == 3 and running.seen == 13
    running.prepare()
    for number, (images, labels) in enumerate(running.pruner.batches):
        expected = running.data.batch(10 + number, 16, 0)
        assert images.equal(expected[0]) and labels.equal(expected[1])
    running.advance()  # batch 13, the first that it has not seen
    with pytest.raises(ValueError, match="steps must be more than the 3 batches seen before them, got 3"):
        training(Diary, steps=3)


def test_a_resumed_training_does_not_prepare_again(tmp_path):
    fit(training(Diary), tmp_path)
    again = training(Diary)
    fit(again, tmp_path, resume=True)
    assert "notes" not in vars(again.pruner)


def test_the_penalty_is_part_of_the_gradient():
    gradients = []
    for method in (Diary, Quiet):
        running = training(method)
        running.pruner.step()
        loss = running._loss(*running._batch(0))
        (loss + running.pruner.penalty()).backward()
        gradients.append(running.model.stage5.pointwise.conv.raw_weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1] + 1)


class Quiet(Diary):
    def penalty(self):
        return 0.0


class PolarisingGates(Pruner):
    """A gate ``s^2 / (s^2 + eps)`` per tile, with a penalty: masks of any form that learn (after GDP, our reading)."""

    learns = True

    def search(self):
        self.gates = {name: s.square() / (s.square() + 0.1) for name, s in self.scores().items()}
        self.leaves = {name: gate.detach().requires_grad_() for name, gate in self.gates.items()}
        self.masked.set_masks(self.leaves)

    def scores(self):
        return {name: layer.scores for name, layer in self.layers.items()}

    def penalty(self):
        return 0.01 * sum(leaf.sum() for leaf in self.leaves.values())

    def after_backward(self):
        torch.autograd.backward(list(self.gates.values()), [leaf.grad for leaf in self.leaves.values()])


@pytest.mark.parametrize("pattern", [Block(4, 4), Channel()], ids=str)
def test_learned_gates_of_any_form_get_exact_gradients_through_accumulation(pattern):
    model = make_mlp()
    pruner = PolarisingGates(model, pattern, 0.5, search_steps=5)
    x = torch.randn(2, 6, 8)
    pruner.step()
    for part in x:
        (model(part).square().sum() + pruner.penalty()).backward()
    pruner.after_backward()
    weights = {name: layer.raw_weight.detach() for name, layer in pruner.layers.items()}

    def total(scores):
        """The same by plain torch."""
        value = 0
        for part in x:
            hidden = part
            for name in ("0", "2"):
                gate = scores[name].square() / (scores[name].square() + 0.1)
                mask = pattern.expand(gate, pruner.layers[name].shape)[:, 0]
                bias = model[int(name)].raw_bias.detach()
                bias = bias * gate[:, 0] if pattern == Channel() else bias
                hidden = torch.tanh(hidden @ (weights[name] * mask).T + bias)
                value = value + 0.01 * gate.sum()
            value = value + (hidden @ model[4].weight.T + model[4].bias).square().sum()
        return value

    scores = {name: s.detach().clone().requires_grad_() for name, s in pruner.scores().items()}
    expected = torch.autograd.grad(total(scores), list(scores.values()))
    for own, gradient in zip(pruner.parameters(), expected, strict=True):
        torch.testing.assert_close(own.grad, gradient, rtol=1e-4, atol=1e-6)
    assert pruner.report()["gap"] > 0


class StraightThrough(Pruner):
    """Hard masks forward, the gradient of the mask for every score (after OptG, our reading)."""

    learns = True
    tiny = 1e-30  # a mask above 0, so that its gradient is computed

    def search(self):
        masks = self.masked.hard_masks(self.progress)
        self.leaves = {name: mask.clamp_min(self.tiny).requires_grad_() for name, mask in masks.items()}
        self.masked.set_masks(self.leaves)

    def after_backward(self):
        if self.stage == "search":
            for name, leaf in self.leaves.items():
                self.layers[name].scores.grad = leaf.grad


def test_straight_through_moves_pruned_scores_and_ends_exact():
    model = make_mlp()
    pruner = StraightThrough(model, Block(4, 4), 0.75, search_steps=5)
    optimizer = torch.optim.Adam([{"params": pruner.weights()}, pruner.param_group()], lr=1e-2)
    pruned_moved = False
    for _ in range(8):
        pruner.step()
        model(torch.randn(6, 8)).square().sum().backward()
        pruner.after_backward()
        for name, leaf in pruner.leaves.items() if pruner.stage == "search" else ():
            gradient = pruner.layers[name].scores.grad
            pruned_moved |= bool(gradient[leaf.detach() < 0.5].ne(0).any())
        optimizer.step()
        optimizer.zero_grad()
    assert pruned_moved
    assert sum(layer["kept"] for layer in pruner.finalize()["layers"].values()) == 6 * 16


class Alternating(Pruner):
    """Dense and sparse phases in turns, momentum forgotten at each dense start (after AC/DC, our reading)."""

    phase = 2

    def search(self):
        number, place = divmod(self.steps - 1, self.phase)
        if place == 0 and number % 2:
            self.masked.score_by_magnitude()
            self.masked.set_masks(self.masked.hard_masks())
            self.zero_pruned()
        elif place == 0:
            self.masked.set_gates(dict.fromkeys(self.layers))
            for optimizer in self.optimizers:
                optimizer.state.clear()

    def zero_pruned(self):
        for layer in self.layers.values():
            layer.raw_weight.data.copy_(layer.weight.detach())


def test_dense_and_sparse_phases_in_turns():
    running = training(Alternating, search_steps=6)
    layer = running.model.stage5.pointwise.conv
    zeros, forgotten = [], []
    for _ in range(6):
        running.pruner.step()
        forgotten.append(not running.optimizers[0].state)
        zeros.append(int((layer.weight == 0).sum()))
        running._update(running._loss(*running._batch(0)))
    assert zeros[2] == zeros[3] > 0 == zeros[0] == zeros[1] == zeros[5]
    assert forgotten == [True, False, False, False, True, False]


class ChannelsOnly(Pruner):
    def check(self, masked):
        others = [name for name, layer in masked.layers.items() if not layer.pattern.whole_channels]
        if others:
            raise ValueError(f"this method is for whole channels, got {', '.join(others)}")

    def search(self):
        self.harden()


def test_a_method_may_refuse_patterns_and_leaves_the_model_plain():
    model = make_mlp()
    with pytest.raises(ValueError, match="whole channels, got 0, 2"):
        ChannelsOnly(model, Block(4, 4), 0.5, search_steps=1)
    assert type(model[0]) is nn.Linear
    assert ChannelsOnly(model, Channel(), 0.5, search_steps=1).finalize()["kept_sparsity"] == 0.5


def test_a_method_without_a_search_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        Pruner(make_mlp(), Block(4, 4), 0.5, search_steps=1)
    assert all(not method.__abstractmethods__ for method in PRUNERS.values())
