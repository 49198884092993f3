"""``slim_``: tensors become smaller, the function stays; and coupled channels, so that there is something to remove."""

import contextlib
import copy
import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smart_kernels import (
    Block,
    Channel,
    HardGate,
    SoftGate,
    SparseLinear,
    compress_,
    load,
    mask_,
    masked_layers,
    save,
    slim_,
    unmask_,
)
from smart_kernels.convert.channels.couple import Group, Member, coupled
from smart_kernels.convert.channels.follow import Follower
from smart_kernels.convert.channels.rehearse import _half
from smart_kernels.convert.channels.resize import fit_
from smart_kernels.nn import live_norm_class
from tests.cnn_models import SIZE, ZOO, make
from tests.util import assert_close

X = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def gate_all(model, density=0.5):
    """One hard mask for the layers that share scores."""
    gates = {}
    for layer in masked_layers(model).values():
        mask = (torch.rand_like(layer.scores) < density).float()
        mask[0] = 1
        layer.gate = gates.setdefault(id(layer.scores), HardGate(mask))


def outputs(model, x=X):
    with torch.no_grad():
        y = model(x)
    return y if isinstance(y, list) else [y]


def assert_same(model, expected, x=X):
    for i, (y, old) in enumerate(zip(outputs(model, x), expected, strict=True)):
        assert_close(f"output {i}", y, old, torch.float32)


def says(module):
    """The shape of the weight that a layer with the sizes it says it has is made with; None where there is none."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
        made = type(module)(module.in_channels, module.out_channels, module.kernel_size, groups=module.groups)
    elif isinstance(module, nn.Linear):
        made = nn.Linear(module.in_features, module.out_features)
    elif isinstance(module, nn.Embedding):
        made = nn.Embedding(module.num_embeddings, module.embedding_dim)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        made = type(module)(module.num_features)
    else:
        made = nn.PReLU(module.num_parameters) if isinstance(module, nn.PReLU) else None
    return made and made.weight.shape


@pytest.mark.parametrize("name", ZOO)
def test_masked_finalized_and_slimmed_models_agree(name):
    model = make(name)
    mask_(model, Channel(), example_input=X)
    gate_all(model)
    masked = outputs(model)
    unmask_(model)
    assert_same(model, masked)
    layers = {n: m for n, m in model.named_modules() if type(m) in (nn.Conv2d, nn.Linear)}
    dead = {n: m.weight.flatten(1).eq(0).all(1).sum() for n, m in layers.items()}
    sizes = {n: len(m.weight) for n, m in model.named_modules() if n in dead}
    report = slim_(model, X)
    assert_same(model, masked)
    for n, module in model.named_modules():
        if n in dead:  # every pruned channel is gone, nothing else is
            assert len(module.weight) == sizes[n] - dead[n]
            assert type(module) in (nn.Conv2d, nn.Linear)
        assert (shape := says(module)) is None or shape == module.weight.shape
    assert any(dead.values()) and report.parameters[1] < report.parameters[0]
    assert sum(p.numel() for p in model.parameters()) == report.parameters[1]


@pytest.mark.parametrize("name", ["resnext", "efficientnet", "detector"])
def test_a_dense_model_stays(name, monkeypatch):
    """Which one look at it tells."""
    model, looks, run = make(name), [], Follower.run
    monkeypatch.setattr(Follower, "run", lambda self, x: looks.append(1) or run(self, x))
    state = copy.deepcopy(model.state_dict())
    assert not slim_(model, X).layers and len(looks) == 1
    assert all(tensor.equal(state[key]) for key, tensor in model.state_dict().items())


def test_slimmed_models_train_and_keep_memory_format_and_mode():
    model = make("resnet50").to(memory_format=torch.channels_last).train()
    model.head.eval()
    mask_(model, Channel(), example_input=X)
    gate_all(model)
    unmask_(model)
    slim_(model, X)
    assert model.training and not model.head.training
    assert model.blocks[0].body[1][0].weight.is_contiguous(memory_format=torch.channels_last)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X).square().sum().backward()
    optimizer.step()
    assert not any(p.equal(old) for p, old in zip(model.parameters(), before, strict=True))


class Small(nn.Module):
    """Two convolutions with ``between`` in the middle; channel 1 and 4 of the first are 0."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.between = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3), between
        with torch.no_grad():
            self.a.weight[[1, 4]], self.a.bias[[1, 4]] = 0, 0

    def forward(self, x):
        return self.b(self.between(self.a(x)))


