import pytest
import torch
import triton
from hypothesis import given
from hypothesis import strategies as st
from torch.library import opcheck

from smart_kernels.ops.common import forget
from smart_kernels.ops.topk import launch as launchers
from smart_kernels.ops.topk.soft_topk import _soft_topk, soft_topk
from smart_kernels.reference.common.soft_mask import soft_mask
from smart_kernels.reference.topk import soft_topk as solver
from tests.util import assert_close

# lanes whose result is not taken divide by zero
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")
INF, NAN = float("inf"), float("nan")
TEMPERATURES = [1.0, 0.05, 1e-3]
SIZES = [  # groups, n
    pytest.param(9, 2, id="pair"),
    pytest.param(70, 4, id="n-of-4"),
    pytest.param(3, 5, id="not-a-power-of-2"),
    pytest.param(2, 16, id="one-row"),
    pytest.param(1, 1000, id="one-layer"),
    pytest.param(1, 1200, id="large"),
]
SMALL, LARGE = 1000, 1200


@pytest.fixture(autouse=True)
def _large_starts_early(monkeypatch):
    """The interpreter takes its time per program: two of them, with several blocks each, make a LARGE group."""
    for name, value in {"SMALL": SMALL, "TILE": 1024, "PROGRAMS": 2}.items():
        monkeypatch.setattr(launchers, name, value)
    forget()
    yield
    forget()


@pytest.fixture
def kernels(device):
    """Says that the test is about the kernels, which a plain CPU does not run."""
    if device == "cpu" and not triton.knobs.runtime.interpret:
        pytest.skip("kernels on a CPU need TRITON_INTERPRET=1")


def oracle(scores, keep, temperature, cost=None):
    """float64 bisection; finite scores, 0 < keep < sum(cost)."""
    scores = scores.detach().double()
    cost = torch.ones_like(scores) if cost is None else cost.double().expand_as(scores)
    low, high = scores.amin(-1, True) - 60 * temperature, scores.amax(-1, True) + 60 * temperature
    for _ in range(120):
        middle = (low + high) / 2
        over = (cost * ((scores - middle) / temperature).sigmoid()).sum(-1, True) > keep
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return ((scores - low) / temperature).sigmoid()


