"""Mistakes are said, each in one line, and nothing is said where there is none."""

import copy
import warnings

import pytest
import torch
from torch import nn

from smart_kernels import NM, Block, Channel, compress_, fold_batchnorm_, mask_, masked_layers, unmask_
from smart_train import PRUNERS, SmartPruner

from .small_models import make_mlp
from .test_pruners import CHANNELS

STEP = {"search_steps": 6, "dense_steps": 1}


def make_model():
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), *make_mlp()[2:])


def start(**settings):
    model = make_model()
    pruner = SmartPruner(model, Block(4, 4), 0.5, **STEP | settings)
    return model, pruner, torch.optim.Adam([{"params": pruner.weights()}, pruner.param_group()], lr=1e-2)


def learn(model, *optimizers):
    """Forward, backward, and a step of the optimizers."""
    model(torch.randn(6, 8)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def said(action):
    """The texts of the warnings of an action; each is one line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    texts = [str(each.message) for each in caught]
    assert not any("\n" in text for text in texts)
    return texts


def check_said_once(text, action):
    (found,) = said(action)
    assert text in found


@pytest.mark.parametrize("sparsity, hint", [(80, "; 80 % is 0.8"), (1.5, "; 1.5 % is 0.015"), (1.0, "")])
def test_percent_for_a_fraction(sparsity, hint):
    with pytest.raises(ValueError, match=rf"sparsity must be in \[0, 1\), got {sparsity}{hint}$"):
        SmartPruner(make_mlp(), Block(4, 4), sparsity, search_steps=3)


@pytest.mark.parametrize("search_steps", [3, 20], ids=["to the end", "in the search"])
def test_an_optimizer_made_before_the_pruner(search_steps):
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    pruner = SmartPruner(model, Block(4, 4), 0.5, search_steps=search_steps)

    def train():
        for _ in range(8):
            pruner.step()
            learn(model, optimizer)
            model.zero_grad()

    check_said_once("no optimizer has them", train)


def test_a_second_pruner_on_one_model():
    model, pruner, _ = start()
    for pattern in (None, Block(2, 2)):
        classes = [type(module) for module in model.modules()]
        with pytest.raises(ValueError, match="must have one pruner, got a second one for 0"):
            SmartPruner(model, pattern, 0.5, search_steps=3, **{"filter_fn": lambda *_: True} if pattern else {})
        assert [type(module) for module in model.modules()] == classes
    pruner.finalize()
    again = SmartPruner(model, Block(4, 4), 0.5, search_steps=3)
    unmask_(model)
    SmartPruner(model, Block(4, 4), 0.5, search_steps=3)  # the layers of the other are gone
    assert again.layers.keys() == pruner.layers.keys()


def test_a_pruner_that_is_gone_leaves_its_layers_to_the_next():
    model, pruner, _ = start()
    scores = pruner.parameters()
    del pruner
    after = SmartPruner(model, None, 0.5, search_steps=3).parameters()
    assert [id(each) for each in scores] == [id(each) for each in after]


def test_step_forgotten():
    model, pruner, optimizer = start()
    check_said_once("step() must come before the forward", lambda: [learn(model, optimizer) for _ in range(6)])
    assert pruner.stage == "dense"


def test_step_called_twice():
    model, pruner, optimizer = start(search_steps=30)

    def train():
        for _ in range(6):
            pruner.step()
            pruner.step()
            learn(model, optimizer)

    check_said_once("step() must come once per optimizer step", train)


def test_step_called_for_each_micro_batch():
    model, pruner, optimizer = start(search_steps=30)

    def train():
        for _ in range(6):
            for _ in range(2):
                pruner.step()
                learn(model)
            optimizer.step()
            optimizer.zero_grad()

    check_said_once("step() must come once per optimizer step", train)


def test_training_goes_on_in_eval_mode():
    model, pruner, optimizer = start()

    def train():
        for number in range(6):
            pruner.step()
            learn(model, optimizer)
            if number == 2:
                model.eval()  # and nobody calls train()

    check_said_once("trained in eval mode", train)


def test_the_model_is_moved_between_step_and_backward():
    model, pruner, optimizer = start()

    def train():
        for _ in range(3):
            pruner.step()
            learn(model, optimizer)
        pruner.step()
        model.double()
        model(torch.randn(6, 8).double()).sum().backward()

    check_said_once("the model was moved to cpu, torch.float64 after step()", train)


@pytest.mark.parametrize("pattern", [Block(4, 4), Channel(), NM(2, 4)], ids=str)
@pytest.mark.parametrize("at", [0, 1, 4, 8], ids=["made", "dense", "search", "finetune"])
def test_a_model_may_be_moved_before_any_step(pattern, at):
    torch.manual_seed(0)
    model = make_model()
    pruner = SmartPruner(model, pattern, 0.5, **STEP)
    optimizer = torch.optim.SGD([{"params": pruner.weights()}, pruner.param_group()], lr=1e-2)

    def train():
        for number in range(10):
            if number == at:
                model.double()
            pruner.step()
            dtype = model[0].raw_weight.dtype
            model(torch.randn(6, 8, dtype=dtype)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    assert said(train) == []
    assert 0.5 <= pruner.finalize()["kept_sparsity"] < 0.53


@pytest.mark.parametrize("dense_steps, stage", [(0, "search, at a gap of"), (500, "dense")])
def test_finalized_at_step_1_of_1000(dense_steps, stage):
    model, pruner, optimizer = start(search_steps=1000 - dense_steps, dense_steps=dense_steps, warmup=0.0)
    pruner.step()
    learn(model, optimizer)
    expected = pruner.report()["gap"]
    reports = []
    check_said_once(f"step 1 of 1000, in the {stage}", lambda: reports.append(pruner.finalize()))
    assert reports[0]["gap"] == expected
    assert (expected > 0.1) == (dense_steps == 0)


def test_finalized_after_the_last_step_of_the_search():
    model, pruner, optimizer = start()
    for _ in range(7):
        pruner.step()
        learn(model, optimizer)
    reports = []
    assert said(lambda: reports.append(pruner.finalize())) == []
    assert reports[0]["stage"] == "finetune"


class Skipping(torch.optim.Adam):
    """Leaves out its first steps and every fifth one, as a GradScaler does."""

    calls = 0

    def step(self):
        self.calls += 1
        if self.calls > 4 and self.calls % 5:
            super().step()


def test_batches_without_classes():
    model = make_model()
    pruner = PRUNERS["catro"](model, Channel(), 0.5, search_steps=1)
    with pytest.raises(ValueError, match=r"the class of each input, integers, got 48 torch.float32 for \[6\] inputs"):
        pruner.prepare([(torch.randn(6, 8),)], lambda x: model(x).sum())


@pytest.mark.parametrize("name", PRUNERS)
@pytest.mark.parametrize("optimizer_class", [torch.optim.Adam, torch.optim.SGD, Skipping])
def test_nothing_is_said_of_a_right_loop(name, optimizer_class):
    """Accumulation, evaluation, an average and a checkpoint in between, two optimizers."""
    model = make_model()

    def train():
        pattern = Channel() if name in CHANNELS else Block(4, 4)
        pruner = PRUNERS[name](model, pattern, 0.5, search_steps=20, dense_steps=3)
        optimizers = optimizer_class(pruner.weights(), 1e-2), optimizer_class(**pruner.param_group())
        average = torch.optim.swa_utils.AveragedModel(model)
        batches = [(torch.randn(6, 8), torch.arange(6) % 2)] * pruner.prepare_batches
        pruner.prepare(batches, lambda x, classes: model(x).square().sum())
        for number in range(30):
            pruner.step()
            learn(model)
            learn(model, *optimizers)
            if number % 7 == 0:
                model.eval()(torch.randn(2, 8))
                state = copy.deepcopy(model.state_dict())
                average.update_parameters(model)
                model.load_state_dict(average.module.state_dict())
                pruner.report()
                model.load_state_dict(state)
                model.train()
        pruner.finalize()
        learn(model, *optimizers)

    assert said(train) == []


@pytest.mark.parametrize("again", [False, True], ids=["plain", "pruned-again"])
def test_training_goes_on_after_finalize(again):
    model, pruner, optimizer = start(search_steps=2, dense_steps=0)
    for _ in range(4):
        pruner.step()
        learn(model, optimizer)
    pruner.finalize()
    if not again:
        return check_said_once("pruned weights come back", lambda: [learn(model, optimizer) for _ in range(4)])
    pruner = SmartPruner(model, Block(4, 4), 0.75, search_steps=4)
    optimizer = torch.optim.Adam([{"params": pruner.weights()}, pruner.param_group()], lr=1e-2)
    assert not said(lambda: [(pruner.step(), learn(model, optimizer)) for _ in range(4)])


def test_what_is_no_model_or_no_number():
    script = torch.jit.script(make_mlp())
    for use in (lambda m: mask_(m, Block(4, 4)), lambda m: compress_(m, torch.ones(1, 8)), fold_batchnorm_):
        with pytest.raises(TypeError, match="needs modules in Python, got a ScriptModule"):
            use(script)
        with pytest.raises(TypeError, match=r"needs an nn\.Module, got <class"):
            use(nn.Sequential)
    for use in (lambda m: mask_(m, Block(4, 4)), lambda m: SmartPruner(m, None, 0.5, search_steps=3), fold_batchnorm_):
        with pytest.raises(ValueError, match=r"needs the model itself, got an nn\.DataParallel"):
            use(nn.Sequential(nn.DataParallel(make_mlp())))
    with pytest.raises(ValueError, match="on the meta device"):
        compress_(make_mlp().to("meta"), torch.ones(1, 8, device="meta"))
    with pytest.raises(TypeError, match=r"a pruner needs an nn\.Module, got <class"):
        SmartPruner(nn.Sequential, Block(4, 4), 0.5, search_steps=3)
    with pytest.raises(TypeError, match=r"sparsity must be a number, got '0\.5'"):
        SmartPruner(make_model(), Block(4, 4), "0.5", search_steps=3)
    with pytest.raises(TypeError, match=r"search_steps must be a whole number, got 1\.5"):
        SmartPruner(make_model(), Block(4, 4), 0.5, search_steps=1.5)


def test_nothing_is_said_of_one_who_prunes_at_once_or_does_not_train():
    def prune():
        SmartPruner(make_mlp(), Block(4, 4), 0.5, search_steps=1000).finalize()
        pruner = SmartPruner(model := make_mlp(), Block(4, 4), 0.5, search_steps=3)
        for _ in range(8):
            pruner.step()
            model(torch.randn(2, 8))

    assert said(prune) == []


def test_frozen_weights_keep_frozen_scores():
    model = make_mlp()
    model[0].requires_grad_(False)
    pruner = SmartPruner(model, Block(4, 4), 0.5, search_steps=3)
    pruner.step()
    assert [scores.requires_grad for scores in pruner.parameters()] == [False, True]
    state = pruner.state_dict()
    pruner.harden()
    pruner.load_state_dict(state)
    assert [scores.requires_grad for scores in pruner.parameters()] == [False, True]


def test_a_pruner_that_cannot_be_made_leaves_attention_whole():
    model = nn.TransformerEncoderLayer(8, 2, 16)
    x, names = torch.randn(3, 1, 8), list(model.state_dict())
    before = model.eval()(x)
    for sparsity, pattern in ((0.999, Block(4, 4)), (None, Block(4, 4)), (0.3, NM(2, 4))):
        with pytest.raises(ValueError):
            SmartPruner(model, pattern, sparsity, search_steps=3)
        assert list(model.state_dict()) == names and not masked_layers(model)
        assert model(x).equal(before)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_gradients_that_are_off_around_a_step_or_hardening(off):
    model, pruner, optimizer = start()
    for _ in range(4):
        with off():
            pruner.step()
        learn(model)
        assert pruner.stage == "dense" or all(scores.grad is not None for scores in pruner.parameters())
        optimizer.step()
        optimizer.zero_grad()
    with off():
        pruner.harden()
    learn(model, optimizer)
    with off():
        pruner.finalize()
    learn(model)


def test_a_pruner_made_in_inference_mode():
    with torch.inference_mode(), pytest.raises(ValueError, match=r"made outside of torch\.inference_mode"):
        start()


def exchange(model):
    model[0] = nn.Linear(8, 16)


def synchronise(model):
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.eval()  # it trains on GPUs only


@pytest.mark.parametrize("change, pattern", [(exchange, Block(4, 4)), (synchronise, Channel())])
def test_modules_exchanged_after_the_pruner_was_made(change, pattern):
    model = make_model()
    pruner = SmartPruner(model, pattern, 0.5, search_steps=20)
    change(model)
    optimizer = torch.optim.SGD([{"params": pruner.weights()}, pruner.param_group()], lr=1e-2)
    texts = said(lambda: [(pruner.step(), learn(model, optimizer)) for _ in range(3)])
    assert len([text for text in texts if "must keep its modules, got others in the place of" in text]) == 1
    pruner = SmartPruner(model := make_model(), pattern, 0.5, search_steps=20)
    change(model)
    (text,) = said(pruner.harden)
    assert "must keep its modules" in text


def test_a_weight_that_is_computed_after_the_pruner_was_made():
    model, _, _ = start()
    with pytest.raises(ValueError, match="must keep its Parameter weight, got one computed by a parametrization"):
        nn.utils.parametrizations.weight_norm(model[0])


@pytest.mark.parametrize("state", [None, {}, {"step": 1, "stage": "search"}, 7])
def test_what_is_no_state_of_a_pruner(state):
    _, pruner, _ = start()
    pruner.step()
    with pytest.raises(ValueError, match=r"must be one that state_dict\(\) gave, with .*pools"):
        pruner.load_state_dict(state)
    assert (pruner.steps, pruner.stage) == (1, "dense")
