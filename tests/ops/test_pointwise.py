"""A convolution of one pixel is the product of its pixels: the launches of a linear layer, and no copy of the images.

On a GPU that is only claimed.
"""

from functools import partial

import pytest
import torch

from bench import host
from bench.claimed import arguments, claimed
from smart_kernels import NM, Block, SparseConv2d, SparseLinear
from smart_kernels.ops import (
    block_sparse_conv2d,
    block_sparse_linear,
    masked_conv2d,
    masked_linear,
    semi_structured_conv2d,
    semi_structured_linear,
)
from tests.conftest import INTERPRETED

if INTERPRETED:
    pytest.skip("the interpreter has no driver", allow_module_level=True)

B, C, N, SIZE = 2, 64, 96, 8


def block_sparse():
    stored = SparseLinear(C, N, Block(32, 32), 0.5).format
    tensors = stored.crow_indices, stored.col_indices
    conv = partial(block_sparse_conv2d, kernel_size=1, out_channels=N, index=stored.index)
    return conv, partial(block_sparse_linear, out_features=N, index=stored.index), stored.values, tensors


def masked():
    weight, mask = torch.randn(N, C, requires_grad=True), torch.ones(3, 2)

    def conv(x, weight, *others, **options):
        return masked_conv2d(x, weight[..., None, None], *others, **options)

    return partial(conv, tile=(32, 32)), partial(masked_linear, tile=(32, 32)), weight, (mask,)


def semi_structured():
    stored = SparseLinear(C, N, NM(2, 4), 0.5).format
    options = {"n": 2, "m": 4}
    conv = partial(semi_structured_conv2d, kernel_size=1, **options)
    return conv, partial(semi_structured_linear, **options), stored.values, (stored.indices,)


def told(driver, call):
    """The kernels of a call, the launches themselves, and the kernels of torch."""
    for _ in range(host.WARM):
        call()
    driver.launches.clear()
    call()
    launches = [*driver.launches]
    with host.Ops() as ops:
        call()
    torchs = [op._schema.name for op in ops.seen if host.is_kernel(op)]
    return [driver.names[launch[4]] for launch in launches], launches, torchs


@pytest.mark.parametrize("make", [block_sparse, masked, semi_structured])
@pytest.mark.parametrize("pass_", ["fwd", "fwd+bwd"])
def test_a_pointwise_convolution_launches_what_the_linear_layer_does(make, pass_):
    conv, linear, weight, others = make()
    images = torch.randn(B, C, SIZE, SIZE).to(memory_format=torch.channels_last).requires_grad_()
    rows = images.detach().movedim(1, 3).flatten(0, 2).requires_grad_()
    assert rows.data_ptr() == images.data_ptr()

    def run(function, x, dy):
        y = function(x, weight, *others)
        return torch.autograd.grad(y, (x, weight), dy) if pass_ != "fwd" else y

    of_images = torch.randn(B, N, SIZE, SIZE).to(memory_format=torch.channels_last)
    of_rows = of_images.movedim(1, 3).flatten(0, 2)
    with claimed() as driver, torch.set_grad_enabled(pass_ != "fwd"):
        expected, _, torchs = told(driver, lambda: run(linear, rows, of_rows))
        found, launches, copies = told(driver, lambda: run(conv, images, of_images))
    assert found == expected and not any("conv" in name for name in found)
    assert copies == torchs
    assert any(images.data_ptr() in arguments(launch) for launch in launches)


@pytest.mark.parametrize("stride, copies", [(1, []), (2, ["aten::clone", "aten::_unsafe_view"])])
def test_a_layer_reads_images_as_they_lie_and_gathers_once_for_a_stride(stride, copies):
    layer = SparseConv2d(C, N, 1, Block(32, 32), 0.5, stride=stride)
    images = torch.randn(B, C, SIZE, SIZE).to(memory_format=torch.channels_last)
    with claimed() as driver, torch.no_grad():
        found, _, torchs = told(driver, lambda: layer(images))
        y = layer(images)
    assert (len(found), torchs) == (1, copies)
    assert y.is_contiguous(memory_format=torch.channels_last)
