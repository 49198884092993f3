"""Convolutions that run dense whatever their zeros: masked by name, as whole channels by default."""

import pytest
import torch
from torch import nn

from smart_kernels import Block, Channel, compress_, mask_, mask_from_zeros_, slim_, unmask_
from smart_kernels.nn import HardGate
from smart_train import OneShotPruner

KINDS = {
    "Conv1d": (nn.Conv1d(8, 12, 3, padding=1), (2, 8, 9)),
    "Conv3d": (nn.Conv3d(8, 12, (3, 1, 3), stride=(2, 1, 1)), (2, 8, 5, 4, 6)),
    "ConvTranspose1d": (nn.ConvTranspose1d(8, 12, 4, 2), (2, 8, 5)),
    "ConvTranspose2d": (nn.ConvTranspose2d(8, 12, (3, 2), 2, 1), (2, 8, 5, 4)),
    "ConvTranspose3d": (nn.ConvTranspose3d(8, 12, (1, 2, 3)), (2, 8, 3, 4, 3)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind):
    conv, shape = KINDS[kind]
    torch.manual_seed(0)
    model = nn.Sequential(type(conv)(8, 12, conv.kernel_size, conv.stride, conv.padding))
    return model, torch.randn(shape)


def everything(module, name):
    return True


@every_kind
def test_masked_as_the_weight_times_its_mask(kind):
    model, x = made(kind)
    dense, bias = model[0].weight.detach().clone(), model[0].bias.detach().clone()
    layer = mask_(model, Block(4, 4), everything)["0"]
    transposed = "Transpose" in kind
    N, taps, C = layer.shape
    assert (N, C, taps) == (12, 8, dense[0, 0].numel())
    assert torch.equal(layer._from_matrix(layer.matrix()), dense)
    mask = (torch.rand(layer.scores.shape, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    layer.gate = HardGate(mask)
    each = mask.view(N // 4, taps, C // 4).repeat_interleave(4, 0).repeat_interleave(4, 2)
    each = each.permute(2, 0, 1) if transposed else each.transpose(1, 2)
    plain = type(KINDS[kind][0])(8, 12, model[0].kernel_size, model[0].stride, model[0].padding)
    plain.load_state_dict({"weight": dense * each.reshape(dense.shape), "bias": bias})
    torch.testing.assert_close(model(x), plain(x))
    model(x).sum().backward()
    assert layer.raw_weight.grad is not None and layer.raw_weight.grad.shape == dense.shape
    unmask_(model)
    assert type(model[0]) is type(plain) and torch.equal(model[0].weight, plain.weight)


@every_kind
def test_zeros_stay_in_training(kind):
    model, x = made(kind)
    with torch.no_grad():
        model[0].weight[:4] = 0
    zeros = model[0].weight == 0
    mask_from_zeros_(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    unmask_(model)
    assert torch.equal(model[0].weight == 0, zeros)


def test_blocks_in_them_are_for_those_who_ask(caplog):
    model = nn.Sequential(nn.Conv1d(16, 16, 3), nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 4))
    assert set(mask_(model, Block(4, 4))) == {"2"}
    assert "0 stays dense: Conv1d is neither nn.Linear nor nn.Conv2d" in caplog.text


def test_channels_of_all_kinds_leave():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(8, 16, 3, padding=1),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Conv1d(16, 16, 3, padding=1, groups=16),
        nn.ConvTranspose1d(16, 24, 2, 2),
        nn.Unflatten(2, (4, 4)),
        nn.ConvTranspose2d(24, 16, 2),
        nn.Unflatten(3, (5, 1)),
        nn.Conv3d(16, 8, (2, 2, 1)),
        nn.Flatten(2),
        nn.Conv1d(8, 3, 1),
    ).eval()
    x = torch.randn(2, 8, 8)
    pruner = OneShotPruner(model, Channel(), 0.5, search_steps=1, example_input=x)
    pruner.harden()
    pruner.finalize()
    expected = model.eval()(x)
    slimmed = slim_(model, x)
    torch.testing.assert_close(model(x), expected)
    assert {"0", "3", "4", "6", "8"} <= slimmed.layers.keys()


def test_compress_leaves_them_with_a_line():
    model = nn.Sequential(nn.Conv1d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 16)).eval()
    report = compress_(model, torch.randn(2, 16, 3), seconds=0, backends=("dense",))
    assert "neither nn.Linear nor nn.Conv2d" in report.left["0"]


def test_transposed_in_groups_is_refused(caplog):
    model = nn.Sequential(nn.ConvTranspose2d(8, 8, 2, groups=2), nn.Conv2d(8, 8, 1))
    assert set(mask_(model, Block(4, 4), everything)) == {"1"}
    assert "0 stays dense: it is a transposed convolution in groups" in caplog.text
