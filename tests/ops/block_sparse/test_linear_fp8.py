from types import SimpleNamespace

import pytest
import torch
import triton

from smart_kernels.ops.block_sparse.index import block_index
from smart_kernels.ops.block_sparse.linear import block_sparse_linear
from smart_kernels.ops.common import block_matmul as _matmul
from smart_kernels.ops.common.quantize import quantize_fp8
from smart_kernels.reference.common.epilogue import finish
from tests.util import assert_close

from .test_linear import dense, make

FP8 = torch.float8_e4m3fn
SHAPES = [  # M, N, K, (bn, bk)
    pytest.param(33, 64, 96, (32, 32), id="even"),
    pytest.param(16, 100, 90, (32, 32), id="ragged"),
    pytest.param(1, 128, 256, (64, 128), id="one-row"),
    pytest.param(9, 48, 64, (16, 16), id="padded-to-a-step"),
    pytest.param(9, 50, 100, (24, 40), id="no-power-of-two"),
    pytest.param(70, 200, 300, (96, 150), id="several-parts"),
    pytest.param(5, 20, 300, (8, 256), id="wide"),
]


def make_fp8(M, N, K, block, per="block", device="cpu"):
    """x, values, crow_indices, col_indices in fp8, the scale of their products, bias, and W in float64."""
    x, values, crow, col, bias = (t.detach() for t in make(M, N, K, block, device=device))
    values = values * torch.logspace(-2, 2, len(values), device=device)[:, None, None]  # blocks of unlike size
    (x, x_scale), (values, scale) = quantize_fp8(x), quantize_fp8(values, per)
    weight = dense(values.double() * scale.double().view(-1, 1, 1), crow, col, N, K)
    return (x, values, crow, col), scale * x_scale, bias, x.double() * x_scale.double() @ weight.T


@pytest.mark.parametrize("per", ["tensor", "block"])
@pytest.mark.parametrize("M, N, K, block", SHAPES)
def test_matches_dense(M, N, K, block, per, device):
    args, scale, bias, expected = make_fp8(M, N, K, block, per, device)
    y = block_sparse_linear(*args, bias, out_features=N, scale=scale)
    assert y.dtype == torch.bfloat16
    assert_close("y", y, expected + bias, torch.bfloat16)
    wide = block_sparse_linear(*args, out_features=N, scale=scale, out_dtype=torch.float32)
    assert_close("fp32", wide, expected, torch.float32)


def test_epilogue(device):
    args, scale, bias, expected = make_fp8(12, 64, 96, (32, 32), device=device)
    residual = torch.randn(12, 64, device=device)
    options = {"out_features": 64, "activation": "gelu", "residual": residual, "out_dtype": torch.float32}
    y = block_sparse_linear(*args, bias, scale=scale, **options)
    assert_close("y", y, finish(expected, bias.double(), residual.double(), "gelu"), torch.float32)


def test_index_strides_and_leading_dimensions(device):
    args, scale, _, expected = make_fp8(12, 64, 96, (32, 32), device=device)
    x = args[0].T.contiguous().T.view(3, 4, 96)
    index = block_index(*args[2:], 3)
    y = block_sparse_linear(x, *args[1:], out_features=64, scale=scale, index=index, out_dtype=torch.float32)
    assert_close("y", y, expected.view(3, 4, 64), torch.float32)


@pytest.mark.parametrize("M, N, K", [(0, 32, 32), (4, 0, 32), (4, 32, 0)])
def test_empty(M, N, K, device):
    args, scale, bias, _ = make_fp8(M, N, K, (16, 16), device=device)
    y = block_sparse_linear(*args, bias, out_features=N, scale=scale)
    assert_close("y", y, bias.expand(M, N), torch.bfloat16)


@pytest.mark.parametrize("per", ["tensor", "block"])
def test_quantize(per, device):
    tensor = (
        torch.randn(5, 16, 24, device=device) * torch.tensor([1e-6, 1.0, 1e6, 0.0, 3.0], device=device)[:, None, None]
    )
    values, scale = quantize_fp8(tensor, per)
    assert values.dtype == FP8 and scale.dtype == torch.float32
    assert scale.shape == (() if per == "tensor" else (5,))
    back = values.float() * scale.view(-1, 1, 1)
    step = 2**-4 * tensor.abs() + 2**-10 * scale.view(-1, 1, 1)  # half of the distance of two neighbours
    assert ((back - tensor).abs() <= step * 1.001).all()
    if per == "block":
        assert (values.float().abs().amax((1, 2)) == torch.tensor([448.0, 448, 448, 0, 448], device=device)).all()


def test_quantize_rejects_and_takes_nothing():
    assert quantize_fp8(torch.zeros(0, 4, 4), "block")[1].shape == (0,)
    assert quantize_fp8(torch.zeros(0, 4))[1].shape == ()
    assert quantize_fp8(torch.zeros(3, 0), "block")[1].shape == (3,)
    with pytest.raises(ValueError, match="per must be"):
        quantize_fp8(torch.zeros(3), "row")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scale": None}, r"scale must be \(\) or \(\d+,\) float32 for values in float8_e4m3fn, got None"),
        ({"scale": torch.ones(3)}, r"scale must be \(\) or"),
        ({"scale": torch.ones((), dtype=torch.float64)}, "scale must be"),
        ({"scale": torch.ones((), device="meta")}, "scale must be on the device of x"),
        ({"x": torch.zeros(4, 64)}, "must both be float8_e4m3fn"),
        ({"bias": torch.zeros(48).to(FP8)}, "bias must be one of"),
        ({"bias": torch.zeros(48, requires_grad=True)}, "nothing may need a gradient"),
        ({"scale": torch.ones((), requires_grad=True)}, "nothing may need a gradient"),
        ({"out_dtype": FP8}, "out_dtype must be"),
    ],
    ids=["none", "shape", "dtype", "device", "x", "bias", "gradient", "scale-gradient", "out-dtype"],
)
def test_rejects(change, message):
    args, scale, bias, _ = make_fp8(4, 48, 64, (16, 16))
    named = dict(zip(("x", "values", "crow_indices", "col_indices"), args, strict=True))
    named |= {"bias": bias, "scale": scale, "out_features": 48}
    with pytest.raises(ValueError, match=message):
        block_sparse_linear(**named | change)


def test_a_scale_is_for_fp8():
    args = make(4, 48, 64, (16, 16))
    with pytest.raises(ValueError, match="x and values must be float8_e4m3fn where there is a scale"):
        block_sparse_linear(*args, out_features=48, scale=torch.ones(()))


@pytest.mark.skipif(triton.knobs.runtime.interpret, reason="the interpreter multiplies fp8")
@pytest.mark.parametrize(
    "backend, arch, name", [("cuda", 80, "sm_80"), ("cuda", 89, None), ("hip", "gfx942", "gfx942")]
)
def test_devices_without_fp8(backend, arch, name, monkeypatch):
    target = SimpleNamespace(backend=backend, arch=arch)
    monkeypatch.setattr(_matmul, "driver", SimpleNamespace(active=SimpleNamespace(get_current_target=lambda: target)))
    if name is None:
        _matmul.needs_fp8()
        return
    with pytest.raises(ValueError, match=f"sm_89 or newer for products of float8_e4m3fn, got {name}"):
        _matmul.needs_fp8()
