import pytest
import torch
import torch.nn.functional as F
import triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from smart_kernels.ops.common.nm import check_places, transpose
from smart_kernels.ops.semi_structured.linear import _semi_structured_linear, semi_structured_linear
from smart_kernels.reference.common import nm as reference
from tests.util import assert_close

SLOW = pytest.mark.slow
PATTERNS = [(2, 4), (1, 4), (2, 8), (4, 8), (1, 2)]
OFTEN = [(2, 4), pytest.param(1, 4, marks=SLOW), pytest.param(2, 8, marks=SLOW), (4, 8), pytest.param(1, 2, marks=SLOW)]
SHAPES = [  # M, N, K
    pytest.param(16, 64, 256, id="even"),
    pytest.param(5, 40, 292, id="ragged"),
    pytest.param(33, 20, 26, id="small"),
    pytest.param(1, 7, 3, id="tiny"),
]
NAMES = ("y", "dx", "dvalues", "dbias")
EXAMPLES = 8 if triton.knobs.runtime.interpret else 25  # a launch takes a second in the interpreter


def random_keep(N, K, n, m):
    """(N, K) bool: n of every m, fewer at the edge."""
    groups = torch.rand(N, reference.groups_of(K, m), m).argsort(-1) < n
    return groups.flatten(1)[:, :K].contiguous()


