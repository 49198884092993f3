import pytest
import torch
import triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from smart_kernels.ops import smart_weight, soft_topk
from smart_kernels.ops.topk.smart_weight import _smart_weight
from smart_kernels.patterns import NM, WeightShape
from tests.util import assert_close

SLOW = pytest.mark.slow
PATTERNS = [(2, 4), (1, 4), (2, 8), (3, 5)]
OFTEN = [(2, 4), pytest.param(1, 4, marks=SLOW), pytest.param(2, 8, marks=SLOW), (3, 5)]
TEMPERATURE = 0.3


def make(R, C, dtype=torch.float32, device="cpu"):
    weight = torch.randn(R, C).to(device, dtype).requires_grad_()
    return weight, torch.randn(R, C).to(device, torch.promote_types(dtype, torch.float32)).requires_grad_()


def composed(weight, scores, n, m, temperature, eps=0.0, hard=False):
    """The same of ``soft_topk``, ``where`` and a product; soft masks only have a gradient."""
    pattern, shape = NM(n, m), WeightShape(len(weight), 1, weight.shape[1])
    soft = pattern.ungroup(soft_topk(pattern.groups(scores, shape), n, temperature)[0], shape)
    if hard:
        return weight * (soft + (pattern.hard_mask(scores, shape) - soft).detach())
    return weight * torch.where(soft <= eps, 0, soft)


def check(weight, scores, n, m, dtype, **options):
    y = smart_weight(weight, scores, n, m, TEMPERATURE, **options)
    assert y.dtype == dtype and y.shape == weight.shape
    dy = torch.randn_like(y)
    inputs = [t.detach().double().requires_grad_() for t in (weight, scores)]
    expected = composed(*inputs, n, m, TEMPERATURE, **options)
    assert_close("y", y, expected, dtype)
    for name, out, ref in zip(
        ("dweight", "dscores"),
        torch.autograd.grad(y, (weight, scores), dy),
        torch.autograd.grad(expected, inputs, dy.double()),
        strict=True,
    ):
        assert_close(name, out, ref, dtype)


@pytest.mark.parametrize("options", [{}, {"eps": 0.1}, {"hard": True}], ids=["soft", "eps", "hard"])
@pytest.mark.parametrize("n, m", OFTEN)
@pytest.mark.parametrize("R, C", [(8, 48), (5, 13)])
def test_matches_soft_topk_and_product(R, C, n, m, options, dtype, device):
    check(*make(R, C, dtype, device), n, m, dtype, **options)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(st.integers(1, 9), st.integers(1, 30), st.sampled_from(PATTERNS), st.booleans())
def test_any_shape(device, R, C, kept, hard):
    check(*make(R, C, device=device), *kept, torch.float32, hard=hard)


def test_pinned_and_tied_scores(device):
    weight = torch.ones(3, 4, device=device)
    inf = float("inf")
    scores = torch.tensor([[inf, 0.0, 0.0, 0.0], [inf, inf, 0.0, -inf], [0.0] * 4], device=device)
    third = 1 / 3
    expected = torch.tensor([[1, third, third, third], [1, 1, 0, 0], [0.5] * 4], device=device)
    torch.testing.assert_close(smart_weight(weight, scores, 2, 4, 0.1), expected)
    hard = smart_weight(weight, scores, 2, 4, 0.1, hard=True)
    assert hard.tolist() == [[1, 1, 0, 0]] * 3


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
def test_backward_runs_twice(hard, device):
    weight, scores = make(4, 8, device=device)
    y = smart_weight(weight, scores, 2, 4, TEMPERATURE, hard=hard)
    first = torch.autograd.grad(y.sum(), (weight, scores), retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(y.sum(), (weight, scores))))


def test_gradcheck(device):
    weight, scores = make(2, 7, torch.float64, device)
    assert torch.autograd.gradcheck(lambda w, s: smart_weight(w, s, 2, 4, TEMPERATURE), (weight, scores))


@pytest.mark.skipif(triton.knobs.runtime.interpret, reason="traces, which the interpreter does not change")
def test_opcheck(device):
    temperature = torch.full((), TEMPERATURE, dtype=torch.float64, device=device)
    opcheck(_smart_weight, (*make(4, 12, device=device), temperature, 2, 4, 0.0, False))


def test_the_temperature_may_be_a_tensor(device):
    weight, scores = make(4, 12, device=device)
    temperature = torch.full((), TEMPERATURE, dtype=torch.float64, device=device)
    results = [smart_weight(weight, scores, 2, 4, t) for t in (TEMPERATURE, temperature)]
    gradients = [torch.autograd.grad(y.sum(), (weight, scores)) for y in results]
    assert torch.equal(*results) and all(map(torch.equal, *gradients))


@pytest.mark.skipif(triton.knobs.runtime.interpret, reason="traces, which the interpreter does not change")
def test_compiles():
    weight, scores = make(4, 12)
    f = torch.compile(lambda w, s: smart_weight(w, s, 2, 4, 0.2).sum(), fullgraph=True, backend="aot_eager")
    got, want = (torch.autograd.grad(g(weight, scores), (weight, scores)) for g in (f, f.__wrapped__))
    assert all(map(torch.allclose, got, want))


@pytest.mark.parametrize(
    "change",
    [
        {"scores": torch.zeros(4, 4)},
        {"n": 4},
        {"m": 128},
        {"temperature": 0},
        {"eps": 1.0},
        {"weight": torch.zeros(4)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_rejects(change):
    args = {"weight": torch.zeros(4, 8), "scores": torch.zeros(4, 8), "n": 2, "m": 4, "temperature": 0.1} | change
    with pytest.raises(ValueError, match=r"must be like weight|needs 0 < n < m|must be positive"):
        smart_weight(**args)
