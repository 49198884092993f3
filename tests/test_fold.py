"""fold_batchnorm_: the same outputs without the BatchNorms, and hands off what it would change."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from smart_kernels import compress_, fold_batchnorm_
from smart_kernels.convert.modules import Folded, tensors_in
from tests.util import assert_close


def trained(model):
    """Running statistics and affine parameters as after training."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) and norm.running_mean is not None:
            norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                norm.weight.data.uniform_(0.5, 2), norm.bias.data.normal_()
    return model.eval()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4, affine=False)

    def forward(self, x):
        return x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))


class TwoWays(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.outside, self.norm = Residual(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.outside(self.body(x))) if x.sum() > 1e9 else self.body(x)


class ReadTwice(Residual):
    def forward(self, x):
        y = self.conv1(x)
        return self.norm1(y) + y


class CalledTwice(Residual):
    def forward(self, x):
        return self.norm2(self.conv1(self.norm1(self.conv1(x))))


def linear():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3), nn.BatchNorm1d(3))


class ReadDirectly(Residual):
    def forward(self, x):
        return self.norm1(self.conv1(x)) * self.conv1.weight.sum()


@pytest.mark.parametrize(
    "make, shape, gone",
    [
        pytest.param(linear, (5, 4), ["1", "4"], id="linear"),
        pytest.param(Residual, (2, 4, 6, 6), ["norm1", "norm2"], id="residual"),
        pytest.param(TwoWays, (2, 4, 6, 6), ["body.norm1", "body.norm2", "norm"], id="two-ways"),
        pytest.param(ReadTwice, (2, 4, 6, 6), [], id="read-twice"),
        pytest.param(ReadDirectly, (2, 4, 6, 6), [], id="read-directly"),
        pytest.param(CalledTwice, (2, 4, 6, 6), [], id="called-twice"),
    ],
)
def test_outputs_stay(make, shape, gone):
    model, x = trained(make()), torch.randn(shape)
    with torch.no_grad():
        expected = model(x)
        assert fold_batchnorm_(model) == gone
        assert_close("y", model(x), expected, x.dtype)
        assert fold_batchnorm_(model) == []
        compress_(model, x, seconds=0)
        assert_close("compressed", model(x), expected, x.dtype)


def test_zeros_stay_zeros_and_gradients_flow():
    model = trained(linear())
    model[0].weight.data[:, 1] = 0
    fold_batchnorm_(model)
    assert not model[0].weight[:, 1].any()
    model(torch.randn(2, 4)).sum().backward()
    assert model[0].bias.grad is not None and not list(model.buffers())


@pytest.mark.parametrize("spoil", ["train", "statistics", "shared", "hook"])
def test_what_is_left_alone(spoil):
    model = trained(linear())
    if spoil == "train":
        model.train()
    elif spoil == "statistics":
        model[1], model[4] = (nn.BatchNorm1d(n, track_running_stats=False).eval() for n in (6, 3))
    elif spoil == "shared":
        model.other, model.another = nn.Linear(4, 6), nn.Linear(6, 3)
        model.other.weight, model.another.weight = model[0].weight, model[3].weight
        model.forward = lambda x: nn.Sequential(*list(model)[:5])(x)
    else:
        model[0].register_forward_hook(lambda *_: None), model[4].register_forward_pre_hook(lambda *_: None)
    assert fold_batchnorm_(model) == []


# who reads what


class Reader(nn.Module):
    """A convolution and its BatchNorm; somebody else reads the output of the former, in a forward of their own."""

    def __init__(self, read, untraceable):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.read, self.untraceable, self.seen = read, untraceable, []

    def forward(self, x):
        if self.untraceable:
            x = torch.stack(list(x))
        return self.read(self, x)


def own(model, x):
    return model.norm(model.conv(x)).relu()


def looks(model, x):
    y = model.conv(x)
    return model.norm(y).view(y.shape[0], y.size(1), -1) if y.dim() == 4 and y.dtype == x.dtype else None


def returned(model, x):
    y = model.conv(x)
    return SimpleNamespace(y=model.norm(y), between=y)


def kept(model, x):
    y = model.conv(x)
    model.seen.append(y)
    return model.norm(y)


def in_place(model, x):
    return model.norm(model.conv(x).add_(1))


def number(model, x):
    y = model.conv(x)
    return model.norm(y) * y.sum().item()


def listed(model, x):
    y = model.conv(x)
    return model.norm(y) + len(str(y.tolist()))


def viewed(model, x):
    y = model.conv(x)
    return model.norm(y), y[:, :1]


def weight(model, x):
    return model.norm(model.conv(x)) * model.conv.weight.data.sum()


def statistics(model, x):
    return model.norm(model.conv(x)) + model.norm.running_mean.sum()


def twice(model, x):
    return model.norm(model.conv(x)), model.conv(x)


def norm_twice(model, x):
    return model.norm(model.conv(x)), model.norm(x)


READERS = {own: True, looks: True} | dict.fromkeys(
    (returned, kept, in_place, number, listed, viewed, weight, statistics, twice, norm_twice), False
)


