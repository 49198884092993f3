"""A stored weight derives its lists from its indices once per change of them; compiled code reads them, too."""

import copy

import pytest
import torch

from smart_kernels import Block, SparseConv2d, SparseLinear
from smart_kernels.formats import indexed
from smart_kernels.ops.block_sparse import conv_blocks
from smart_kernels.ops.common import blocks
from smart_kernels.ops.common.library import TRITON_DEVICES
from tests.util import assert_close

MAKE = {
    "linear": lambda: (SparseLinear(48, 32, Block(16, 16), 0.5), torch.randn(3, 48)),
    "conv": lambda: (SparseConv2d(32, 16, (1, 2), Block(16, 16), 0.5, stride=(1, 2)), torch.randn(1, 32, 1, 4)),
    "pointwise": lambda: (SparseConv2d(16, 32, 1, Block(16, 16), 0.5), torch.randn(1, 16, 3, 2)),
    "cut": lambda: (SparseConv2d(128, 16, (1, 2), Block(16, 128), 0.5), torch.randn(1, 128, 1, 3)),
}


@pytest.fixture(params=MAKE)
def layer_and_x(request, device):
    if device not in TRITON_DEVICES:
        pytest.skip("there are no kernels for this device")
    layer, x = MAKE[request.param]()
    return layer.to(device), x.to(device)


def results(layer, x):
    x = x.clone().requires_grad_()
    y = layer(x)
    return y, *torch.autograd.grad(y.square().sum(), (x, *layer.parameters()))


def refuse(*args):
    raise AssertionError("the lists of blocks are made anew")


@pytest.fixture
def no_lists(monkeypatch):
    """From when it is called, nothing may sort blocks or list them."""

    def forbid():
        monkeypatch.setattr(blocks.BlockRows, "transposed", refuse)
        monkeypatch.setattr(indexed, "block_index", refuse)
        monkeypatch.setattr(indexed, "conv_index", refuse)
        monkeypatch.setattr(conv_blocks.ConvBlocks, "_slots", refuse)

    return forbid


def test_made_with_the_layer_and_then_only_read(layer_and_x, no_lists):
    layer, x = layer_and_x
    no_lists()
    for _ in range(2):
        results(layer, x)


def test_compiled_code_reads_it(layer_and_x, no_lists):
    layer, x = layer_and_x
    expected = results(layer, x)
    no_lists()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for out, ref in zip(results(compiled, x), expected, strict=True):
        assert torch.equal(out, ref)


@pytest.mark.parametrize("how", ["in place", "loaded", "compiled"])
def test_made_anew_when_the_indices_change(layer_and_x, how):
    layer, x = layer_and_x
    other, (_, taps, cols) = copy.deepcopy(layer), layer.format.grid
    crow, col = other.format.crow_indices, other.format.col_indices
    moved = [(taps * cols - 1 - row).sort().values for row in col.split(crow.diff().tolist())]
    col.copy_(torch.cat(moved))
    if how == "in place":
        layer.format.col_indices.copy_(col)
    else:
        layer.load_state_dict(other.state_dict())
    if how == "compiled":
        layer = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for out, ref in zip(results(layer, x)[:2], results(other.to_dense(), x)[:2], strict=True):
        assert_close("y and dx", out, ref, torch.float32)


def test_made_in_inference_it_serves_a_backward(layer_and_x):
    layer, x = layer_and_x
    expected = results(layer, x)
    layer.format.col_indices.add_(0)  # counts as a change
    with torch.inference_mode():
        layer(x)
    for out, ref in zip(results(layer, x), expected, strict=True):
        assert torch.equal(out, ref)


def test_it_is_not_saved_and_memory_can_be_empty(layer_and_x):
    layer, x = layer_and_x
    assert not any("index" in key.split(".") for key in layer.state_dict())
    again = copy.deepcopy(layer).to_empty(device=x.device)  # whatever lies there
    again.load_state_dict(layer.state_dict())
    for out, ref in zip(results(again, x), results(layer, x), strict=True):
        assert torch.equal(out, ref)