def budget_error(mask, keep, cost=None):
    mask = mask.detach().double()
    return ((mask if cost is None else mask * cost).sum(-1) - keep).abs().max().item() / keep


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("groups, n", SIZES)
def test_sums_to_keep_and_keeps_order(groups, n, temperature, device):
    scores = torch.randn(groups, n, device=device).sort().values
    keep = max(1, n // 4)
    mask, threshold = soft_topk(scores, keep, temperature)
    assert mask.dtype == torch.float32 and threshold.dtype == torch.float64
    assert budget_error(mask, keep) <= 1e-5
    assert (mask.diff() >= 0).all()
    assert_close("mask", mask, oracle(scores, keep, temperature), torch.float32)
    assert_close("soft_mask", soft_mask(scores, threshold[:, None], temperature), mask, torch.float32)


@pytest.mark.parametrize("n", [4, LARGE])
def test_threshold_is_finer_than_fp32(n, device):
    scores = 100 + torch.randn(2, n, device=device) / 100
    mask, _ = soft_topk(scores, n / 3, 1e-3)
    assert budget_error(mask, n / 3) <= 1e-5
    assert_close("mask", mask, oracle(scores, n / 3, 1e-3), torch.float32)


def test_float64_scores_meet_the_budget_to_float64():
    scores = torch.randn(40, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for temperature in TEMPERATURES[:2]:
        assert budget_error(soft_topk(scores, 7, temperature)[0], 7) <= 1e-12


@pytest.fixture
def tried(monkeypatch):
    """(threshold, whether the masks are too many there) of what the reference has evaluated, at most 80 times."""
    found, excess = [], solver._excess

    def watched(scores, threshold, *others):
        result = excess(scores, threshold, *others)
        found.append((threshold.item(), result[0].item() > 0))
        assert len(found) <= solver.NEWTON + solver.BISECT
        return result

    monkeypatch.setattr(solver, "_excess", watched)
    return found


def solve(tried, scores, keep, temperature, cost=None, start=None):
    """Return (low, threshold, high) of each threshold that was tried: between which ends it was known to lie."""
    args = scores, torch.as_tensor([keep]), torch.tensor(temperature), cost
    low, high = (end.item() for end in solver._bracket(*args))
    tried.clear()
    solver.soft_topk(*args, start)
    found = []
    for threshold, over in tried:
        found.append((low, threshold, high))
        low, high = (threshold, high) if over else (low, threshold)
    return found


def test_no_threshold_is_tried_that_is_known_to_be_too_low_or_too_high(tried):
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        scores, cost = torch.randn(1, 4, generator=generator), torch.randn(1, 4, generator=generator).exp()
        found = solve(tried, scores, cost.sum() / 2, 0.1, cost, torch.randn(1, generator=generator))
        assert all(low < threshold < high for low, threshold, high in found)


@pytest.mark.parametrize("spread, ends", [(1e12, True), (1e25, False)])
def test_the_last_steps_halve_and_their_number_is_bounded(spread, ends, tried):
    found = solve(tried, torch.tensor([[spread, -spread]], dtype=torch.float64), 0.5, 1e-3)
    assert (len(found) < solver.NEWTON + solver.BISECT) == ends
    assert all(threshold == (low + high) / 2 for low, threshold, high in found[solver.NEWTON + 1 :])


@pytest.mark.parametrize("shared", [True, False], ids=["cost-per-score", "cost-per-group-and-score"])
@pytest.mark.parametrize("groups, n", [(3, 5), (2, 1000), (2, LARGE)])
def test_cost_is_what_the_budget_counts(groups, n, shared, device):
    scores = torch.randn(groups, n, device=device)
    cost = torch.randint(1, 1000, (n,) if shared else (groups, n), device=device)
    keep = 0.3 * cost.double().sum(-1).min().item()
    for temperature in (0.3, 1e-3):
        mask, _ = soft_topk(scores, keep, temperature, cost)
        assert budget_error(mask, keep, cost) <= 1e-5
        assert_close("mask", mask, oracle(scores, keep, temperature, cost), torch.float32)


@given(
    n=st.integers(2, 60),
    log_temperature=st.floats(-3, 1),
    share=st.floats(0.02, 0.98),
    ties=st.booleans(),
    costed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_matches_bisection(n, log_temperature, share, ties, costed, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, n, generator=generator) * 10 ** (seed % 3 - 1)
    scores = scores.round() if ties else scores
    cost = torch.randint(1, 50, (n,), generator=generator).float() if costed else None
    temperature, keep = 10**log_temperature, share * (n if cost is None else cost.sum().item())
    mask, _ = soft_topk(scores, keep, temperature, cost)
    assert budget_error(mask, keep, cost) <= 1e-5
    torch.testing.assert_close(mask.double(), oracle(scores, keep, temperature, cost), rtol=0, atol=1e-5)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_only_differences_in_units_of_temperature_matter(temperature, device):
    scores = torch.randn(3, 50, device=device, dtype=torch.float64)
    mask, threshold = soft_topk(scores, 7, temperature)
    shifted, moved = soft_topk(scores + 2.5, 7, temperature)
    torch.testing.assert_close(shifted, mask)
    scaled, stretched = soft_topk(scores * 8, 7, temperature * 8)
    torch.testing.assert_close(scaled, mask)
    if temperature >= 0.1:  # between two scores far apart any threshold is as good
        torch.testing.assert_close(moved, threshold + 2.5)
        torch.testing.assert_close(stretched, threshold * 8)


@pytest.mark.parametrize("start", [None, "last"])
@pytest.mark.parametrize("costed", [False, True])
@pytest.mark.parametrize("groups, n, temperature", [(3, 4, 0.7), (2, 9, 0.3), (1, 30, 0.05)])
def test_gradients_match_finite_differences(groups, n, temperature, costed, start, device):
    scores = torch.randn(groups, n, device=device, dtype=torch.float64, requires_grad=True)
    cost = torch.randint(1, 9, (n,), device=device).double() if costed else None
    keep = 0.4 * (cost.sum().item() if costed else n)
    start = soft_topk(scores.detach() + 0.01, keep, temperature, cost)[1] if start else None
    assert torch.autograd.gradcheck(lambda s: soft_topk(s, keep, temperature, cost, start), scores)


@pytest.mark.parametrize("costed", [False, True])
@pytest.mark.parametrize("groups, n", SIZES)
def test_fp32_gradient_matches_float64(groups, n, costed, device):
    exact = torch.randn(groups, n, device=device).double().requires_grad_()
    cost = torch.randint(1, 9, (groups, n), device=device) if costed else None
    keep = 0.3 * (cost.sum(-1).min().item() if costed else n)
    dmask, dthreshold = torch.randn(groups, n, device=device), torch.randn(groups, device=device).double()
    grads = []
    for scores in (exact.detach().float().requires_grad_(), exact):
        mask, threshold = soft_topk(scores, keep, 0.2, cost)
        torch.autograd.backward((mask, threshold), (dmask.to(mask.dtype), dthreshold))
        grads.append(scores.grad)
    assert_close("dscores", *grads, torch.float32)


@pytest.mark.parametrize("n", [4, 300])
def test_gradient_is_blind_to_constants(n, device):
    scores = torch.randn(5, n, device=device, requires_grad=True)
    mask, threshold = soft_topk(scores, n / 4, 0.1)
    (by_mask,) = torch.autograd.grad((mask * torch.randn_like(mask)).sum(), scores, retain_graph=True)
    (by_constant,) = torch.autograd.grad(3 * mask.sum(), scores, retain_graph=True)
    (by_threshold,) = torch.autograd.grad(threshold.sum(), scores)
    scale = by_mask.abs().max().item()
    assert by_mask.sum(-1).abs().max() <= 1e-5 * scale and by_constant.abs().max() <= 1e-5 * scale
    torch.testing.assert_close(by_threshold.sum(-1), torch.ones(5, device=device))


def test_one_graph_serves_several_backward_calls(device):
    scores = torch.randn(3, 10, device=device, requires_grad=True)
    weights = torch.randn(2, 3, 10, device=device)
    mask, _ = soft_topk(scores, 4, 0.3)
    for weight in weights:
        (mask * weight).sum().backward()
    expected, mask = scores.grad, soft_topk(scores, 4, 0.3)[0]
    torch.testing.assert_close(torch.autograd.grad((mask * weights.sum(0)).sum(), scores)[0], expected)


@pytest.mark.parametrize("n", [4, 300, LARGE])
def test_temperature_1e_6_is_the_hard_top_k(n, device):
    scores = torch.randperm(2 * n, device=device).view(2, n).float() / n
    keep = n // 3 + 1
    mask, _ = soft_topk(scores, keep, 1e-6)
    expected = torch.zeros_like(scores).scatter_(-1, scores.topk(keep).indices, 1.0)
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("n", [6, LARGE])
@pytest.mark.parametrize("temperature", [1.0, 1e-6])
def test_equal_scores_share(n, temperature, device):
    scores = torch.full((2, n), 1.7, device=device)
    mask, _ = soft_topk(scores, n / 4, temperature)
    torch.testing.assert_close(mask, torch.full_like(mask, 0.25))
    scores[:, n // 2 :] = -3.0  # a tie above the rest
    mask, _ = soft_topk(scores, n // 3, min(temperature, 1e-3))
    torch.testing.assert_close(mask[:, : n // 2], torch.full_like(mask[:, : n // 2], (n // 3) / (n // 2)))
    assert (mask[:, n // 2 :] == 0).all()


@pytest.mark.parametrize("n", [4, LARGE])
def test_nothing_and_everything(n, device):
    scores = torch.randn(3, n, device=device, requires_grad=True)
    cost = torch.full((n,), 5, device=device)
    for keep, value, limit in ((0, 0.0, INF), (n, 1.0, -INF)):
        for args in ((keep, 0.1), (5 * keep, 0.1, cost)):
            mask, threshold = soft_topk(scores, *args)
            assert (mask == value).all() and (threshold == limit).all()
            assert (torch.autograd.grad(mask.sum() + threshold.sum(), scores)[0] == 0).all()
    assert (soft_topk(scores, 6 * n, 0.1, cost)[0] == 1).all()  # beyond the total saturates


@pytest.mark.parametrize("padding", [0, LARGE], ids=["small", "large"])
def test_infinite_scores_are_pinned(padding, device):
    rows = [  # scores, what the finite ones share of keep = 2, threshold where it is infinite
        ([INF, -INF, 0.5, 0.3], 1, None),
        ([INF, INF, 0.5, 0.3], 0, INF),
        ([INF, INF, INF, 0.3], 0, INF),
        ([-INF, -INF, 0.5, 0.3], 2, -INF),
        ([-INF, -INF, -INF, 0.3], 1, -INF),
        ([-INF] * 4, 0, -INF),
        ([INF] * 4, 0, INF),
    ]
    scores = torch.tensor([row for row, _, _ in rows], device=device)
    padded = torch.nn.functional.pad(scores, (0, padding), value=-INF).requires_grad_()
    mask, threshold = soft_topk(padded, 2, 0.1)
    for row, f, t, (_, share, limit) in zip(scores, mask[:, :4], threshold, rows, strict=True):
        assert (f[row == INF] == 1).all() and (f[row == -INF] == 0).all()
        assert f[row.isfinite()].sum().item() == pytest.approx(share)
        assert t.isfinite() if limit is None else t == limit
    mask.square().sum().backward()
    assert padded.grad.isfinite().all() and (padded.grad[padded.detach().isinf()] == 0).all()


@pytest.mark.parametrize("n", [4, LARGE])
@pytest.mark.parametrize("keep", [0, 2])
def test_nan_poisons_its_own_group_only(n, keep, device):
    scores = torch.randn(3, n, device=device)
    clean = soft_topk(scores[[0, 2]], keep, 0.1)
    scores[1, :3] = torch.tensor([NAN, INF, -INF])
    mask, threshold = soft_topk(scores.requires_grad_(), keep, 0.1)
    assert mask[1].isnan().all() and threshold[1].isnan()
    assert torch.equal(threshold[[0, 2]], clean[1])
    assert_close("mask", mask[[0, 2]], clean[0], torch.float32)  # the last bit of a CPU's sigmoid depends on the place
    mask.square().sum().backward()
    assert scores.grad[1].isnan().all() and scores.grad[[0, 2]].isfinite().all()


@pytest.mark.parametrize("n", [4, 300, LARGE])
def test_start_does_not_change_the_answer(n, device):
    scores = torch.randn(2, n, device=device)
    mask, threshold = soft_topk(scores, n / 3, 0.05)
    for start in (threshold.float() + 0.1, torch.full_like(threshold, 99), torch.full_like(threshold, NAN)):
        again, _ = soft_topk(scores, n / 3, 0.05, None, start)
        assert_close("mask", again, mask, torch.float32)


@pytest.mark.parametrize("costed", [False, True])
@pytest.mark.parametrize("groups, n, temperature", [(3, 4, 0.3), (2, 900, 1e-3), (1, LARGE, 1e-6)])
def test_small_kernel_equals_large_kernel(groups, n, temperature, costed, kernels, device, monkeypatch):
    args = (torch.randn(groups, n, device=device), n / 2, temperature)
    cost = torch.randint(1, 9, (n,), device=device).float() if costed else None
    found = []
    for most in (LARGE, 1):
        forget()
        monkeypatch.setattr(launchers, "SMALL", most)
        found.append(soft_topk(*args, cost)[0])
    assert_close("mask", found[1], found[0], torch.float32)


def test_launches_are_fixed_and_deterministic(kernels, device, monkeypatch):
    launched = []
    for name in ("range", "pass", "finish", "mask", "bwd"):
        name = f"soft_topk_{name}_kernel"
        monkeypatch.setattr(launchers, name, Counted(getattr(launchers, name), launched))
    scores = torch.randn(1, LARGE, device=device, requires_grad=True)
    mask, threshold = soft_topk(scores, 1000, 0.01)
    assert torch.equal(soft_topk(scores, 1000, 0.01)[0], mask)
    for hard_case in (scores * NAN, scores * 0, scores**9):
        soft_topk(hard_case.detach(), 1000, 0.01, None, threshold.detach())
    assert len(launched) == 5 * (3 + len(launchers.CANDIDATES)) == 5 * 6
    mask.square().sum().backward()
    assert len(launched) == 5 * 6 + 1, "the backward is one kernel"


@pytest.mark.parametrize("spread", [1.0, 1e4, 1e8])
def test_one_program_finishes_what_the_passes_leave(spread, kernels, device):
    scores = torch.randn(2, LARGE, device=device) * spread
    mask, _ = soft_topk(scores, 300, 0.01)
    assert budget_error(mask, 300) <= 1e-5
    assert_close("mask", mask, oracle(scores, 300, 0.01), torch.float32)


@pytest.mark.parametrize("sizes", [(1, 4, 9), (3, SMALL, 2), (LARGE, 30, 2 * LARGE)], ids=["few", "small", "large"])
@pytest.mark.parametrize("costed", [False, True])
def test_groups_of_different_sizes_are_groups_of_their_own(sizes, costed, device):
    scores = torch.randn(sum(sizes), device=device, requires_grad=True)
    cost = torch.randint(1, 9, (len(scores),), device=device).float() if costed else None
    costs = [None] * len(sizes) if cost is None else cost.split(sizes)
    keep = torch.tensor([0.4 * (n if c is None else c.sum()) for n, c in zip(sizes, costs, strict=True)], device=device)
    start = torch.randn(len(sizes), device=device).double()
    mask, threshold = soft_topk(scores, keep, torch.tensor(0.2, device=device), cost, start, sizes=sizes)
    dmask, dthreshold = torch.randn_like(mask), torch.randn_like(threshold)
    (dscores,) = torch.autograd.grad((mask, threshold), scores, (dmask, dthreshold), retain_graph=True)
    (without,) = torch.autograd.grad(mask, scores, dmask)
    assert not torch.equal(without, dscores)
    vectors = (t.split(sizes) for t in (scores, mask, dmask, dscores))
    parts = zip(*vectors, costs, keep, threshold, dthreshold, strict=True)
    for s, m, dm, ds, c, k, t, dt in parts:
        leaf = s.detach().requires_grad_()
        alone, at = soft_topk(leaf, k.item(), 0.2, c)
        assert_close("mask", m, alone, torch.float32)
        torch.testing.assert_close(t, at, rtol=1e-5, atol=1e-5)
        assert_close("dscores", ds, torch.autograd.grad((alone, at), leaf, (dm, dt))[0], torch.float32)


def test_keep_and_temperature_are_read_from_tensors(device):
    scores = torch.randn(3, 7, device=device)
    keep, temperature = (torch.tensor(value, device=device, dtype=torch.float64) for value in (2.0, 0.3))
    for _ in range(2):
        assert torch.equal(
            soft_topk(scores, keep, temperature)[0], soft_topk(scores, keep.item(), temperature.item())[0]
        )
        keep += 1
        temperature /= 2
    each = torch.tensor([1.0, 2.0, 6.0], device=device)
    mask, _ = soft_topk(scores, each, temperature)
    torch.testing.assert_close(mask.sum(1), each, rtol=1e-5, atol=0)


def test_launch_settings_of_a_gpu(kernels, device, monkeypatch):
    monkeypatch.undo()
    scores = torch.randn(1, 5300, device=device)
    assert_close("mask", soft_topk(scores, 1000, 0.01)[0], oracle(scores, 1000, 0.01), torch.float32)


class Counted:
    def __init__(self, kernel, launched):
        self.kernel, self.launched = kernel, launched

    def __getitem__(self, grid):
        self.launched.append(grid)
        return self.kernel[grid]


def test_any_shape_layout_and_dtype(device):
    scores = torch.randn(6, 3, 2, device=device)
    mask, threshold = soft_topk(scores.transpose(0, 2), 2, 0.5)
    assert mask.shape == (2, 3, 6) and threshold.shape == (2, 3)
    assert torch.equal(mask, soft_topk(scores.transpose(0, 2).contiguous(), 2, 0.5)[0])
    assert soft_topk(scores[0, 0], 1, 0.5)[1].shape == ()
    assert soft_topk(scores[:0], 1, 0.5)[0].shape == (0, 3, 2)
    half = scores.half().requires_grad_()
    mask, _ = soft_topk(half, 1, 0.5)
    mask.square().sum().backward()
    assert mask.dtype == torch.float32 and half.grad.dtype == torch.float16


def test_autocast_changes_nothing(device):
    scores = torch.randn(2, 50, device=device)
    expected = soft_topk(scores, 10, 0.1)
    with torch.autocast(device, dtype=torch.bfloat16):
        mask, threshold = soft_topk(scores, 10, 0.1)
    assert torch.equal(mask, expected[0]) and torch.equal(threshold, expected[1])


def test_soft_mask_is_differentiable_and_pins():
    scores = torch.tensor([INF, -INF, 0.5, NAN], requires_grad=True)
    for threshold in (0.2, INF, -INF):
        mask = soft_mask(scores, torch.tensor(threshold, dtype=torch.float64), 0.1)
        assert mask[0] == 1 and mask[1] == 0 and mask[3].isnan()
        assert mask[2] == {INF: 0, -INF: 1}.get(threshold, torch.tensor(3.0).sigmoid())
        (grad,) = torch.autograd.grad(mask[:3].sum(), scores)
        assert grad[:3].isfinite().all()
    assert soft_mask(scores, torch.tensor(NAN), 0.1).isnan().all()
    exact = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    threshold = torch.randn(2, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, t: soft_mask(s, t, 0.4), (exact, threshold))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("costed", [False, True])
def test_opcheck(costed, dtype, device):
    scores = torch.randn(3, 5, device=device, dtype=dtype, requires_grad=True)
    cost = torch.rand(3, 5, device=device, dtype=dtype) + 0.5 if costed else None
    keep, temperature = torch.tensor([2.0]).double().to(device), torch.tensor(0.3).double().to(device)
    opcheck(_soft_topk, (scores, keep, temperature, cost, None, []))
    cost = None if cost is None else cost.flatten()
    opcheck(_soft_topk, (scores.detach().flatten().requires_grad_(), keep.expand(2), temperature, cost, None, [9, 6]))


def test_compiles(device):
    def loss(scores):
        mask, threshold = soft_topk(scores, 3, 0.2)
        return (mask * mask.detach().cumsum(-1)).sum() + threshold.square().sum()

    scores = torch.randn(2, 8, device=device, requires_grad=True)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    grads = [torch.autograd.grad(run(scores), scores)[0] for run in (loss, compiled)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scores": torch.ones(3, 4, dtype=torch.int32)}, r"floating point \(\.\.\., n >= 1\), got torch.int32"),
        ({"scores": torch.ones(3, 0)}, r"got torch.float32 \(3, 0\)"),
        ({"scores": torch.tensor(1.0)}, r"got torch.float32 \(\)"),
        ({"keep": 5}, r"keep must be between 0 and the total cost of 4 scores, got 5"),
        ({"keep": -1, "cost": torch.ones(4)}, r"keep must be .* got -1"),
        ({"keep": NAN}, r"keep must be .* got nan"),
        ({"keep": torch.ones(2)}, r"keep must be one value or \(3,\), one per group, got \(2,\)"),
        ({"sizes": [2, 2]}, r"sizes must be at least 1 and add up to a row of scores, got \[2, 2\] of \(3, 4\)"),
        ({"scores": torch.ones(4), "sizes": [4, 0]}, r"sizes must be at least 1 .* got \[4, 0\] of \(4,\)"),
        ({"temperature": 0.0}, r"temperature must be above 0, got 0.0"),
        ({"cost": torch.ones(3)}, r"cost must be \(4,\) or \(3, 4\) like scores, got \(3,\)"),
        ({"start": torch.ones(3, 4)}, r"start must be \(3,\), one per group, got \(3, 4\)"),
        ({"start": torch.ones(3, device="meta")}, r"start must be on the device of scores, cpu, got meta"),
    ],
)
def test_rejects(change, message):
    good = {"scores": torch.ones(3, 4), "keep": 2, "temperature": 0.1}
    with pytest.raises(ValueError, match=message):
        soft_topk(**(good | change))