@pytest.mark.parametrize("untraceable", [False, True], ids=["traced", "observed"])
@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_folded_only_where_nobody_else_reads(read, untraceable):
    model, x = trained(Reader(read, untraceable)), torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        expected = [t.clone() for t in tensors_in(model(x))]
        if untraceable:
            assert fold_batchnorm_(copy.deepcopy(model)) == []  # nothing is proven without running it
        assert (fold_batchnorm_(model, x) == ["norm"]) == READERS[read]
        for got, want in zip(tensors_in(model(x)), expected, strict=True):
            assert_close("y", got, want, x.dtype)


def test_what_cannot_be_traced_is_named_in_the_log(caplog):
    fold_batchnorm_(trained(Reader(own, True)))
    assert "cannot be traced, and there is no example_input" in caplog.text
    caplog.clear()
    fold_batchnorm_(nn.Sequential(nn.Linear(4, 4)))
    assert not caplog.records


class Choosing(nn.Module):
    """Whether somebody else reads depends on data, on an argument, or on one that may be None."""

    def __init__(self, kind):
        super().__init__()
        self.body, self.kind = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)), kind

    def forward(self, x, both=False, mask=None):
        if self.kind == "checks" and x.shape[1] != 4:
            raise ValueError("4 channels")
        if self.kind == "scaled" and x.sum() > 1e9:
            x = x / 2
        if self.kind == "many":
            for i in range(9):
                x = x / 2 if x.sum() > 10.0**i else x
        between = self.body[0](x)
        y = self.body[1](between)
        if self.kind == "data" and x.sum() > 1e9:
            return y + between
        if self.kind == "weight" and x.sum() > 1e9:
            return x * self.body[0].weight.sum()
        if self.kind == "argument" and both:
            return y, between
        return y + between if self.kind == "none" and mask is None else y


@pytest.mark.parametrize(
    "kind, folds",
    [
        ("checks", True),
        ("scaled", True),
        ("many", False),
        ("data", False),
        ("weight", False),
        ("argument", False),
        ("none", False),
    ],
)
def test_every_way_through_the_forward_counts(kind, folds):
    model, x = trained(Choosing(kind)), torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        expected = model(x)
        assert (fold_batchnorm_(model) == ["body.1"]) == folds
        assert_close("y", model(x), expected, x.dtype)


def test_the_forward_of_the_instance_counts():
    model, x = trained(linear()), torch.randn(5, 4)
    model.forward = lambda x: model[4](model[3](model[0](x)))
    assert fold_batchnorm_(copy.deepcopy(model)) == [] and fold_batchnorm_(model, x) == ["4"]


def test_tracing_leaves_nothing_behind():
    class Leaving(Residual):
        def forward(self, x):
            self.auxiliary = y = super().forward(x)
            self.losses["all"].append(y.mean())
            return y

    model = trained(Leaving())
    model.losses = {"all": []}
    before = list(vars(model))
    state = torch.get_rng_state()
    assert len(fold_batchnorm_(model)) == 2
    assert list(vars(model)) == before and model.losses == {"all": []} and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["forward", "pre", "backward", "backward pre"])
@pytest.mark.parametrize("place", [0, 1])
def test_hooks_of_any_kind_keep_a_norm(place, kind):
    model = trained(linear())
    register = {
        "forward": "register_forward_hook",
        "pre": "register_forward_pre_hook",
        "backward": "register_full_backward_hook",
        "backward pre": "register_full_backward_pre_hook",
    }
    getattr(model[place], register[kind])(lambda *_: None)
    assert fold_batchnorm_(model) == ["4"]


def test_folding_keeps_the_parameters():
    model = trained(linear())
    weight, bias, norm = model[0].weight, model[0].bias, model[1]
    model[0].bias.requires_grad_(False)
    data = weight.data
    values = data.clone()
    fold_batchnorm_(model)
    assert model[0].weight is weight and model[0].bias is bias and not bias.requires_grad and model[1] is norm
    assert type(norm) is Folded and not norm.state_dict()
    assert torch.equal(data, values)  # whoever has the old memory, too, keeps what it had


def test_a_norm_without_a_bias_is_folded():
    model, x = (
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, bias=False)),
        torch.randn(2, 4, 3, 3),
    )
    model[1]._parameters["bias"] = None
    trained_by_hand(model[1])
    expected = model.eval()(x)
    assert fold_batchnorm_(model, x) == ["1"]
    assert_close("y", model(x), expected, x.dtype)


def trained_by_hand(norm):
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2), norm.weight.data.uniform_(0.5, 2)


@pytest.mark.parametrize("width", [6, 9])
def test_a_norm_across_a_sequence_is_no_norm_of_the_outputs(width):
    """BatchNorm1d reads dim 1 of (N, C, L), a Linear has its outputs in dim 2; if both are as many an example tells."""
    x = torch.randn(2, 6, 4)
    with torch.no_grad():
        for compress in (False, True):
            model = trained(nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(6)))
            expected = model(x)
            assert fold_batchnorm_(model, x) == []
            if compress:
                compress_(model, x, seconds=0)
            assert_close("y", model(x), expected, x.dtype)
        if width == 9:
            assert fold_batchnorm_(model) == []
        else:
            fold_batchnorm_(model)
            with pytest.raises(ValueError, match="takes 2 dimensions"):
                model(x)
