"""quantize_int8_: 2:4 layers in eight bits, near to what they were, and what is left alone."""

import pytest
import torch
from torch import nn

from smart_kernels import NM, compress_, quantize_int8_
from smart_kernels.nn import QuantizedLinear
from smart_train import SmartPruner


def pruned():
    torch.manual_seed(0)
    layers = nn.Linear(50, 64), nn.ReLU(), nn.Linear(64, 33, bias=False), nn.ReLU(), nn.Linear(33, 8)
    model = nn.Sequential(*layers)
    SmartPruner(model, NM(2, 4), search_steps=1).finalize()
    return model.eval(), torch.randn(3, 5, 50)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compressed", [False, True], ids=["finalized", "compressed"])
def test_near_to_what_it_was(dtype, compressed):
    model, x = pruned()
    expected = model(x).to(dtype)
    if compressed:
        compress_(model, x, policy="size", backends=("dense", "nm"), seconds=0)
    kept = [*model]
    layers = quantize_int8_(model.to(dtype))
    assert set(layers) == {"0", "2"} and [*model] == kept and type(model[4]) is nn.Linear
    y = model(x.to(dtype))
    assert (y.float() - expected.float()).norm() < 0.03 * expected.float().norm()
    assert model[0].weight.dtype == torch.int8 and model[0].scale.dtype == torch.float32


def test_weights_in_eight_bits_are_off_by_half_a_step():
    model, _ = pruned()
    weight, layer = model[0].weight.detach(), QuantizedLinear(model[0].weight)
    back = layer(torch.eye(50)).T  # 1 is 127 / 127: exact
    assert ((back - weight).abs() <= layer.scale[:, None] * 0.501).all() and ((weight == 0) <= (back == 0)).all()


def test_its_state_goes_where_the_module_goes():
    first, second = (QuantizedLinear(pruned()[0][0].weight.detach() * factor, torch.randn(64)) for factor in (1, 2))
    second.load_state_dict(first.state_dict())
    x = torch.randn(4, 50)
    assert second(x).equal(first(x)) and first.half().scale.dtype == torch.float32


def test_mistakes(caplog):
    dense = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4))
    with pytest.raises(ValueError, match=r"needs an nn\.Linear with two of every four weights 0, got none"):
        quantize_int8_(dense)
    with pytest.raises(ValueError, match=r"at most two of every four that are not 0, got \(16, 16\) with more"):
        QuantizedLinear(dense[0].weight)
    model, _ = pruned()
    model.tied = nn.Linear(50, 64, bias=False)
    model.tied.weight = model[0].weight
    assert set(quantize_int8_(model)) == {"2"} and "0 is not quantized: its weight is also used by tied" in caplog.text
