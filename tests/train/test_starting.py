"""Where the scores of SMART start, and what a search says about itself."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smart_kernels import NM, Block, Channel
from smart_train import SmartPruner
from smart_train.models import build
from smart_train.pruners.saliency import DEEP, layers_differ
from smart_train.pruners.signal import FEW, SAMPLE, Signal, rate_of

from .small_models import make_mlp

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
Y = torch.randint(4, (6,), generator=torch.Generator().manual_seed(2))


def make(**settings):
    torch.manual_seed(0)
    model = make_mlp()
    return model, SmartPruner(model, Block(4, 4), 0.75, search_steps=4, **settings)


def loss(model):
    return lambda x, y: F.cross_entropy(model(x), y)


def test_saliency_of_the_last_dense_steps_is_that_of_prepare():
    model, pruner = make(init="saliency", prepare_batches=3)
    pruner.prepare([(X, Y)] * 3, loss(model))
    pruner.step()
    model, gathering = make(init="saliency", prepare_batches=3, dense_steps=5)
    assert gathering.prepare_batches == 0 and pruner.prepare_batches == 3
    masked = []
    for _ in range(6):
        gathering.step()
        masked.append(model[0].gate is not None)
        loss(model)(X, Y).backward()
        gathering.after_backward()
        model.zero_grad()
    assert masked == [False, False, True, True, True, True]
    for ours, expected in zip(gathering.parameters(), pruner.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)


def test_a_mask_of_ones_changes_no_output():
    model, pruner = make(init="saliency", prepare_batches=2, dense_steps=2)
    expected = model(X)
    pruner.step()
    assert model[0].gate is not None
    torch.testing.assert_close(model(X), expected)
    assert pruner.report()["live"] == 1 and pruner.state_dict()["masks"] == {}


def test_saliency_that_was_demanded_must_come():
    _, pruner = make(init="saliency")
    with pytest.raises(ValueError, match=r"prepare\(batches, loss\) must come before the first step of SMART"):
        pruner.step()


def test_auto_takes_magnitudes_where_nothing_was_gathered():
    net = deep()
    pruner = SmartPruner(net, Block(2, 2), 0.5, search_steps=2, filter_fn=lambda module, _: module.groups == 1)
    assert pruner.init == "saliency" and pruner.prepare_batches == 8
    pruner.step()
    assert pruner.init == "magnitude"
    assert all(abs(layer.scores.mean()) < 1e-6 for layer in pruner.layers.values())


def deep(layers=DEEP, depthwise=True):
    parts = [nn.Conv2d(4, 4, 1) for _ in range(layers)]
    return nn.Sequential(*parts, nn.Conv2d(4, 4, 3, groups=4 if depthwise else 1))


@pytest.mark.parametrize(
    "layers, depthwise, pattern, expected",
    [
        (DEEP, True, Block(2, 2), True),
        (DEEP - 1, True, Block(2, 2), False),
        (DEEP, False, Block(2, 2), False),
        (DEEP, True, Channel(), True),
        (DEEP, True, NM(2, 4), False),
    ],
    ids=str,
)
def test_layers_differ_in_deep_models_with_depthwise_convolutions(layers, depthwise, pattern, expected):
    given = lambda module, name: name != str(layers)  # noqa: E731
    pruner = SmartPruner(deep(layers, depthwise), pattern, pattern.sparsity or 0.5, search_steps=1, filter_fn=given)
    assert layers_differ(pruner.masked) is expected and (pruner.init == "saliency") is expected


def test_the_models_of_the_command_line():
    for name, expected in (("cnn-tiny", "magnitude"), ("vit-small", "magnitude"), ("mobilenet-small", "saliency")):
        assert SmartPruner(build(name, 1, 16, 10), Block(16, 16), 0.8, search_steps=1).init == expected


@pytest.mark.parametrize("wrong", [{"init": "taylor"}, {"prepare_batches": 0}], ids=str)
def test_rejects(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        make(**wrong)


def test_z2_tells_signal_from_noise():
    torch.manual_seed(0)
    signal = Signal([3000, 2 * SAMPLE])
    assert signal.report() == {} and signal.sums.shape == (3, 3000 + SAMPLE)
    gradients = torch.randn(50, 3000 + 2 * SAMPLE)
    for gradient in gradients:
        signal.add(gradient.split([3000, 2 * SAMPLE]))
    watched = torch.cat([gradients[:, :3000], gradients[:, 3000::2]], 1)
    z2 = 50 * watched.mean(0).square() / watched.var(0)
    found = signal.report()
    assert found["z2"] == pytest.approx(z2.median().item(), rel=1e-3)
    assert 0.4 < found["z2"] < 0.52 and 0.03 < found["z2_above_4"] < 0.07
    assert "mostly noise: median z^2 0.4" in signal.verdict(0.1, 100) and "\n" not in signal.verdict(0.1, 100)
    for gradient in gradients:
        signal.add((gradient + 0.5).split([3000, 2 * SAMPLE]))
    assert signal.report()["z2"] > 2 and signal.verdict(0.1, 100) == "" and signal.verdict(None, 1) == ""
    assert "rate 0.1 x 49 steps is under 5" in signal.verdict(0.1, 49)


def test_scores_without_a_gradient_say_nothing():
    signal = Signal([4])
    for _ in range(FEW):
        signal.add([torch.zeros(4)])
        signal.add([None])
    assert signal.count == FEW and signal.report() == {} and signal.verdict(0.1, 100) == ""


def test_the_rate_is_that_of_the_optimizer_that_has_the_scores():
    _, pruner = make()
    own = torch.optim.Adam([pruner.param_group(lr=0.25)])
    assert rate_of(pruner.parameters(), [torch.optim.SGD(pruner.weights(), 0.5), own]) == 0.25
    assert rate_of(pruner.parameters(), []) is None


def run(pruner, model, steps, lr=0.1):
    pruner.optimizers = [torch.optim.SGD(pruner.weights(), 0.1), torch.optim.Adam([pruner.param_group(lr=lr)])]
    reports = []
    for _ in range(steps):
        pruner.step()
        loss(model)(X, Y).backward()
        pruner.after_backward()
        reports.append(pruner.report())
        for optimizer in pruner.optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return reports


def test_a_search_reports_flips_signal_and_the_gap_that_it_ended_with():
    model, pruner = make()
    with pytest.warns(UserWarning, match="rate 0.1 x 4 steps is under 5; gradual magnitude"):
        reports = run(pruner, model, 6)
    assert all(0 <= report["flips"] <= 1 for report in reports[:4]) and "flips" not in reports[4]
    assert "z2" not in reports[0] and reports[3]["z2"] >= 0 and reports[5]["z2"] == reports[3]["z2"]
    assert "last_gap" not in reports[3] and reports[4]["last_gap"] == pytest.approx(reports[3]["gap"], abs=0.2)


def test_flips_are_counted_by_tile_and_step():
    _, pruner = make()
    pruner.step()
    assert pruner.report()["flips"] == 0
    with torch.no_grad():
        best = pruner.layers["2"].scores.argmax()
        pruner.layers["2"].scores.view(-1)[best] = -9.0  # one of 24 leaves, another comes: 2 of 24 in 2 steps
    pruner.step()
    pruner.step()
    assert pruner.report()["flips"] == pytest.approx(1 / 24)


def test_a_good_search_ends_without_a_word():
    model, pruner = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(pruner, model, 6, lr=2.0)


def test_findings_survive_a_checkpoint():
    model, pruner = make()
    run(pruner, model, 3)
    state = pruner.state_dict()
    twin, other = make()
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(state)
    pruner.step()
    other.step()
    assert pruner.report() == other.report()
