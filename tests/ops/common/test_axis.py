"""Axis: blocks cover every element once, and a tile never shares a block unless it is smaller than 16."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smart_kernels.ops.common.axis import SMALL_TILES, Axis

sizes, tiles, largest = st.integers(1, 300), st.integers(1, 200), st.sampled_from([16, 32, 64, 128])


def spans(axis: Axis) -> list[range]:
    """The elements of each block, as the kernels compute them."""
    out = []
    for i in range(axis.blocks):
        start = (i // axis.parts) * axis.stride + (i % axis.parts) * axis.block
        end = min((i // axis.parts + 1) * axis.stride, axis.size)
        out.append(range(start, max(start, min(start + axis.block, end))))
    return out


@pytest.mark.parametrize("make", [Axis.cut, Axis.separate])
@given(sizes, tiles, largest)
def test_blocks_cover_the_axis_once(make, size, tile, largest):
    axis = make(size, tile, largest)
    assert [i for span in spans(axis) for i in span] == list(range(size))
    assert axis.block in (16, 32, 64, 128) and axis.block <= largest


@given(sizes, tiles, largest)
def test_a_block_of_a_separate_axis_has_one_tile(size, tile, largest):
    axis = Axis.separate(size, tile, largest)
    for i, span in enumerate(spans(axis)):
        assert {element // tile for element in span} <= {i // axis.parts}
    assert axis.parts * axis.block >= tile > (axis.parts - 1) * axis.block


@given(sizes, tiles, largest)
def test_a_cut_block_has_one_tile_or_whole_small_tiles(size, tile, largest):
    axis = Axis.cut(size, tile, largest)
    for i, span in enumerate(spans(axis)):
        covered = sorted({element // tile for element in span})
        if tile in SMALL_TILES:
            first = i * axis.tiles_per_block
            assert all(first <= t < first + axis.tiles_per_block for t in covered)
        elif tile < size:
            assert len(covered) <= 1
            assert not covered or covered[0] == i // axis.blocks_per_tile


@pytest.mark.parametrize("make", [Axis.cut, Axis.separate])
@given(sizes, tiles, largest)
def test_even_means_full_blocks(make, size, tile, largest):
    axis = make(size, tile, largest)
    full = all(len(span) == axis.block for span in spans(axis))
    assert full or not axis.even
    if axis.stride == axis.block:
        assert axis.even == full


@pytest.mark.parametrize(
    "tile, block, parts",
    [(1, 16, 1), (16, 16, 1), (24, 32, 1), (64, 64, 1), (128, 64, 2), (96, 32, 3), (40, 64, 1), (200, 64, 4)],
)
def test_sizes_of_separate_blocks(tile, block, parts):
    axis = Axis.separate(1000, tile, 64)
    assert (axis.block, axis.parts) == (block, parts)
