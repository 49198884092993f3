"""Laws that every pattern obeys."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smart_kernels import SparseLinear, compress_, mask_
from smart_kernels.patterns import NM, PATTERNS, VNM, Block, Channel, WeightShape, parse

SHAPES = [
    pytest.param(WeightShape(64, 1, 96), id="linear"),
    pytest.param(WeightShape(33, 1, 50), id="ragged"),
    pytest.param(WeightShape(32, 9, 64), id="conv3x3"),
    pytest.param(WeightShape(20, 4, 7), id="ragged-taps"),
]


NOT_NM = ("nm:1:4:transposable", "nm:2:4:other", "vnm:64:1:8", "vnm:64:2:4", "vnm:0:2:8", "vnm:2:8")


@pytest.fixture(params=[*PATTERNS.values(), "all-taps"], ids=lambda p: getattr(p, "__name__", p))
def pattern(request):
    return Block(8, 16, "all") if request.param == "all-taps" else request.param(*request.param.example)


@pytest.mark.parametrize("shape", SHAPES)
def test_costs_add_up_to_the_weight(pattern, shape):
    cost = pattern.cost(shape)
    assert cost.shape == pattern.scores_shape(shape)
    assert cost.sum() == shape.numel


@pytest.mark.parametrize("shape", SHAPES)
def test_each_score_covers_as_many_weights_as_it_costs(pattern, shape):
    scores = torch.arange(pattern.cost(shape).numel()).view(pattern.scores_shape(shape))
    covered = pattern.expand(scores, shape)
    assert covered.shape == shape
    assert covered.flatten().bincount(minlength=scores.numel()).view_as(scores).equal(pattern.cost(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_importance_is_the_mean_magnitude(pattern, shape):
    weight = torch.randn(shape, dtype=torch.float64)
    owner = pattern.expand(torch.arange(pattern.cost(shape).numel()).view(pattern.scores_shape(shape)), shape)
    sums = torch.zeros(pattern.cost(shape).numel()).double().index_add_(0, owner.flatten(), weight.abs().flatten())
    expected = sums.view(pattern.scores_shape(shape)) / pattern.cost(shape)
    torch.testing.assert_close(pattern.importance(weight), expected.float())


@pytest.mark.parametrize("shape", SHAPES)
def test_tile_values_follow_the_taps(pattern, shape):
    scores = torch.randn(pattern.scores_shape(shape))
    rows, cols = pattern.tile_values(scores, shape).shape
    tile_n, tile_c = pattern.tile(shape)
    assert (rows, cols) == (-(-shape.N // tile_n), shape.taps * -(-shape.C // tile_c))


@pytest.mark.parametrize("shape", SHAPES)
def test_nm_groups_are_consecutive_inputs_and_padding_never_wins(shape):
    scores = torch.randn(shape.N, shape.taps * shape.C)
    groups = NM(2, 4).groups(scores, shape)
    assert groups[0, : min(4, shape.C)].equal(scores[0, : min(4, shape.C)])
    assert groups.isneginf().sum() == shape.N * shape.taps * (-shape.C % 4)
    assert NM(2, 4).ungroup(groups, shape).equal(scores)


@pytest.mark.parametrize(
    "text", ["block:32x16", "block:16x8:all", "channel", "nm:2:4", "nm:2:4:transposable", "vnm:64:2:8"]
)
def test_parse_reads_what_str_writes(text):
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    "text", ["block", "block:32", "block:0x8", "block:8x8:some", "nm:4:2", "nm:2", "rows", *NOT_NM]
)
def test_parse_refuses(text):
    with pytest.raises(ValueError, match="pattern"):
        parse(text)


def test_channel_needs_one_score_a_channel():
    assert Channel().scores_shape(WeightShape(7, 9, 4)) == (7, 1)


def brute_force(block):
    """The best sum of a transposable mask over a 4x4 block."""
    pairs = [[i, j] for i in range(4) for j in range(i)]
    sums = []
    for rows in itertools.product(pairs, repeat=4):
        if all(sum(column in row for row in rows) == 2 for column in range(4)):
            sums.append(sum(block[i, row].sum() for i, row in enumerate(rows)))
    assert len(sums) == 90
    return max(sums)


@pytest.mark.parametrize("shape", SHAPES)
def test_transposable_mask_is_the_best(shape):
    pattern, scores = NM(2, 4, transposable=True), torch.randn(shape.N, shape.taps * shape.C)
    mask = pattern.hard_mask(scores, shape)
    assert mask.shape == scores.shape
    pad = (0, -shape.C % 4, 0, 0, 0, -shape.N % 4)
    blocks = [torch.nn.functional.pad(t.view(shape), pad)[:4, 0, :4] for t in (scores, mask, scores * mask)]
    assert float(blocks[2].sum()) == pytest.approx(float(brute_force(blocks[0])), rel=1e-5)
    groups = torch.nn.functional.pad(mask.view(shape), pad)
    assert groups.unflatten(2, (-1, 4)).sum(-1).max() == 2 and groups.unflatten(0, (-1, 4)).sum(1).max() == 2
    if shape.N % 4 == 0 and shape.C % 4 == 0:
        assert mask.mean() == 0.5


class Devices(TorchDispatchMode):
    """Writes down the devices of all tensors that operators read."""

    def __init__(self):
        super().__init__()
        self.read = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.read |= {t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        return func(*args, **(kwargs or {}))


def test_transposable_masks_are_on_the_device_once():
    """A CUDA graph cannot hold a copy from the host: from the second mask on, there is none."""
    scores = torch.empty(8, 8, device="meta")
    pattern, shape = NM(2, 4, transposable=True), WeightShape(8, 1, 8)
    pattern.hard_mask(scores, shape)
    with Devices() as devices:
        pattern.hard_mask(scores, shape)
    assert devices.read == {"meta"}


def test_lost_score():
    shape = WeightShape(64, 1, 64)
    scores = torch.rand(64, 64)
    assert NM(2, 4).score_lost(scores, shape) == 0
    assert 0 < NM(2, 4, transposable=True).score_lost(scores, shape) < 0.5
    assert 0 < VNM(64, 2, 8).score_lost(scores, shape) < 1
    kept = NM(2, 4, transposable=True).hard_mask(scores, shape)
    assert NM(2, 4, transposable=True).score_lost(scores + 10 * kept, shape) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [WeightShape(64, 1, 96), WeightShape(33, 1, 50), WeightShape(20, 4, 7)])
def test_vnm_chooses_columns_then_weights(shape):
    scores = torch.randn(shape.N, shape.taps * shape.C)
    mask = VNM(16, 2, 8).hard_mask(scores, shape).view(shape)
    groups = torch.nn.functional.pad(mask, (0, -shape.C % 8)).unflatten(2, (-1, 8))
    assert (groups.sum(-1) <= 2).all()
    if shape.C % 8 == 0:
        assert (groups.sum(-1) == 2).all()
    for rows in groups.split(16):
        assert (rows.amax(0).sum(-1) <= 4).all()  # columns in use, per tap and group
    pinned = scores.clone()
    pinned[0, 3] = torch.inf
    assert VNM(16, 2, 8).hard_mask(pinned, shape)[0, 3] == 1


@pytest.mark.parametrize("size", [0, -8, 1.5, "32"])
def test_block_sizes_are_positive_integers(size):
    with pytest.raises(ValueError, match="positive integers as rows and cols, got"):
        Block(size, 8)


def test_a_block_of_one_number_is_told_what_it_must_be():
    with pytest.raises(ValueError, match=r"a block must be ROWSxCOLS, such as 32x32, got '32'"):
        parse("block:32")


@pytest.mark.parametrize("text", ["block:axb", "block:8x", "nm:2:b", "nm:2.0:4", "vnm:64:2:m", "nm:a:4:transposable"])
def test_sizes_are_whole_numbers(text):
    with pytest.raises(ValueError, match=f"pattern '{text}': sizes must be whole numbers, got '"):
        parse(text)


@pytest.mark.parametrize("pattern", ["block:8x8", 8, Block])
def test_what_is_no_pattern_is_refused_wherever_one_is_taken(pattern):
    def model():
        return torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16))

    uses = [
        lambda: mask_(model(), pattern),
        lambda: compress_(model(), torch.zeros(1, 16), pattern),
        lambda: SparseLinear(16, 16, pattern, 0.5),
        lambda: SparseLinear.from_dense(model()[0], pattern, 0.5),
    ]
    for use in uses:
        with pytest.raises(ValueError, match=r"pattern must be one such as Block\(32, 32\) or parse"):
            use()
