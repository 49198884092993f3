"""fold_batchnorm_: the same outputs without the BatchNorms, and hands off what it would change."""

import pytest
import torch
from torch import nn

from smart_kernels import compress_, fold_batchnorm_
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
