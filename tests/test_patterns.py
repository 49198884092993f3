"""Laws that every pattern obeys."""

import pytest
import torch

from smart_kernels.patterns import NM, PATTERNS, Block, Channel, WeightShape, parse

SHAPES = [
    pytest.param(WeightShape(64, 1, 96), id="linear"),
    pytest.param(WeightShape(33, 1, 50), id="ragged"),
    pytest.param(WeightShape(32, 9, 64), id="conv3x3"),
    pytest.param(WeightShape(20, 4, 7), id="ragged-taps"),
]


@pytest.fixture(params=[*PATTERNS, "all-taps"], ids=lambda p: getattr(p, "__name__", p))
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


@pytest.mark.parametrize("text", ["block:32x16", "block:16x8:all", "channel", "nm:2:4"])
def test_parse_reads_what_str_writes(text):
    assert str(parse(text)) == text


@pytest.mark.parametrize("text", ["block", "block:32", "block:0x8", "block:8x8:some", "nm:4:2", "nm:2", "rows"])
def test_parse_refuses(text):
    with pytest.raises(ValueError, match="pattern"):
        parse(text)


def test_channel_needs_one_score_a_channel():
    assert Channel().scores_shape(WeightShape(7, 9, 4)) == (7, 1)