def transposable_keep(N, K):
    """(N, K) bool, 2:4 in both directions."""
    blocks = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    rows, cols = torch.rand(N // 4, K // 4, 4).argsort(-1), torch.rand(N // 4, K // 4, 4).argsort(-1)
    return blocks[rows[..., None], cols[..., None, :]].transpose(1, 2).reshape(N, K).bool()


def make(M, N, K, kept=(2, 4), dtype=torch.float32, device="cpu", keep=None):
    """x, values, indices, bias; and the dense weight."""
    keep = random_keep(N, K, *kept) if keep is None else keep
    weight = (torch.randn(N, K) * keep).to(device, dtype)
    values, indices = reference.compress(weight, keep.to(device), *kept)
    x, bias = (t.to(device, dtype).requires_grad_() for t in (torch.randn(M, K), torch.randn(N)))
    return x, values.requires_grad_(), indices, bias, weight


def exact(x, values, indices, bias, dy, n, m):
    """y, dx, dvalues, dbias in float64, written apart from the op."""
    inputs = [t.detach().double().requires_grad_() for t in (x, values, bias)]
    length, K = values.shape[1], x.shape[1]
    places = reference.unpack(indices, (m - 1).bit_length(), length).long()
    columns = torch.arange(length, device=x.device) // n * m + places
    one_hot = F.one_hot(columns, -(-K // m) * m).double()
    weight = torch.einsum("nl,nlk->nk", inputs[1], one_hot)[:, :K]
    y = inputs[0] @ weight.T + inputs[2]
    return y, *torch.autograd.grad(y, inputs, dy.double())


def check(x, values, indices, bias, dtype, n=2, m=4, **options):
    y = semi_structured_linear(x, values, indices, bias, n=n, m=m, **options)
    dy = torch.randn_like(y)
    grads = torch.autograd.grad(y, (x, values, bias), dy)
    for name, out, ref in zip(NAMES, (y, *grads), exact(x, values, indices, bias, dy, n, m), strict=True):
        assert out.dtype == dtype
        assert_close(name, out, ref, dtype)


@pytest.mark.parametrize("n, m", OFTEN)
@pytest.mark.parametrize("M, N, K", SHAPES)
def test_matches_dense(M, N, K, n, m, dtype, device):
    *args, _ = make(M, N, K, (n, m), dtype, device)
    check(*args, dtype, n, m)


@pytest.mark.parametrize("M, N, K", [*SHAPES, pytest.param(20, 40, 800, id="split")])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_half_precision_matches_dense(M, N, K, half, device):
    *args, _ = make(M, N, K, (2, 4), half, device)
    check(*args, half)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=EXAMPLES)
@given(st.integers(1, 20), st.integers(1, 40), st.integers(1, 70), st.sampled_from([*PATTERNS, (3, 8), (7, 8), (3, 4)]))
def test_any_shape(device, M, N, K, kept):
    *args, _ = make(M, N, K, kept, device=device)
    check(*args, torch.float32, *kept)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=EXAMPLES // 2)
@given(st.integers(1, 20), st.integers(1, 70), st.integers(1, 530))
def test_half_precision_of_any_shape(device, M, N, K):
    *args, _ = make(M, N, K, (2, 4), torch.float16, device)
    check(*args, torch.float16)


@pytest.mark.parametrize("activation", [None, "relu", "relu6", "gelu", "gelu_tanh", "silu"])
def test_epilogue(activation, device):
    x, values, indices, bias, weight = make(3, 40, 260, dtype=torch.float16, device=device)
    residual = torch.randn(40, 3, device=device).half().T.requires_grad_()
    inputs = [t.detach().double().requires_grad_() for t in (x, bias, residual)]
    z = F.linear(inputs[0], weight.double(), inputs[1]) + inputs[2]
    name, _, approximate = (activation or "").partition("_")
    expected = getattr(F, name)(z, **({"approximate": approximate} if approximate else {})) if name else z
    with torch.no_grad():
        y = semi_structured_linear(x, values, indices, bias, activation=activation, residual=residual)
    assert_close("fused", y, expected, x.dtype)
    y = semi_structured_linear(x, values, indices, bias, activation=activation, residual=residual)
    assert_close("with gradients", y, expected, x.dtype)
    dy = torch.randn_like(y)
    grads = zip(
        torch.autograd.grad(y, (x, bias, residual), dy), torch.autograd.grad(expected, inputs, dy.double()), strict=True
    )
    for got, want in grads:
        assert_close("grad", got, want, torch.bfloat16)


@pytest.mark.parametrize("half", [torch.float32, torch.float16, torch.bfloat16])
def test_transposable(half, device):
    N, K = 40, 268
    x, values, indices, bias, weight = make(6, N, K, dtype=half, device=device, keep=transposable_keep(N, K))
    values_t, indices_t = transpose(values.detach(), indices, K)
    check_places(indices_t, 2, 4, N)
    assert torch.equal(reference.expand(values_t, indices_t, 2, 4, N), weight.T)
    check(x, values, indices, bias, half, transposable=True)


def test_nothing_beyond_the_edge_is_read(device):
    M, N, K = 9, 50, 300
    x, values, indices, bias, _ = make(M, N, K, dtype=torch.float16, device=device)
    wide = torch.full((16, 512), float("nan"), device=device).half()
    wide[:M, :K] = x.detach()
    inside = wide[:M, :K].requires_grad_()
    check(inside, values, indices, bias, torch.float16)


def test_columns_without_a_weight_are_multiplied_by_zero(device):
    """Compressed zeros are zeros: a NaN in x reaches y, as in the dense product."""
    x, values, indices, bias, weight = make(3, 16, 256, dtype=torch.float16, device=device)
    with torch.no_grad():
        y = semi_structured_linear(x, values, indices, bias)
        assert_close("y", y, F.linear(x.double(), weight.double(), bias.double()), x.dtype)


def test_strides_and_leading_dimensions(device):
    x, values, indices, bias, weight = make(6, 40, 48, device=device)
    transposed = x.detach().T.contiguous().T.view(2, 3, 48).requires_grad_()
    strided = values.detach().T.contiguous().T.requires_grad_()
    y = semi_structured_linear(transposed, strided, indices, bias)
    assert_close("y", y.view(6, 40), F.linear(x.double(), weight.double(), bias.double()), torch.float32)
    torch.autograd.grad(y.sum(), (transposed, strided, bias))  # stride 0
    assert semi_structured_linear(x[0], values, indices, bias).shape == (40,)


@pytest.mark.parametrize("M, N, K", [(0, 32, 32), (4, 0, 32), (4, 32, 0), (4, 64, 0)])
def test_empty(M, N, K, device):
    x, values, indices, bias, _ = make(M, N, K, device=device)
    y = semi_structured_linear(x, values, indices, bias)
    assert y.shape == (M, N)
    dx, dvalues, dbias = torch.autograd.grad(y.sum(), (x, values, bias))
    assert dx.shape == x.shape and dvalues.shape == values.shape and torch.equal(dbias, torch.full_like(bias, M))


def test_autocast(device):
    x, values, indices, bias, _ = make(8, 32, 32, device=device)
    with torch.autocast(device, torch.bfloat16):
        y = semi_structured_linear(x, values, indices, bias)
    assert y.dtype == torch.bfloat16
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(y.sum(), (x, values, bias)))


@pytest.mark.parametrize("n, m", [(2, 4), (4, 8)])
def test_gradcheck(n, m, device):
    x, values, indices, bias, _ = make(3, 8, 10, (n, m), torch.float64, device)
    inside = reference.columns_of(indices, n, m, 10) < 10  # only these are free

    def f(x, values, bias):
        return semi_structured_linear(x, values * inside, indices, bias, n=n, m=m)

    assert torch.autograd.gradcheck(f, (x, values, bias))


@pytest.mark.skipif(triton.knobs.runtime.interpret, reason="traces, which the interpreter does not change")
def test_opcheck(device):
    x, values, indices, bias, _ = make(5, 16, 32, dtype=torch.float16, device=device)
    opcheck(_semi_structured_linear, (x, values, indices, bias, None, 2, 4, None, False))


def test_compiles(device):
    x, values, indices, bias, _ = make(8, 48, 64, device=device)

    def loss(x, values, bias):
        return semi_structured_linear(x, values, indices, bias, activation="relu").sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    inputs = x, values, bias
    grads = [torch.autograd.grad(f(*inputs), inputs) for f in (loss, compiled)]
    for name, out, ref in zip(NAMES[1:], *grads, strict=True):
        assert_close(name, out, ref, torch.float32)


def test_check_places():
    check_places(make(1, 8, 64)[2], 2, 4, 64)
    with pytest.raises(ValueError, match="must rise"):
        check_places(torch.zeros(1, 8, dtype=torch.uint8), 2, 4, 64)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"values": torch.zeros(48, 8)}, r"values must be \(N, 32\)"),
        ({"indices": torch.zeros(48, 8)}, r"indices must be \(48, 8\) uint8"),
        ({"indices": torch.zeros(48, 8, dtype=torch.int32)}, r"indices must be \(48, 8\) uint8"),
        ({"bias": torch.zeros(40)}, r"bias must be \(48,\)"),
        ({"x": torch.zeros(4, 64).half()}, "must share one of"),
        ({"x": torch.zeros(())}, r"x must be \(..., K\)"),
        ({"residual": torch.zeros(3, 48)}, "residual must be"),
        ({"activation": "tanh"}, "activation must be"),
        ({"m": 16}, "n:m must keep"),
        ({"transposable": True, "n": 1, "values": torch.zeros(48, 16), "indices": torch.zeros(48, 4).byte()}, "needs"),
        ({"x": torch.zeros(4, 64, device="meta")}, "must be on the device of x"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_rejects(change, message):
    args = dict(zip(("x", "values", "indices", "bias"), make(4, 48, 64)[:4], strict=True)) | change
    with pytest.raises(ValueError, match=message):
        semi_structured_linear(**args)


@pytest.mark.skipif(triton.knobs.runtime.interpret, reason="of the references")
def test_dtypes_of_references():
    *args, _ = make(4, 16, 32, dtype=torch.bfloat16)
    assert semi_structured_linear(*args).dtype == torch.bfloat16
