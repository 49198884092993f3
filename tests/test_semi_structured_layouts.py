"""2:4 weights that lie in memory as sparse tensor cores read them: nothing is lost, nothing is kept twice, they train,
and inference runs the kernel."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
import triton
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from smart_kernels import SparseLinear, compress_, load, save
from smart_kernels.convert.measure import timing
from smart_kernels.formats import SemiStructured, semi_structured
from smart_kernels.ops import tensor_core
from smart_kernels.ops.tensor_core import verify
from smart_kernels.reference.common import compress as compressed
from tests.ptx.launch import Machine, emulated
from tests.test_semi_structured_format import bits, pruned
from tests.util import assert_close

if triton.knobs.runtime.interpret:
    pytest.skip("PTX comes from the compiler", allow_module_level=True)

arranged = pytest.mark.parametrize("layout", tensor_core.KERNELS)
sizes = st.integers(1, 300)


def stored_in(layout, weight, **options):
    """In a layout that ``from_dense`` refuses here: no GPU has verified its kernel."""
    plain = SemiStructured.from_dense(weight, (1, 1))
    return SemiStructured(*plain.state_dict().values(), weight.shape, layout=layout, **options)


def integers(N, K, dtype=torch.bfloat16):
    """2:4 with groups of 0, 1 and 2 non-zeros."""
    return (pruned(N, K) * (torch.rand(N, K) < 0.7) * 4).round().to(dtype)


@pytest.fixture
def trusted(monkeypatch):
    """As if the kernels had been verified on the CPU."""
    monkeypatch.setattr(tensor_core, "verified", lambda device, kernel, dtype: None)


# ---- the order


@arranged
@given(N=sizes, K=sizes)
def test_unpack_is_the_inverse_of_pack(layout, N, K):
    weight = integers(N, K)
    values, indices = compressed(weight, weight != 0, 2, 4)
    packed = tensor_core.pack(values, indices, layout)
    assert packed.shape == (-(-N // 128) * 128, -(-K // 64) * 64)
    again = tensor_core.unpack(packed)
    assert torch.equal(bits(again[0]), bits(values)) and torch.equal(again[1], indices)


@arranged
def test_only_the_order_changes(layout):
    weight = torch.randperm(128 * 64).view(128, 64).double() + 1
    weight *= pruned(128, 64) != 0
    values = stored_in(layout, weight).values.detach()
    assert torch.equal(values.flatten().sort().values, weight[weight != 0].sort().values)


@arranged
def test_short_rows_and_negative_zeros_are_kept(layout):
    weight = torch.zeros(7, 10, dtype=torch.float16)
    weight[0, 3], weight[1, 0], weight[2, 6], weight[6, 9] = 5, 6, 7, 8
    weight[3, 2] = weight[4, 7] = weight[5, 8] = -0.0
    weight[5, [1, 2]] = torch.tensor([float("nan"), -0.0]).half()
    assert torch.equal(bits(stored_in(layout, weight).to_dense().detach()), bits(weight))


# ---- the module


@arranged
def test_only_the_arranged_form_is_resident(layout):
    stored = stored_in(layout, integers(130, 70))
    N, K = 256, 128  # as padded
    stored.to_dense(), stored.linear(torch.zeros(2, 70).bfloat16())
    assert [name for name, _ in stored.named_parameters()] == ["values"] and stored.values.numel() == N * K // 2
    assert [name for name, _ in stored.named_buffers()] == ["indices", "kept"] and stored.indices.nbytes == N * K // 8
    assert stored._cache is None and stored.options()["layout"] == layout and repr(stored).endswith(f"2:4, {layout})")


@arranged
def test_state_dict_is_the_saved_form_whatever_the_layout(layout):
    weight = integers(33, 50)
    plain, stored = SemiStructured.from_dense(weight, (1, 1)), stored_in(layout, weight)
    state, expected = stored.state_dict(), plain.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in state)
    assert stored.nbytes == plain.nbytes
    other = stored_in(layout, integers(33, 50))
    other.load_state_dict(expected)
    for twin in (other, copy.deepcopy(stored), pickle.loads(pickle.dumps(stored)), copy.deepcopy(stored).float()):
        assert torch.equal(twin.to_dense(), weight.to(twin.values.dtype)) and twin.layout == layout
    with pytest.raises(ValueError, match="indices must rise"):
        stored.load_state_dict(expected | {"indices": torch.zeros_like(expected["indices"])})


@arranged
@pytest.mark.parametrize("transposable", [False, True])
def test_gradients_pass_through_the_layout(layout, transposable):
    weight = torch.randn(8, 4).double() * torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]).repeat_interleave(2, 0).repeat(
        2, 1
    )
    layer = SparseLinear.from_format(stored_in(layout, weight, transposable=transposable), torch.randn(8).double())
    x = torch.randn(3, 4).double().requires_grad_()

    def product(x, values, bias):
        return functional_call(layer, {"format.values": values, "bias": bias}, (x,))

    values = layer.format.values
    torch.autograd.gradcheck(product, (x, values, layer.bias), fast_mode=True)
    layer(x).square().sum().backward()
    dense = weight.clone().requires_grad_()
    F.linear(x.detach(), dense, layer.bias.detach()).square().sum().backward()
    assert values.grad.count_nonzero() <= 16, "nothing reaches the padding"
    with torch.no_grad():
        values.copy_(values.grad)
    assert_close("dvalues", layer.weight, dense.grad * (weight != 0), torch.float64)


# ---- the product


@arranged
@pytest.mark.parametrize(
    ("N", "K"),
    [(9, 30), (130, 68), *(pytest.param(*size, marks=pytest.mark.slow) for size in [(1, 1), (127, 63), (129, 259)])],
)
def test_inference_runs_the_kernel(layout, N, K, trusted):
    stored, bias = stored_in(layout, integers(N, K)), torch.randint(-4, 5, (N,)).bfloat16()
    x = torch.randint(-4, 5, (2, 3, K)).bfloat16()
    machine, config = Machine(), tensor_core.tuner(layout).configs[0]
    target = emulated("sm_80" if layout == "mma" else "sm_90", machine)
    with target, tensor_core.forced(layout, config), torch.no_grad():
        y = stored.linear(x, bias)
        row = stored.linear(x[0, 0], bias)
    assert len(machine.compiled) == 2
    expected = F.linear(x.double(), stored.to_dense().double(), bias.double()).bfloat16()
    assert torch.equal(y, expected) and torch.equal(row, expected[0, 0])


@arranged
def test_elsewhere_the_saved_form_is_multiplied(layout):
    weight, x = integers(16, 64), torch.randn(4, 64).bfloat16()
    stored = stored_in(layout, weight)
    with torch.no_grad():
        assert_close("y", stored.linear(x), F.linear(x.double(), weight.double()), torch.bfloat16)
        assert_close("y", stored.float().linear(x.float()), F.linear(x.double(), weight.double()), torch.float32)


@arranged
def test_what_was_not_verified_is_refused(layout, monkeypatch):
    with pytest.raises(ValueError, match="need an NVIDIA GPU"):
        SemiStructured.from_dense(integers(16, 64), (1, 1), layout=layout)
    monkeypatch.setattr(verify, "supported", lambda device, kernel: None)
    assert "weights, got torch.float32" in tensor_core.verified.__wrapped__("cpu", layout, torch.float32)


@arranged
@pytest.mark.parametrize(("weight", "options"), [(torch.zeros(4, 8), {"n": 1}), (torch.zeros(4, 36), {"taps": 9})])
def test_other_forms_are_refused_before_anything_is_verified(layout, weight, options, monkeypatch):
    monkeypatch.setattr(tensor_core, "verified", None)
    with pytest.raises(ValueError, match="for 2:4 with one tap"):
        SemiStructured.from_dense(weight, (1, 1), layout=layout, **options)


# ---- the choice


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(32, 48).bfloat16(), nn.Linear(48, 32).bfloat16()
        self.a.weight.data, self.b.weight.data = integers(48, 32), integers(32, 48)

    def forward(self, x):
        return self.b(self.a(x))


@pytest.fixture
def timed(monkeypatch):
    """Every 2:4 layer counts as one on a GPU; injected times. The candidates of each layer are returned."""
    seen = []

    def fake(candidates, *_):
        seen.append([*candidates])
        return {name: [0.1 if name == "nm mma" else 0.5 if name == "nm rows" else 1.0] * 4 for name in candidates}

    monkeypatch.setattr(semi_structured, "_has_tensor_core_kernels", lambda zeros: True)
    monkeypatch.setattr(timing, "time_in_turns", fake)
    return seen


def test_compress_chooses_among_them_and_the_choice_travels(timed, trusted, monkeypatch, tmp_path):
    net, x = Net(), torch.randn(4, 32).bfloat16()
    expected = net(x)
    monkeypatch.setattr(SemiStructured, "_on_tensor_cores", lambda *_: False)  # no kernel can run here
    report = compress_(net, x)
    assert all({"nm rows", *(f"nm {name}" for name in tensor_core.KERNELS)} <= {*c} for c in timed[:2])
    assert [row.options["layout"] for row in report.rows] == ["mma", "mma"] and not report.absent
    assert_close("y", net(x), expected, torch.bfloat16)
    save(net, tmp_path, report)
    fresh = Net()
    assert load(fresh, tmp_path) == report
    assert fresh.a.format.layout == "mma" and torch.equal(fresh(x), net(x))


def test_what_is_wrong_here_is_dropped_with_one_line_each(timed, monkeypatch):
    reasons = {"mma": "mma is wrong", "wgmma_ss": "sm_90 only", "wgmma_rs": "sm_90 only"}
    monkeypatch.setattr(tensor_core, "verified", lambda device, kernel, dtype: reasons[kernel])
    net = Net()
    report = compress_(net, torch.randn(4, 32).bfloat16(), backends=("dense", "nm"))
    assert timed[0] == ["dense", "nm rows"] and report.rows[0].options["layout"] == "rows"
    assert report.absent == ("mma is wrong", "sm_90 only") and str(report).endswith("mma is wrong\nsm_90 only")
    assert not compress_(Net(), torch.randn(4, 32).bfloat16(), backends=("dense",)).absent


def test_a_choice_that_fails_here_is_made_again(timed, trusted, monkeypatch, tmp_path):
    monkeypatch.setattr(SemiStructured, "_on_tensor_cores", lambda *_: False)
    net, x = Net(), torch.randn(4, 32).bfloat16()
    save(net, tmp_path, compress_(net, x))
    monkeypatch.setattr(tensor_core, "verified", lambda device, kernel, dtype: "another Gluon")
    fresh = Net()
    report = load(fresh, tmp_path, x)
    assert [row.options["layout"] for row in report.rows] == ["rows", "rows"] and report.absent == ("another Gluon",)
    assert torch.equal(fresh.a.weight, net.a.weight)
