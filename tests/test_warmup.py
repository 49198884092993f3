"""warmup: the first call after it finds everything ready."""

import importlib.util

import pytest
import torch
from torch import nn

from smart_kernels import Block, SparseConv2d, SparseLinear, warmup
from smart_kernels.formats import FORMATS, simd
from smart_kernels.nn import sparse_layer


def model(name):
    layers = [nn.Linear(64, 64), nn.Linear(64, 32)]
    for layer in layers:
        layer.weight.data[:, 32:] = 0
    return nn.Sequential(*(sparse_layer(layer, FORMATS[name].from_dense(layer.weight, (32, 32))) for layer in layers))


@pytest.mark.parametrize("name", ["packed", "compact", "ell", "jit"])
@pytest.mark.parametrize("shapes", [[3, 5], [(3, 64), (1, 5, 64)]], ids=["rows", "inputs"])
def test_prepares_every_layer(name, shapes):
    if name == "jit" and not importlib.util.find_spec("llvmlite"):
        pytest.skip("needs llvmlite")
    sparse = model(name).train()
    sparse[1].eval()
    warmup(sparse, shapes)
    ready = [layer.format._cache for layer in sparse]
    assert None not in ready and [layer.training for layer in sparse] == [True, False]
    compiled = simd._compiled.cache_info().misses
    with torch.no_grad():
        for rows in (3, 5):
            sparse(torch.randn(rows, 64))
    assert all(layer.format._cache is cache for layer, cache in zip(sparse, ready, strict=True))
    assert simd._compiled.cache_info().misses == compiled


def test_convolutions_need_the_input():
    conv = nn.Sequential(
        SparseConv2d(32, 32, 3, Block(16, 16), 0.5), nn.Flatten(), SparseLinear(32, 16, Block(16, 16), 1.0)
    )
    warmup(conv, [(2, 32, 3, 3)])
    with pytest.raises(ValueError, match="for the convolution 0, got M = 4"):
        warmup(conv, [4])
    assert not conv[0].bias.grad and not torch.is_inference_mode_enabled()
