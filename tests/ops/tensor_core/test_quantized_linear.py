"""2:4 weights of eight bits: the formula, and what is refused. The kernel: tests/test_sparse_tensor_core.py."""

import pytest
import torch

from smart_kernels import (
    quantize_fp8,
    quantize_int8,
    quantized_semi_structured_linear,
    quantized_semi_structured_pack,
    semi_structured_prune,
)
from smart_kernels.reference.common.epilogue import finish
from smart_kernels.reference.common.nm import expand
from tests.util import assert_close

QUANTIZE = {"int8": quantize_int8, "fp8": quantize_fp8}
each = pytest.mark.parametrize("quantize", QUANTIZE.values(), ids=QUANTIZE)


def make(quantize, N, K, shape=(3, 5), per="block", device="cpu"):
    """x and the packed W in eight bits, the scale of their product, and that product in float64."""
    values, indices = semi_structured_prune(torch.randn(N, K, device=device) * torch.logspace(-2, 2, N)[:, None])
    (x, x_scale), (values, scale) = quantize(torch.randn(*shape, K, device=device)), quantize(values, per)
    weight = expand(values.double(), indices, 2, 4, K) * scale.double().view(-1, 1)
    exact = x.double() * x_scale.double() @ weight.T
    return x, quantized_semi_structured_pack(values, indices), scale * x_scale, exact


@each
@pytest.mark.parametrize("per", ["tensor", "block"])
@pytest.mark.parametrize(("N", "K"), [(128, 128), (33, 50), (1, 3), (130, 260)])
def test_matches_dense(quantize, N, K, per):
    x, weight, scale, exact = make(quantize, N, K, per=per)
    y = quantized_semi_structured_linear(x, weight, scale)
    assert y.dtype == torch.bfloat16 and y.shape == (3, 5, N)
    assert_close("y", y, exact, torch.bfloat16)
    wide = quantized_semi_structured_linear(x, weight, scale, out_dtype=torch.float32)
    assert_close("fp32", wide, exact, torch.float32)


@each
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_epilogue(quantize, activation):
    x, weight, scale, exact = make(quantize, 24, 40)
    bias, residual = torch.randn(24).bfloat16(), torch.randn(3, 5, 24)
    settings = {"activation": activation, "residual": residual, "out_dtype": torch.float32}
    y = quantized_semi_structured_linear(x, weight, scale, bias, **settings)
    assert_close("y", y, finish(exact, bias.double(), residual.double(), activation), torch.float32)


@each
@pytest.mark.parametrize("shape", [(0,), (), (2, 0, 3)], ids=str)
def test_few_rows(quantize, shape):
    x, weight, scale, exact = make(quantize, 8, 12, shape)
    assert_close("y", quantized_semi_structured_linear(x, weight, scale), exact, torch.bfloat16)


def test_large_sums_of_int8_are_exact():
    K = 1 << 16
    values, indices = torch.full((1, K // 2), 127, dtype=torch.int8), torch.full((1, K // 8), 0x44, dtype=torch.uint8)
    x, weight = torch.full((1, K), 127, dtype=torch.int8), quantized_semi_structured_pack(values, indices)
    y = quantized_semi_structured_linear(x, weight, torch.tensor(2.0**-15), out_dtype=torch.float32)
    assert y.item() == 127 * 127  # 2^15 * 127^2 is exact in fp32, too


@each
def test_compiles_in_one_graph(quantize):
    x, weight, scale, _ = make(quantize, 8, 12)
    compiled = torch.compile(quantized_semi_structured_linear, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x, weight, scale), quantized_semi_structured_linear(x, weight, scale))


def test_quantize_int8():
    tensor = torch.randn(4, 6) * torch.tensor([1e-6, 1.0, 1e6, 0.0])[:, None]
    values, scale = quantize_int8(tensor, "block")
    assert values.dtype == torch.int8 and scale.shape == (4,) and scale[3] == 1
    assert values.abs().amax(1).tolist() == [127, 127, 127, 0]
    assert ((values * scale[:, None] - tensor).abs() <= 0.5001 * scale[:, None]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 12)}, "x must be"),
        ({"x": torch.zeros(2, 16, dtype=torch.int8)}, "x must be .* 3 groups of four"),
        ({"scale": torch.ones(3)}, r"scale must be \(\) or \(8,\) float32"),
        ({"scale": torch.ones((), dtype=torch.float64)}, "scale must be"),
        ({"bias": torch.zeros(8, dtype=torch.int8)}, "bias must be"),
        ({"residual": torch.zeros(2, 9)}, "residual must be"),
        ({"out_dtype": torch.int8}, "out_dtype must be"),
        ({"scale": torch.ones((), requires_grad=True)}, "nothing may need a gradient"),
        ({"scale": torch.ones((), device="meta")}, "on the device of x"),
    ],
)
def test_rejects(change, message):
    x, weight, scale, _ = make(quantize_int8, 8, 12, (2,))
    with pytest.raises(ValueError, match=message):
        quantized_semi_structured_linear(**{"x": x, "weight": weight, "scale": scale} | change)


def test_only_eight_bits_are_packed():
    values, indices = semi_structured_prune(torch.randn(8, 12))
    with pytest.raises(ValueError, match="values must be one of"):
        quantized_semi_structured_pack(values.bfloat16(), indices)
    with pytest.raises(ValueError, match="indices must rise"):
        quantized_semi_structured_pack(values.to(torch.int8), indices * 0)