@pytest.mark.parametrize(
    "between, channels",
    [
        pytest.param(F.relu, 6, id="relu"),
        pytest.param(torch.sigmoid, 8, id="sigmoid-of-0-is-not-0"),
        pytest.param(lambda x: x + 1, 8, id="constant"),
        pytest.param(lambda x: x * 2 - x, 6, id="scalar"),
        pytest.param(lambda x: F.pad(x, (1, 1, 0, 0)), 6, id="pad"),
        pytest.param(lambda x: F.pad(x, (1, 1), value=1.0), 8, id="pad-with-1"),
        pytest.param(lambda x: x * x.mean(1, keepdim=True), 8, id="mean-over-channels"),
        pytest.param(lambda x: x * torch.arange(8.0).view(8, 1, 1), 8, id="constant-per-channel"),
        pytest.param(lambda x: x.roll(3, 1), 8, id="moved-by-a-number"),
        pytest.param(lambda x: x[:, [*range(8)][::-1]], 8, id="indexed"),
        pytest.param(lambda x: x.permute(0, 2, 3, 1)[:, 1:].movedim(-1, 1), 6, id="permuted-and-cut-in-place"),
        pytest.param(lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), 8, id="pixel-shuffle"),
        pytest.param(lambda x: x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2), 8, id="channel-shuffle"),
        pytest.param(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), 8, id="parts-that-differ"),
        pytest.param(lambda x: F.group_norm(x, 1), 8, id="group-norm-mixes"),
        pytest.param(lambda x: F.avg_pool2d(F.interpolate(x, scale_factor=2), 2), 6, id="pooled"),
    ],
)
def test_what_goes_and_what_stays(between, channels):
    model = Small(between)
    before = outputs(model)
    slim_(model, X)
    assert model.a.out_channels == model.b.in_channels == channels and model.b.weight.is_contiguous()
    assert_same(model, before)


def finalized(name="mobilenet_v2", seed=0):
    model = make(name, seed)
    mask_(model, Channel(), example_input=X)
    gate_all(model)
    return unmask_(model)


def test_a_bias_in_front_of_a_batchnorm_goes_too():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
    )
    model(X)  # running statistics
    masked = mask_(model.eval(), Channel(), lambda _, name: name in "02", example_input=X)
    gate_all(model)
    assert len(masked) == 2
    before = outputs(model)
    unmask_(model)
    assert_same(model, before)
    dead = [module.weight.eq(0).sum().item() for module in (model[1], model[3])]
    assert all(dead) and not model[0].bias[model[1].weight == 0].any()
    slim_(model, X)
    assert [model[0].out_channels, model[2].out_channels] == [8 - n for n in dead]
    assert_same(model, before)


def test_hidden_layers_of_a_mlp_shrink_and_tied_weights_stay_tied():
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(4)))
    model[2].weight = model[1].weight
    with torch.no_grad():
        for layer in model[:3]:
            layer.weight[3], layer.bias[3] = 0, 0
    x = torch.randn(5, 16)
    before = outputs(model, x)
    slim_(model, x)
    assert model[1].weight is model[2].weight
    assert [tuple(layer.weight.shape) for layer in model] == [(15, 16), (15, 15), (15, 15), (16, 15)]
    assert_same(model, before, x)


def test_columns_that_nobody_needs_take_their_rows_along():
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4))
    with torch.no_grad():
        model[4].weight[:, :3] = 0  # so rows of the second go; its others do not read 2 of the first
        model[2].weight[3:, 1:3] = 0
    x = torch.randn(5, 8)
    before = outputs(model, x)
    slim_(model, x)
    assert [tuple(model[i].weight.shape) for i in (0, 2, 4)] == [(4, 8), (3, 4), (4, 3)]
    assert_same(model, before, x)


def test_a_layer_keeps_one_channel():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    nn.init.zeros_(model[0].weight), nn.init.zeros_(model[0].bias)
    before = outputs(model)
    slim_(model, X)
    assert model[0].out_channels == 1
    assert_same(model, before)


def test_a_slimmed_model_is_saved_and_loaded(tmp_path):
    model = finalized()
    slim_(model, X)
    expected = outputs(model)
    save(model, tmp_path, compress_(model, X, backends=("dense",), seconds=0))
    fresh = make("mobilenet_v2", seed=1)
    load(fresh, tmp_path)
    assert fresh.features[3].conv[0][0].out_channels < 48 and str(fresh) == str(model)
    assert_same(fresh, expected)
    whole, slimmed = (make("mobilenet_v2").state_dict(), json.loads((tmp_path / "config.json").read_text())["slimmed"])
    assert slimmed and all(list(whole[name].shape) != size for name, size in slimmed.items())
    with pytest.raises(ValueError, match=r"was slimmed to .* must be at least as large"):
        load(fresh.__class__(10, width=0.125), tmp_path)


@pytest.mark.parametrize("name, size", [("9.bias", [4]), ("0.bias", [4, 4]), ("0.weight", [4]), ("0.bias", [9])])
def test_only_what_is_as_large_is_cut(name, size):
    with pytest.raises(ValueError, match=f"{name} was slimmed to .* must be at least as large in the model"):
        fit_(nn.Sequential(nn.Linear(8, 8)), {name: size})


def test_unknown_operators_are_named(caplog):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
    model[1].register_forward_pre_hook(lambda _, args: (args[0].index_fill(1, torch.tensor([1]), 2.0),))
    state = copy.deepcopy(model.state_dict())
    slim_(model, X)
    assert [r.message for r in caplog.records if "index_fill in 1: it is not known what becomes" in r.message]
    with pytest.raises(ValueError, match="needs at least one"):
        mask_(model, Channel(), lambda *_: True, example_input=X)
    assert all(tensor.equal(state[key]) for key, tensor in model.state_dict().items())


