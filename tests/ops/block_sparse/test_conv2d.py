import pytest
import torch
import torch.nn.functional as F
import triton
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.library import opcheck
from triton.runtime.interpreter import InterpreterBuilder

from smart_kernels.formats import BSR
from smart_kernels.nn import SparseConv2d
from smart_kernels.ops import block_sparse_conv1d, block_sparse_conv2d, block_sparse_conv_transpose2d
from smart_kernels.ops.block_sparse import kernel_blocks
from smart_kernels.ops.block_sparse.conv_blocks import ConvBlocks
from smart_kernels.ops.block_sparse.conv_operators import block_conv, block_conv_dx
from smart_kernels.ops.block_sparse.index import conv_index
from smart_kernels.ops.common import conv_grad as _conv
from smart_kernels.ops.common.launch import NOTHING
from smart_kernels.ops.common.plan import forget
from smart_kernels.patterns import Block
from smart_kernels.reference.block_sparse.conv2d import kernel
from smart_kernels.reference.common.epilogue import ACTIVATIONS, finish
from smart_kernels.shapes.conv import Conv
from tests.util import assert_close

NAMES = ("y", "dx", "dvalues", "dbias")
CASES = [  # images, C, H, W, N, geometry, tile
    pytest.param(2, 32, 5, 4, 16, Conv((3, 3), (1, 1), (1, 1)), (16, 16), id="3x3"),
    pytest.param(1, 16, 6, 6, 16, Conv((3, 3)), (16, 16), id="interior"),
    pytest.param(1, 40, 7, 6, 24, Conv((3, 3), (2, 2), (1, 1)), (24, 40), id="stride-no-power-of-two"),
    pytest.param(1, 20, 7, 8, 30, Conv((3, 2), (2, 3), (1, 0), (1, 2)), (16, 16), id="ragged"),
    pytest.param(2, 16, 7, 7, 16, Conv((1, 1), (2, 2)), (16, 16), id="pointwise-stride"),
    pytest.param(2, 20, 3, 4, 40, Conv((1, 1)), (16, 16), id="pointwise"),
    pytest.param(1, 16, 7, 7, 16, Conv((7, 7), (2, 2), (3, 3)), (16, 16), id="more-taps-than-bits"),
    pytest.param(1, 72, 3, 3, 136, Conv((1, 2), (1, 1), (0, 1)), (136, 72), id="several-parts"),
    pytest.param(1, 128, 2, 3, 128, Conv((1, 2), (1, 2), (0, 1)), (128, 128), id="cut"),
    pytest.param(1, 3, 6, 6, 8, Conv((3, 3), (1, 1), (1, 1)), (8, 4), id="small"),
]


def names(conv):
    return conv.named


