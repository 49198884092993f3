"""Many layers prepared in a few launches: the products are those of ``masked_linear``, layer by layer."""

import pytest
import torch
import triton

from smart_kernels.ops.masked import GroupedBlocks, GroupedLayer, masked_linear, prepared_linear
from smart_kernels.ops.masked import grouped as _grouped
from smart_kernels.ops.masked.prepared import index_sizes
from smart_kernels.shapes.tiles import expand
from tests.util import assert_close

from .test_linear import check, formula, gradients, make_inputs

LAYERS = {  # M, N, K, tile of each
    "alike": [(9, 64, 96, (32, 32)), (5, 96, 32, (32, 32)), (33, 32, 160, (32, 32))],
    "ragged": [(9, 50, 70, (32, 32)), (7, 33, 100, (32, 32)), (6, 64, 64, (32, 32))],
    "many tiles in a block": [(17, 40, 72, (8, 4)), (3, 20, 33, (1, 1)), (5, 70, 40, (2, 8))],
    "rows": [(7, 20, 33, (1, 33)), (7, 48, 64, (1, 64)), (7, 50, 200, (1, 200))],
    "unlike": [(9, 50, 90, (24, 40)), (6, 13, 17, (5, 6)), (4, 300, 140, (256, 128)), (3, 170, 90, (168, 88))],
}
NAMES = ("x", "weight", "mask", "bias")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")


@pytest.fixture(autouse=True)
def _kernels(device):
    if device == "cpu" and not triton.knobs.runtime.interpret:
        pytest.skip("on a CPU nothing is prepared without TRITON_INTERPRET=1")


def made(sizes, device, dtype=torch.float32, eps=0.0):
    """Return the inputs of some layers, their masks in one piece, and what groups them."""
    layers = [(*make_inputs(*size, dtype, device), size[3]) for size in sizes]
    first = 0
    described = []
    for (_, weight, mask, _), _, tile in layers:
        described.append(GroupedLayer(tuple(weight.shape), tile, first, eps, weight.dtype))
        first += mask.numel()
    flat = torch.cat([mask.detach().flatten().float() for (_, _, mask, _), _, _ in layers])
    return layers, flat, GroupedBlocks(described, torch.device(device))


def prepared(layers, flat, group, dtype=torch.float32):
    indices = group.listed(flat)
    weights = [weight.detach() for (_, weight, _, _), _, _ in layers]
    return indices, group.packed(weights, flat, dtype, indices)


@pytest.mark.parametrize("sizes", LAYERS.values(), ids=LAYERS)
def test_matches_the_formula(sizes, dtype, device, eps=0.4):
    if dtype == torch.float64:
        pytest.skip("the kernels do not sum in fp64")
    layers, flat, group = made(sizes, device, dtype, eps)
    for (inputs, dy, tile), index, packed in zip(layers, *prepared(layers, flat, group, dtype), strict=True):

        def run(x, weight, mask, bias, index=index, packed=packed, tile=tile):
            return prepared_linear(x, weight, mask, bias, packed, index, tile=tile, eps=eps)

        check(run, lambda *t, tile=tile: formula(*t, tile, eps), inputs, dy, dtype)


@pytest.mark.parametrize("sizes", LAYERS.values(), ids=LAYERS)
def test_lists_and_blocks_are_those_of_the_mask(sizes, device):
    layers, flat, group = made(sizes, device, eps=0.5)
    for ((_, weight, mask, _), _, tile), index, packed in zip(layers, *prepared(layers, flat, group), strict=True):
        n, k = GroupedLayer(tuple(weight.shape), tile, 0, 0.5, weight.dtype).axes
        masked = (weight * expand(torch.where(mask <= 0.5, 0, mask), tile, weight.shape)).detach()
        blocks = [[masked[_span(n, i)][:, _span(k, j)] for j in range(k.blocks)] for i in range(n.blocks)]
        live = torch.tensor([[bool((b != 0).any()) for b in row] for row in blocks])
        slots = torch.arange(live.numel()).view(live.shape)
        lists = index.split(index_sizes(n, k))
        check_lists(live, slots, lists[:5])
        check_lists(live.T, slots.T, lists[5:])
        for i, j in live.nonzero().tolist():
            block, got = blocks[i][j], packed[slots[i, j]]
            assert torch.equal(got[: block.shape[0], : block.shape[1]], block)
            assert not got[block.shape[0] :].any() and not got[:, block.shape[1] :].any()


def check_lists(live, slots, lists):
    """Hold start, end, order, cols and slots of the lines of a matrix to which blocks of it are live."""
    start, end, order, cols, listed = lists
    for i, line in enumerate(live):
        own = slice(int(start[i]), int(end[i]))
        assert start[i] == i * live.shape[1]
        assert cols[own].tolist() == line.nonzero()[:, 0].tolist()
        assert listed[own].tolist() == slots[i][line].tolist()
    assert order[: len(live)].tolist() == live.sum(1).argsort(descending=True, stable=True).tolist()


def _span(axis, i):
    first = i // axis.parts * axis.stride + i % axis.parts * axis.block
    return slice(first, min(first + axis.block, (i // axis.parts + 1) * axis.stride, axis.size))


def test_equals_masked_linear_bit_for_bit_and_never_reads_dead_tiles(device):
    layers, flat, group = made(LAYERS["alike"], device, eps=0.5)
    for (_, weight, mask, _), _, tile in layers:
        with torch.no_grad():
            weight[expand(mask <= 0.5, tile, weight.shape)] = torch.nan
    for (inputs, dy, tile), index, packed in zip(layers, *prepared(layers, flat, group), strict=True):
        run = lambda *t, i=index, p=packed, tile=tile: prepared_linear(*t, p, i, tile=tile, eps=0.5)  # noqa: E731
        others = gradients(lambda *t, tile=tile: masked_linear(*t, tile=tile, eps=0.5), inputs, dy)
        for a, b in zip(gradients(run, inputs, dy), others, strict=True):
            assert torch.equal(a, b)


def test_weights_are_packed_anew_and_lists_stay(device):
    layers, flat, group = made(LAYERS["ragged"], device)
    indices, _ = prepared(layers, flat, group)
    before = [index.clone() for index in indices]
    weights = [(2 * weight).detach() for (_, weight, _, _), _, _ in layers]
    packed = group.packed(weights, flat, torch.float32, None)
    assert all(map(torch.equal, indices, before))
    for (inputs, _, tile), index, blocks, weight in zip(layers, indices, packed, weights, strict=True):
        x, _, mask, bias = inputs
        y = prepared_linear(x, weight, mask, bias, blocks, index, tile=tile, eps=0.0)
        assert_close("y", y, formula(x.double(), weight.double(), mask.double(), bias.double(), tile), torch.float32)


def test_two_launches_for_layers_cut_alike(device, monkeypatch):
    launched = []
    for name in ("group_lists_kernel", "group_pack_kernel"):
        kernel = getattr(_grouped, name)
        monkeypatch.setattr(_grouped, name, Counted(kernel, launched))
    layers, flat, group = made(LAYERS["alike"] + LAYERS["ragged"], device)
    prepared(layers, flat, group)
    assert len(launched) == 2


class Counted:
    def __init__(self, kernel, launched):
        self.kernel = kernel
        self.launched = launched

    def __getitem__(self, grid):
        self.launched.append(grid)
        return self.kernel[grid]
