"""Training with a packed 2:4 weight: the orders of W and W.T, gradients, and that they run on sparse tensor cores."""

import pytest
import torch
import torch.nn.functional as F
import triton
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.codegen.compile import launchers
from smart_kernels.formats import SemiStructured
from smart_kernels.ops import tensor_core
from smart_kernels.ops.common.launch import NOTHING
from smart_kernels.ops.semi_structured.prune import semi_structured_prune
from smart_kernels.ops.tensor_core import packed_linear
from smart_kernels.ops.tensor_core.gather import kept, turned, turned_metadata
from smart_kernels.ops.tensor_core.packing import KERNELS, PackedWeight, arrange, arrange_indices
from smart_kernels.reference.common.nm import expand
from smart_kernels.reference.semi_structured.linear import semi_structured_linear_dx
from tests.ptx.launch import Machine, emulated
from tests.util import assert_close

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
INTERPRETED = triton.knobs.runtime.interpret
fours = st.integers(1, 50).map(lambda count: 4 * count)
few = settings(max_examples=2) if INTERPRETED else lambda test: test
each_kernel = pytest.mark.parametrize("kernel", KERNELS)
each_order = pytest.mark.parametrize("kernel", ["mma", "wgmma_ss"])  # that of wgmma_rs is that of mma
compiled = pytest.mark.skipif(INTERPRETED, reason="PTX comes from the compiler")


