"""Copies of a model at every stage of pruning: they say what the original says."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from smart_kernels import NM, Block, Channel, HardGate, masked_layers, unmask_
from smart_train import SmartPruner

DENSE, SEARCH = 1, 3
STAGES = ("dense", "search", "finetune", "finalized")
PATTERNS = [Block(4, 4), Channel(), NM(2, 4)]


def make_model():
    torch.manual_seed(0)
    conv = [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*conv, nn.Linear(8 * 16, 16), nn.ReLU(), nn.Linear(16, 4))


def start(pattern):
    model = make_model()
    pruner = SmartPruner(model, pattern, 0.5, search_steps=SEARCH, dense_steps=DENSE)
    return model, pruner, torch.optim.SGD([{"params": pruner.weights()}, pruner.param_group()], lr=0.1)


def go_to(stage, model, pruner, optimizer, after=lambda: None):
    """Train until the masks of a stage are in force."""
    steps = {"dense": 1, "search": DENSE + 2, "finetune": DENSE + SEARCH + 1, "finalized": DENSE + SEARCH + 1}
    for _ in range(steps[stage]):
        pruner.step()
        model(torch.randn(6, 8, 4, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        after()
    if stage == "finalized":
        pruner.finalize()


def by_pickle(model):
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


def check_alike(model, twin):
    x = torch.randn(3, 8, 4, 4)
    torch.testing.assert_close(twin.eval()(x), model.eval()(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("make_copy", [copy.deepcopy, by_pickle], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("stage", STAGES)
def test_a_copy_says_what_the_original_says_and_keeps_saying_it(stage, pattern, make_copy):
    model, pruner, optimizer = start(pattern)
    go_to(stage, model, pruner, optimizer)
    twin = make_copy(model)
    check_alike(model, twin)
    x = torch.randn(3, 8, 4, 4)
    before = twin.eval()(x)
    if stage != "finalized":
        pruner.harden()
        assert twin(x).equal(before)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("stage", STAGES)
def test_an_average_begun_before_the_search_is_pruned_like_the_original(stage, pattern):
    model, pruner, optimizer = start(pattern)
    average = AveragedModel(model, avg_fn=lambda mean, new, count: new, use_buffers=True)
    go_to(stage, model, pruner, optimizer, after=lambda: average.update_parameters(model))
    if stage == "finalized":
        unmask_(average.module)  # it has learnt of the masks by the last average
        assert not masked_layers(average)
    check_alike(model, average)


def test_an_average_holds_zeros_where_the_original_does():
    model, pruner, optimizer = start(Block(4, 4))
    average = AveragedModel(model)
    go_to("finetune", model, pruner, optimizer, after=lambda: average.update_parameters(model))
    for mine, theirs in zip(masked_layers(model).values(), masked_layers(average).values(), strict=True):
        assert (mine.weight == 0).equal(theirs.weight == 0)
        assert not mine.weight.equal(theirs.weight)


def test_a_copy_with_a_mask_of_its_own_follows_nobody():
    model, pruner, optimizer = start(Block(4, 4))
    twin = copy.deepcopy(model)
    for layer in masked_layers(twin).values():
        layer.gate = HardGate(torch.zeros_like(layer.scores))
    twin.load_state_dict(model.state_dict())
    go_to("finetune", model, pruner, optimizer)
    assert not any(layer.weight.any() for layer in masked_layers(twin).values())


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_a_copy_without_a_pruner_becomes_plain_by_the_masks_it_carries(pattern):
    model, pruner, optimizer = start(pattern)
    go_to("search", model, pruner, optimizer)
    twin, classes = copy.deepcopy(model), [type(module) for module in model.modules()]
    state = {name: value.clone() for name, value in twin.state_dict().items()}
    with pytest.raises(ValueError, match=r"a copy has none: copy the model after harden\(\)"):
        unmask_(twin)
    assert [type(module) for module in twin.modules()] == classes
    assert all(value.equal(state[name]) for name, value in twin.state_dict().items())
    pruner.harden()
    twin = copy.deepcopy(model)
    check_alike(model, unmask_(twin))
    assert not masked_layers(twin)


def test_states_of_masked_and_plain_models_are_not_taken_for_each_other():
    model, pruner, optimizer = start(Block(4, 4))
    plain = make_model()
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and missing == [f"{name}.scores" for name in pruner.layers]
    check_alike(plain, model)
    model.train()
    go_to("finetune", model, pruner, optimizer)
    with pytest.raises(RuntimeError, match=r"0\.scores"):
        plain.load_state_dict(model.state_dict())  # whose weights would be without their masks
    pruner.finalize()
    plain.load_state_dict(model.state_dict())
    check_alike(model, plain)


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_copy_with_its_pruner_goes_on_and_still_says_mistakes(make_copy):
    model, pruner, optimizer = start(Block(4, 4))
    go_to("search", model, pruner, optimizer)
    twin, own = make_copy((model, pruner))
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
    own.step()
    with pytest.warns(UserWarning, match=r"step\(\) must come before"):
        for _ in range(4):
            twin(torch.randn(6, 8, 4, 4)).square().sum().backward()
            torch.optim.SGD(own.weights(), lr=0.1).step()
    own.finalize()
    assert masked_layers(model) and not masked_layers(twin)


def test_a_masked_model_goes_to_the_meta_device_and_back():
    model, pruner, optimizer = start(Block(4, 4))
    go_to("search", model, pruner, optimizer)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.to("meta").to_empty(device="cpu")
    model.load_state_dict(state)
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    pruner.step()
    model(torch.randn(6, 8, 4, 4)).square().sum().backward()
    assert all(scores.grad.any() for scores in pruner.parameters())
