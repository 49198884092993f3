"""Pruning to 2:4 and packing in one pass, against the masks of the pattern and the packing of the saved form."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smart_kernels.ops import semi_structured_prune
from smart_kernels.patterns import NM, WeightShape
from smart_kernels.reference.common.nm import compress, expand
from tests.conftest import INTERPRETED

SHAPES = [(1, 1), (3, 5), (17, 22), (20, 264)]
EVEN = [(4, 4), (12, 8), (68, 132)]
sizes = st.integers(1, 40)


def expected(weight, scores, transposable=False):
    """By the pattern's mask: values and indices, of W.T, too."""
    scores = weight.abs().float() if scores is None else scores.float()
    mask = NM(2, 4, transposable).hard_mask(scores, WeightShape(len(weight), 1, weight.shape[1])).bool()
    forms = [(weight, mask), (weight.T, mask.T)] if transposable else [(weight, mask)]
    return [tensor for w, keep in forms for tensor in compress(w, keep, 2, 4)]


def assert_same(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def drawn(shape, dtype, device="cpu", ties=False):
    weight = torch.randint(-2, 3, shape) if ties else torch.randn(shape)
    return weight.to(device, dtype)


@pytest.mark.parametrize("scored", [False, True], ids=["magnitudes", "scores"])
@pytest.mark.parametrize(
    ("shape", "transposable"), [(shape, False) for shape in SHAPES] + [(shape, True) for shape in EVEN]
)
def test_keeps_and_packs_what_the_pattern_keeps(shape, transposable, scored, dtype, device):
    for ties in (False, True):
        weight = drawn(shape, dtype, device, ties)
        scores = drawn(shape, torch.float32, device, ties) if scored else None
        assert_same(
            semi_structured_prune(weight, scores, transposable=transposable), expected(weight, scores, transposable)
        )


@pytest.mark.skipif(INTERPRETED, reason="the shapes above suffice there")
@given(N=sizes, K=sizes)
def test_any_shape(N, K):
    weight, scores = torch.randn(N, K), torch.randint(0, 3, (N, K)).float()
    assert_same(semi_structured_prune(weight, scores), expected(weight, scores))


def test_both_ways_are_one_weight(device):
    weight = drawn((24, 36), torch.bfloat16, device)
    values, indices, values_t, indices_t = semi_structured_prune(weight, transposable=True)
    dense = expand(values, indices, 2, 4, 36)
    assert torch.equal(dense.T, expand(values_t, indices_t, 2, 4, 24)) and (dense != 0).sum() == 24 * 18
    assert torch.equal(dense[dense != 0], weight[dense != 0])


@pytest.mark.parametrize("transposable", [False, True])
def test_infinite_scores_and_negative_zeros(transposable, device):
    weight, scores = drawn((8, 16), torch.float16, device), torch.randn(8, 16, device=device)
    weight[::2, ::3] = -0.0
    scores[::3, ::5], scores[1::3, ::7] = torch.inf, -torch.inf
    assert_same(
        semi_structured_prune(weight, scores, transposable=transposable), expected(weight, scores, transposable)
    )
    scores[2, 1] = torch.nan
    forms = semi_structured_prune(weight, scores, transposable=transposable)
    assert_same(forms, expected(weight, scores.nan_to_num(nan=torch.inf, posinf=torch.inf), transposable))


def test_reads_any_strides(device):
    weight = drawn((12, 20), torch.float16, device)
    assert_same(semi_structured_prune(weight.T.contiguous().T), semi_structured_prune(weight))
    assert [t.shape for t in semi_structured_prune(weight[:0])] == [(0, 10), (0, 3)]
    assert [t.dtype for t in semi_structured_prune(weight.double())] == [torch.float64, torch.uint8]


def test_checks_its_registration():
    for name in ("semi_structured_prune", "semi_structured_prune_both_ways"):
        for scores in (None, torch.randn(8, 12)):
            op = getattr(torch.ops.smart_kernels, name).default
            torch.library.opcheck(op, (torch.randn(8, 12), scores))


@pytest.mark.parametrize(
    ("weight", "scores", "transposable", "message"),
    [
        (torch.zeros(4), None, False, "weight must be"),
        (torch.zeros(4, 4).int(), None, False, "weight must be"),
        (torch.zeros(4, 4), torch.zeros(4, 5), False, "scores must be like weight"),
        (torch.zeros(4, 4), torch.zeros(4, 4).int(), False, "scores must be like weight"),
        (torch.zeros(4, 6), None, True, "divisible by 4"),
    ],
)
def test_says_what_does_not_fit(weight, scores, transposable, message):
    with pytest.raises(ValueError, match=message):
        semi_structured_prune(weight, scores, transposable=transposable)