def both_ways(N, K, kernel, dtype=torch.float32, weight=None):
    """The dense W; values and metadata of W and of W.T, each packed from its own saved form."""
    if weight is None:
        weight = torch.randn(N, K, dtype=dtype)
        weight[weight == 0] = 1
    values, indices, values_t, indices_t = semi_structured_prune(weight, transposable=True)
    packed = arrange(values, kernel), arrange_indices(indices, K // 4)
    return expand(values, indices, 2, 4, K), packed, (arrange(values_t, kernel), arrange_indices(indices_t, N // 4))


# ---- the order of W.T, and of the gradient


@each_order
@few
@given(N=fours, K=fours)
def test_the_transpose_is_packed_from_the_packed(kernel, N, K):
    _, (weight, metadata), (weight_t, metadata_t) = both_ways(N, K, kernel)
    assert torch.equal(turned_metadata(metadata, N, K), metadata_t)
    assert torch.equal(turned(weight, metadata, metadata_t, kernel, N, K), weight_t)
    assert torch.equal(turned(weight_t, metadata_t, metadata, kernel, K, N), weight), "twice is nothing"


@each_order
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_what_is_kept_of_a_matrix(kernel, dtype):
    N, K = 36, 68
    dense, (weight, metadata), _ = both_ways(N, K, kernel, dtype)
    assert torch.equal(kept(dense, metadata, kernel), weight)
    other = torch.randn(K, N, dtype=dtype).T
    mask = (dense != 0).to(dtype)  # of a weight without a zero of its own
    assert torch.equal(kept(other, metadata, kernel), kept(other * mask, metadata, kernel)), "strides; the rest is left"


@each_order
def test_edges_are_not_read(kernel):
    """K = 10: the last group reaches beyond the edge, and what is there counts as zero."""
    values, indices = semi_structured_prune(torch.ones(5, 10))
    metadata, wide = arrange_indices(indices, 3), torch.full((5, 12), torch.nan)
    wide[:, :10] = 1
    assert torch.equal(kept(wide[:, :10], metadata, kernel), arrange(values, kernel))


# ---- gradients


@compiled
@each_kernel
@pytest.mark.parametrize("sparse_dx", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_gradients_are_those_of_the_dense_product(kernel, sparse_dx, biased):
    N, K = 36, 20
    dense, (weight, metadata), (_, metadata_t) = both_ways(N, K, kernel, torch.float64)
    x, bias = torch.randn(2, 3, K).double().requires_grad_(), torch.randn(N).double().requires_grad_()
    inputs = [x, weight.requires_grad_(), *([bias] if biased else [])]

    def product(x, weight, bias=None):
        packed = PackedWeight(kernel, weight, metadata, N, K // 4)
        return tensor_core.linear(x, packed, bias, metadata_t if sparse_dx else None)

    y, expected = product(*inputs), F.linear(x, dense.requires_grad_(), bias if biased else None)
    dy = torch.randn_like(y)
    assert_close("y", y, expected, torch.float64)
    grads, wanted = (torch.autograd.grad(*pair, dy) for pair in ((y, inputs), (expected, [x, dense, *inputs[2:]])))
    assert_close("dx", grads[0], wanted[0], torch.float64)
    assert_close("dweight", grads[1], kept(wanted[1], metadata, kernel), torch.float64)
    assert not biased or torch.equal(grads[2], wanted[2])
    torch.autograd.gradcheck(
        product, [t.detach()[:1].requires_grad_() if t is x else t for t in inputs], fast_mode=True
    )


@compiled
@each_kernel
def test_the_library_knows_the_op(kernel):
    _, (weight, metadata), (_, metadata_t) = both_ways(8, 12, kernel, torch.float64)
    x, op = torch.randn(3, 12).double().requires_grad_(), torch.ops.smart_kernels.sparse_tensor_linear
    args = (x, weight.requires_grad_(), metadata, None, metadata_t, kernel, 8)
    torch.library.opcheck(op, args, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))


# ---- the layer


@pytest.fixture
def trusted(monkeypatch):
    """As if the kernels had been verified on the CPU."""
    monkeypatch.setattr(tensor_core, "verified", lambda device, kernel, dtype: None)


def layer(kernel, N, K, transposable, dtype=torch.bfloat16):
    dense, *_ = both_ways(N, K, kernel, weight=torch.randint(-4, 5, (N, K)).to(dtype))
    plain = SemiStructured.from_dense(dense, (1, 1), transposable=transposable)
    return dense, SemiStructured(*plain.state_dict().values(), (N, K), layout=kernel, transposable=transposable)


def trained(kernel, stored, x, bias, dy):
    """y, and the names of the kernels that forward and backward launched; the CPU stands for a GPU."""
    config = tensor_core.tuner(kernel).configs[0]
    target, machine = "sm_80" if kernel == "mma" else "sm_90", Machine()
    with emulated(target, machine), launchers(), tensor_core.forced(kernel, config):
        y = stored.linear(x, bias)
        y.backward(dy)
    return y, [run.src.fn.__name__ for run in machine.compiled]


@compiled
@pytest.mark.parametrize("kernel", ["mma", "wgmma_ss", pytest.param("wgmma_rs", marks=pytest.mark.slow)])
def test_training_runs_the_kernel_both_ways(kernel, trusted):
    N, K = 36, 44
    dense, stored = layer(kernel, N, K, transposable=True)
    x, dy = (torch.randint(-3, 4, (2, 5, size)).bfloat16() for size in (K, N))
    bias = torch.randint(-4, 5, (N,)).bfloat16()
    y, names = trained(kernel, stored, x.requires_grad_(), bias, dy)
    product = "sparse_mma_kernel" if kernel == "mma" else "sparse_wgmma_kernel"
    assert names == [product, "sparse_gather_kernel"] * 2, "the metadata of W.T was made with the layer"
    assert torch.equal(y, F.linear(x.double(), dense.double(), bias.double()).bfloat16())
    assert torch.equal(x.grad, (dy.double() @ dense.double()).bfloat16())
    expected = kept(dy.flatten(0, 1).T @ x.detach().flatten(0, 1), stored.indices, kernel)
    assert torch.equal(stored.values.grad, expected)


@compiled
def test_one_way_only_the_input_gradient_is_portable(trusted, monkeypatch):
    dense, stored = layer("mma", 36, 44, transposable=False)
    x, dy = torch.randint(-3, 4, (5, 44)).bfloat16().requires_grad_(), torch.randint(-3, 4, (5, 36)).bfloat16()

    def portable(tensors, settings):
        dy, values, indices, *others = tensors
        n, m, size, activation, transposed, _ = settings
        assert transposed and activation is None and others == [NOTHING, NOTHING]
        return semi_structured_linear_dx(dy, values, indices, n, m, size)

    monkeypatch.setattr(packed_linear, "spread_matmul", portable)
    y, names = trained("mma", stored, x, None, dy)
    assert names == ["sparse_mma_kernel", "sparse_gather_kernel"]
    assert torch.equal(y, x @ dense.T) and torch.equal(x.grad, dy @ dense)


@compiled
@each_kernel
def test_steps_of_an_optimizer_are_those_of_the_saved_form(kernel, trusted):
    """W.T follows W; on a CPU the op is its reference."""
    dense, first = layer(kernel, 24, 32, transposable=True, dtype=torch.float64)
    second = SemiStructured.from_dense(dense, (1, 1), transposable=True, keep=dense != 0)
    first.load_state_dict(second.state_dict())
    ends = []
    for stored in (first, second):
        torch.manual_seed(1)
        before = torch.nn.Parameter(torch.randn(32, 32).double())
        optimizer = torch.optim.AdamW([before, stored.values], lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            stored.linear(torch.randn(5, 32).double() @ before).square().sum().backward()
            optimizer.step()
        ends.append((stored.to_dense(), before))
    assert_close("W", ends[0][0], ends[1][0], torch.float64)
    assert_close("layer before", ends[0][1], ends[1][1], torch.float64)
    assert first.values.count_nonzero() <= 24 * 32 // 2, "the padding stays zero"


@compiled
def test_metadata_of_the_transpose_stays_while_values_change(trusted):
    _, stored = layer("mma", 16, 24, transposable=True)
    x = torch.randn(3, 24).bfloat16().requires_grad_()
    stored.linear(x)  # on a CPU the op is its reference
    first = stored._turned()
    with torch.no_grad():
        stored.values.mul_(2)
    stored.linear(x)
    assert stored._turned() is first
    other, again = layer("mma", 16, 24, transposable=True)
    stored.load_state_dict(again.state_dict())
    assert torch.equal(stored._turned(), again._turned()) and not torch.equal(stored._turned(), first)
    stored.linear(x).sum().backward()
    assert_close("dx", x.grad, torch.ones(3, 16) @ other.float(), torch.bfloat16)


@compiled
def test_autocast_decides_the_dtype(monkeypatch):
    asked = []
    monkeypatch.setattr(tensor_core, "verified", lambda device, kernel, dtype: asked.append(dtype))
    dense, stored = layer("wgmma_ss", 16, 24, True, torch.float32)
    x = torch.randint(-3, 4, (3, 24)).float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = stored.linear(x, torch.ones(16))
    y.float().sum().backward()
    assert asked == [torch.bfloat16] and y.dtype == torch.bfloat16 and stored.values.grad.dtype == torch.float32
    assert torch.equal(y, (x @ dense.T + 1).bfloat16()) and torch.equal(x.grad, dense.sum(0).expand(3, -1))


def test_zeros_leave_the_transpose_whole():
    """A row of zeros has spare places; these must not be a third one in a column, because they train."""
    dense, *_ = both_ways(8, 12, "mma")
    dense[2], dense[5, 3:7] = 0, 0
    stored = SemiStructured.from_dense(dense, (1, 1), transposable=True)
    stored.values.data.fill_(1)
    filled = stored.to_dense()
    assert torch.equal(filled.unflatten(0, (-1, 4)).sum(1), torch.full((2, 12), 2.0)) and filled[dense != 0].all()
    state = SemiStructured.from_dense(dense, (1, 1)).state_dict()
    with pytest.raises(ValueError, match="indices must name each column twice"):
        stored.load_state_dict(state)
    crowded = torch.tensor([[1.0, 1, 0, 0]]).repeat(4, 1)
    with pytest.raises(ValueError, match="transposable must leave room"):
        SemiStructured.from_dense(crowded, (1, 1), transposable=True)