def make(B, C, H, W, N, conv, tile, dtype=torch.float32, device="cpu", density=0.5, all_taps=False):
    """x, values, crow_indices, col_indices, bias."""
    rows, cols = -(-N // tile[0]), -(-C // tile[1])
    live = torch.rand(rows, 1 if all_taps else conv.taps, cols).lt(density).expand(rows, conv.taps, cols)
    mask = live.repeat_interleave(tile[0], 0).repeat_interleave(tile[1], 2)[:N, :, :C].flatten(1)
    weight = torch.randn(N, conv.taps * C)
    bsr = BSR.from_dense(weight * mask, tile, taps=conv.taps, keep=mask)
    x, values, bias = torch.randn(B, C, H, W), bsr.values.detach(), torch.randn(N)
    x, values, bias = (t.to(device, dtype).requires_grad_() for t in (x, values, bias))
    return x, values, bsr.crow_indices.to(device), bsr.col_indices.to(device), bias


def dense(bsr, conv):
    """(N, C, kh, kw), differentiable in the blocks."""
    return bsr.to_dense().unflatten(1, (*conv.kernel, -1)).permute(0, 3, 1, 2)


def exact(x, values, crow, col, bias, dy, conv):
    """y, dx, dvalues, dbias in float64."""
    weight = BSR(values.detach().double(), crow, col, (len(bias), conv.taps * x.shape[1]), conv.taps)
    x, bias = (t.detach().double().requires_grad_() for t in (x, bias))
    y = F.conv2d(x, dense(weight, conv), bias, *conv[1:])
    return y, *torch.autograd.grad(y, (x, weight.values, bias), dy.double())


def check(args, conv, dtype):
    x, values, *_, bias = args
    y = block_sparse_conv2d(*args, **names(conv), out_channels=len(bias))
    dy = torch.randn_like(y)
    grads = torch.autograd.grad(y, (x, values, bias), dy)
    for name, out, ref in zip(NAMES, (y, *grads), exact(*args, dy, conv), strict=True):
        assert out.dtype == dtype
        assert_close(name, out, ref, dtype)


@pytest.mark.parametrize("B, C, H, W, N, conv, tile", CASES)
def test_matches_torch(B, C, H, W, N, conv, tile, dtype, device):
    check(make(B, C, H, W, N, conv, tile, dtype, device), conv, dtype)


@pytest.mark.parametrize(
    "B, C, H, W, N, conv, tile", [case for case in CASES if case.id in ("ragged", "pointwise", "several-parts", "cut")]
)
def test_index_changes_nothing(B, C, H, W, N, conv, tile, device):
    x, values, crow, col, bias = make(B, C, H, W, N, conv, tile, device=device)
    options = {**names(conv), "out_channels": N}
    index = conv_index(crow, col, tile, (N, C), **names(conv))
    plain, indexed = (block_sparse_conv2d(x, values, crow, col, bias, **options, index=i) for i in (None, index))
    dy = torch.randn_like(plain)
    grads = (torch.autograd.grad(y, (x, values, bias), dy) for y in (plain, indexed))
    for a, b in zip((plain, *next(grads)), (indexed, *next(grads)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("tile", [(16, 16), (128, 128), (24, 40), (136, 72)])
def test_an_index_holds_the_lists_that_would_be_made(tile):
    conv, N, C = Conv((3, 2), (2, 1), (1, 0)), 200, 150
    _, _, crow, col, _ = make(1, C, 4, 4, N, conv, tile)
    blocks = ConvBlocks.of(len(col), tile, (N, C), conv)
    index = blocks.pack(crow, col)
    assert len(index) == sum(blocks.sizes)
    for lists in (blocks.forward, blocks.backward, blocks.places):
        for made, read in zip(lists(crow, col, NOTHING), lists(crow, col, index), strict=True):
            assert made is read is NOTHING or torch.equal(made, read)


@pytest.mark.parametrize("tile", [(16, 16), (128, 128), (24, 40), (136, 72)])
def test_blocks_that_are_cut_are_not_copied(tile):
    values, col = torch.randn(3, *tile), torch.zeros(3).int()
    n, k = kernel_blocks.axes(tile, (300, 300))
    windows = kernel_blocks.windows(values, n, k)
    slots = slice(None) if n.parts * k.parts == 1 else kernel_blocks.slots(col, n, k).long()
    assert torch.equal(windows[slots], kernel_blocks.cut(values, n, k))
    whole = tile == (n.parts * n.block, k.parts * k.block)
    assert (windows.data_ptr() == values.data_ptr()) == whole
    assert len(kernel_blocks.windows(values[:0], n, k)) == 0


PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=settings().max_examples // 5)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 20), st.integers(1, 7), st.integers(1, 7), st.integers(1, 20)),
    st.tuples(PAIR, PAIR, st.tuples(st.integers(0, 3), st.integers(0, 3)), PAIR),
    st.tuples(st.integers(8, 20), st.integers(8, 20)) | st.just((16, 16)),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.booleans(),
)
@example((1, 5, 6, 7, 9), ((3, 2), (3, 2), (2, 1), (2, 1)), (16, 16), 1.0, True)
def test_any_geometry(device, sizes, pairs, tile, density, all_taps):
    conv = Conv(*pairs)
    assume(min(conv.output_size(*sizes[2:4])) >= 1)
    check(make(*sizes, conv, tile, device=device, density=density, all_taps=all_taps), conv, torch.float32)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_epilogue_fused_and_with_gradients(activation, dtype, device):
    conv = Conv((3, 3), (1, 1), (1, 1))
    args = make(1, 16, 5, 5, 32, conv, (16, 16), dtype, device)
    residual = torch.randn(1, 32, 5, 5, device=device, dtype=dtype)
    options = {**names(conv), "out_channels": 32, "activation": activation, "residual": residual}
    sums = exact(*args, torch.zeros_like(residual), conv)[0]
    expected = finish(sums, None, residual.double(), activation)
    with torch.no_grad():
        assert_close("fused", block_sparse_conv2d(*args, **options), expected, dtype)
    y = block_sparse_conv2d(*args, **options)
    assert y.requires_grad
    assert_close("differentiable", y, expected, dtype)


@pytest.mark.parametrize(
    "size, stride, padding, extra, dilation",
    [
        ((3, 2), 1, 1, 0, 1),
        ((3, 2), 2, 1, 1, 1),
        ((3, 2), (3, 2), 0, (2, 0), (1, 2)),
        ((1, 1), 1, 0, 0, 1),
        ((1, 1), (3, 2), 0, (2, 0), 1),
    ],
)
def test_transposed(size, stride, padding, extra, dilation, dtype, device):
    C, N, tile = 16, 20, (16, 32)
    weight = torch.randn(C, N, *size)
    taps = size[0] * size[1]
    bsr = BSR.from_dense(weight.permute(0, 2, 3, 1).flatten(1), tile, taps=taps)
    x, bias = torch.randn(1, C, 4, 3), torch.randn(N)
    x, bias, values = (t.detach().to(device, dtype).requires_grad_() for t in (x, bias, bsr.values))
    geometry = {"stride": stride, "padding": padding, "output_padding": extra, "dilation": dilation}
    indices = bsr.crow_indices.to(device), bsr.col_indices.to(device)
    y = block_sparse_conv_transpose2d(x, values, *indices, bias, kernel_size=size, **geometry, out_channels=N)
    dy = torch.randn_like(y)
    grads = torch.autograd.grad(y, (x, values, bias), dy)
    index = conv_index(*indices, tile, (C, N), kernel_size=size, stride=stride, padding=padding, dilation=dilation)
    options = {**geometry, "kernel_size": size, "out_channels": N, "index": index}
    assert torch.equal(block_sparse_conv_transpose2d(x, values, *indices, bias, **options), y)
    weight = BSR(values.detach().double(), *indices, (C, taps * N), taps)
    inputs = x.detach().double().requires_grad_(), weight.values, bias.detach().double().requires_grad_()
    ref = F.conv_transpose2d(inputs[0], dense(weight, Conv(size)), inputs[2], **geometry)
    refs = ref, *torch.autograd.grad(ref, inputs, dy.double())
    for name, out, ref in zip(NAMES, (y, *grads), refs, strict=True):
        assert_close(name, out, ref, dtype)


def test_conv1d(dtype, device):
    conv = Conv((1, 3), (1, 2), (0, 1))
    args = make(2, 16, 1, 9, 16, conv, (16, 16), dtype, device)
    x = args[0].detach().squeeze(2)
    y = block_sparse_conv1d(x, *args[1:], kernel_size=3, stride=2, padding=1, out_channels=16)
    ref = exact(*args, torch.zeros(2, 16, 1, 5, device=device), conv)[0].squeeze(2)
    assert_close("y", y, ref, dtype)


def test_gradient_in_parts(monkeypatch, device):
    monkeypatch.setattr(_conv, "CHUNK", 128)
    forget()
    conv = Conv((3, 3), (1, 1), (1, 1))
    check(make(2, 16, 10, 10, 16, conv, (16, 16), device=device, density=0.1), conv, torch.float32)


@pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="counts inside the interpreter")
@pytest.mark.parametrize("stride", [1, 2])
def test_executed_products_are_live_blocks_times_pixel_blocks(stride, monkeypatch):
    conv = Conv((3, 3), (stride, stride), (1, 1))
    args = make(1, 32, 8, 8, 32, conv, (16, 16), density=0.4)
    nnz, count, dot = len(args[1]), 0, InterpreterBuilder.create_dot

    def counted(*dot_args):
        nonlocal count
        count += 1
        return dot(*dot_args)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", counted)
    y = block_sparse_conv2d(*args, **names(conv), out_channels=32)
    pixel_blocks = triton.cdiv(64 // stride**2, 16)  # the interpreter takes the first config, BLOCK_M = 16
    assert count == nnz * pixel_blocks
    y.backward(torch.randn_like(y))
    assert count == 3 * nnz * pixel_blocks  # a stride costs the input gradient nothing


def test_strides_and_autocast(device):
    conv = Conv((3, 3), (1, 1), (1, 1))
    args = make(2, 16, 5, 5, 16, conv, (16, 16), device=device)
    x = args[0].detach().to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast(device, torch.bfloat16):
        y = block_sparse_conv2d(x, *args[1:], **names(conv), out_channels=16)
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    dy = torch.randn_like(y)
    grads = torch.autograd.grad(y, (x, args[1], args[4]), dy)
    for name, out, ref in zip(NAMES, (y, *grads), exact(*args, dy, conv), strict=True):
        assert_close(name, out, ref, torch.bfloat16)
        assert name == "y" or out.dtype == torch.float32


@pytest.mark.parametrize("pattern", [Block(16, 16), Block(16, 16, "all")], ids=str)
def test_sparse_layer_trains_through_it(pattern, device):
    layer = SparseConv2d(16, 32, 3, pattern, 0.5, stride=2, padding=1, device=device)
    x = torch.randn(2, 16, 6, 6, device=device)
    y = layer(x)
    y.square().sum().backward()
    values, bias = layer.format.values.detach(), layer.bias.detach()
    crow, col = layer.format.crow_indices, layer.format.col_indices
    expected = exact(x, values, crow, col, bias, 2 * y.detach(), layer.conv)
    assert_close("y", y, expected[0], torch.float32)
    assert_close("dvalues", layer.format.values.grad, expected[2], torch.float32)


def test_gradcheck(device):
    conv = Conv((3, 2), (2, 1), (1, 1), (1, 2))
    x, values, crow, col, bias = make(1, 8, 4, 4, 4, conv, (4, 4), torch.float64, device)

    def f(x, values, bias):
        return block_sparse_conv2d(x, values, crow, col, bias, **names(conv), out_channels=4, activation="gelu")

    assert torch.autograd.gradcheck(f, (x, values, bias))


def test_opcheck(device):
    conv = Conv((3, 3), (2, 2), (1, 1))
    x, values, crow, col, bias = make(1, 16, 5, 5, 16, conv, (16, 16), device=device)
    images = x.detach().movedim(1, 3).contiguous().requires_grad_()
    opcheck(block_conv, (images, values, crow, col, bias, None, conv.numbers, 16, None))
    dy = torch.randn(1, 3, 3, 16, device=device, requires_grad=True)
    opcheck(block_conv_dx, (dy, values, crow, col, None, conv.numbers, 5, 5, 16))


def test_reference_kernel_is_the_format():
    _, values, crow, col, _ = make(1, 20, 4, 4, 30, Conv((3, 2)), (16, 16))
    weight = BSR(values, crow, col, (30, 6 * 20), 6)
    assert torch.equal(kernel(values, crow, col, (30, 20), Conv((3, 2))), dense(weight, Conv((3, 2))))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(16, 5, 5)}, r"x must be \(B, C, H, W\)"),
        ({"values": torch.zeros(3, 16)}, r"values must be \(nnz, tile_n, tile_c\)"),
        ({"crow": torch.zeros(9).int()}, r"crow_indices must be \(3,\)"),
        ({"bias": torch.zeros(40)}, r"bias must be \(out_channels,\)"),
        ({"x": torch.zeros(1, 16, 5, 5).half()}, "must share one of"),
        ({"kernel_size": 9}, "the output must have a pixel"),
        ({"stride": 0}, "must be positive pairs"),
        ({"residual": torch.zeros(1, 32, 3, 3)}, "residual must have the shape of the result"),
        ({"index": torch.zeros(5).int()}, r"index must be \(\d+,\) int32 on cpu, as conv_index makes it"),
        ({"activation": "tanh"}, "activation must be None or one of"),
    ],
)
def test_rejects(change, message):
    arrays = dict(
        zip(("x", "values", "crow", "col", "bias"), make(1, 16, 5, 5, 32, Conv((3, 3)), (16, 16)), strict=True)
    )
    options = {"kernel_size": 3, "padding": 1, "out_channels": 32} | {
        k: v for k, v in change.items() if k not in arrays
    }
    arrays |= {name: value for name, value in change.items() if name in arrays}
    with pytest.raises(ValueError, match=message):
        block_sparse_conv2d(*arrays.values(), **options)


def test_a_layer_keeps_the_result_of_torch(device):
    plain = nn.Conv2d(16, 32, 3, padding=1, device=device)
    layer = SparseConv2d.from_dense(plain, Block(16, 16), 0.0)
    x = torch.randn(1, 16, 6, 6, device=device)
    assert_close("y", layer(x), plain(x), torch.float32)