def test_a_forward_with_sizes_written_down_leaves_the_model_as_it_was(caplog):
    model = Small(lambda x: x.view(2, 8, SIZE, SIZE))
    state = copy.deepcopy(model.state_dict())
    slim_(model, X)
    assert [r.message for r in caplog.records if "view in the model's own forward: the model does not run" in r.message]
    assert all(tensor.equal(state[key]) for key, tensor in model.state_dict().items())
    assert model.a.out_channels == 8


class Sized(Small):
    """Keeps the number of its channels and cuts by it what has so many; where ``twice``, also what always has 8."""

    def __init__(self, twice):
        super().__init__(None)
        self.width, self.twice = 8, twice

    def forward(self, x):
        y = self.b(self.a(x).view(len(x), self.width, *x.shape[2:]))
        return y + x.new_ones(8).view(1, self.width).mean() if self.twice else y


@pytest.mark.parametrize("twice, channels", [(False, 6), (True, 8)])
def test_a_number_that_a_module_keeps_is_set_unless_it_is_needed(twice, channels):
    model = Sized(twice)
    before = outputs(model)
    slim_(model, X)
    assert model.width == model.a.out_channels == channels and type(model.width) is int
    assert_same(model, before)


@pytest.mark.parametrize("kind", ["masked", "compressed"])
def test_only_plain_models_are_slimmed(kind):
    model = nn.Sequential(nn.Linear(8, 8), SparseLinear(8, 8, Channel(), 0.5), nn.Linear(8, 8))
    if kind == "masked":
        model = make("vgg")
        mask_(model, Channel())
    with pytest.raises(ValueError, match="needs plain layers"):
        slim_(model, X)
    with pytest.raises(ValueError, match=r"got an nn\.DataParallel"):
        slim_(nn.DataParallel(make("vgg")), X)


def test_only_channels_are_coupled():
    with pytest.raises(ValueError, match="pattern must be channel"):
        mask_(make("vgg"), Block(8, 8), example_input=X)


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.c(self.a(x) + self.b(x))


@pytest.mark.parametrize("masked_before", [False, True])
def test_what_a_layer_that_is_not_pruned_is_added_to_stays(masked_before):
    """Whether a rehearsal shows it or, where there is none, what writes its channels."""
    model = Sum()
    refused = pytest.raises(ValueError, match="needs at least one")
    if masked_before:
        mask_(model, Channel(), lambda _, name: name == "c")
        refused = contextlib.nullcontext()
    with refused:
        mask_(model, Channel(), lambda _, name: name == "a", example_input=X)
    assert type(model.a) is nn.Conv2d
    mask_(model, Channel(), lambda _, name: name in "ab", example_input=X)
    assert model.a.scores is model.b.scores


def test_layers_that_write_the_same_channels_share_scores():
    model = make("resnet50")
    layers = mask_(model, Channel(), example_input=X)
    first, second = model.blocks[0], model.blocks[1]
    assert first.body[2][0].scores is first.shortcut[0].scores is second.body[2][0].scores
    assert first.body[0][0].scores is not first.body[1][0].scores
    assert model.stem[0] not in layers.values()
    mobile = make("mobilenet_v2")
    mask_(mobile, Channel(), example_input=X)
    expand, depthwise = mobile.features[3].conv[0][0], mobile.features[3].conv[1][0]
    assert expand.scores is depthwise.scores and depthwise.groups == 48


def test_soft_masks_reach_a_layer_behind_a_batchnorm_once():
    model = make("mobilenet_v2")
    layers = mask_(model, Channel(), example_input=X)
    expand = layers["features.3.conv.0.0"]
    norm = model.features[3].conv[0][1]
    gates = {}
    for layer in layers.values():
        layer.gate = gates.setdefault(id(layer.scores), SoftGate((layer.scores / 0.5).sigmoid()))
    assert expand.weight is expand.raw_weight
    assert torch.allclose(norm.weight, norm._parameters["weight"] * expand.channel_mask())
    model.train()(X).square().mean().backward()
    assert expand.scores.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [2, 7, 8])
def test_a_rehearsal_prunes_half_and_of_a_width_one_less(size):
    index = torch.arange(size)
    plain = Group(size, [Member(nn.Linear(1, size), index)], [])
    width = plain._replace(norms=[(Member(live_norm_class(nn.LayerNorm)(size), index), None)])
    counts = [int(_half(group, torch.Generator().manual_seed(0)).sum()) for group in (plain, width)]
    assert counts == [size // 2, size // 2 - 1]


def test_layers_that_stay_say_whether_they_ran():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 8), nn.Linear(4, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.used(x))

    model = Net()
    found = Follower(model).run(torch.ones(1, 4))
    coupled(found, model, {"used": model.used, "idle": model.idle})
    assert list(found.notes) == ["idle stays dense: it does not run on the example"]


def test_what_slimming_did_is_not_to_be_changed():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    found = slim_(model, torch.ones(1, 4))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.layers = {}
