"""Whole CNNs in one call: what ``mask_`` leaves alone, and that ``compress_`` changes nothing but speed and size."""

import pytest
import torch
from torch import nn

from smart_kernels import Block, HardGate, SparseConv2d, SparseLinear, compress_, mask_, unmask_
from smart_kernels.convert.measure import timing
from tests.cnn_models import SIZE, ZOO, make
from tests.conftest import INTERPRETED
from tests.util import assert_close

if INTERPRETED:
    pytest.skip("whole models take long in the interpreter", allow_module_level=True)

X = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["ell onednn 1", "bsr"])
def fastest(request, monkeypatch):
    """Injected timings: the named candidate wins where there is one."""

    def fake(candidates, *_):
        return {name: [0.5 if name == request.param else 1.0] * 4 for name in candidates}

    monkeypatch.setattr(timing, "time_in_turns", fake)
    return request.param.split()[0]


def leaves(y):
    return y if isinstance(y, list) else [y]


@pytest.mark.parametrize("name", ZOO)
def test_stem_head_and_depthwise_stay_dense(name):
    model = make(name)
    plain = {n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    masked = mask_(model, Block(8, 8))
    assert masked and masked.keys() < plain
    for module in masked.values():
        assert not isinstance(module, nn.Conv2d) or (module.groups == 1 and module.in_channels > 3)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert not linears or type(linears[-1]) is nn.Linear


@pytest.mark.parametrize("name", ZOO)
def test_masked_plain_and_compressed_models_agree(name, fastest):
    model = make(name)
    for layer in mask_(model, Block(8, 8)).values():
        layer.gate = HardGate((torch.rand_like(layer.scores) < 0.4).float())
    with torch.no_grad():
        expected = leaves(model(X))
        unmask_(model)
        report = compress_(model, X)
        for y, old in zip(leaves(model(X)), expected, strict=True):
            assert_close(fastest, y, old, torch.float32)
    assert {row.choice for row in report.rows} <= {"dense", fastest}
    assert any(isinstance(m, SparseConv2d | SparseLinear) for m in model.modules())
    assert report.before.macs > report.after.macs and report.before.parameters > report.after.parameters


def test_costs_of_a_known_model():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    report = compress_(model, torch.randn(2, 3, 4, 4), seconds=0)
    conv, linear = 2 * 16 * 8 * 27, 2 * 128 * 5
    assert report.before.macs == report.after.macs == conv + linear
    assert report.before.parameters == 8 * 27 + 8 + 128 * 5 + 5
    assert report.before.nbytes == 4 * report.before.parameters
    assert report.before.ms > 0 and report.after.ms > 0
    assert "MACs" in str(report)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050", "efficientnet_b0", "convnext_atto", "vgg11"])
def test_timm(name):
    timm = pytest.importorskip("timm", exc_type=Exception)
    _compare(timm.create_model(name, num_classes=10))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "convnext_tiny", "vgg11"])
def test_torchvision(name):
    torchvision = pytest.importorskip("torchvision", exc_type=Exception)
    _compare(torchvision.models.get_model(name, num_classes=10))


def _compare(model):
    x = torch.randn(1, 3, 64, 64)
    for layer in mask_(model.eval(), Block(16, 16)).values():
        layer.gate = HardGate((torch.rand_like(layer.scores) < 0.4).float())
    with torch.no_grad():
        expected = model(x)
        compress_(unmask_(model), x, seconds=0)
        assert_close("y", model(x), expected, torch.float32)
