"""On a GPU a compiler makes one graph for all batches of a class: no op asks for the number itself."""

import pytest
import torch
from torch._dynamo.source import ConstantSource
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from bench.claimed import claimed
from smart_kernels.ops.block_sparse import conv_operators as conv
from smart_kernels.ops.block_sparse import linear
from smart_kernels.ops.masked import conv_operators as masked
from smart_kernels.ops.semi_structured import conv2d as nm_conv
from smart_kernels.ops.semi_structured import linear as nm
from tests.conftest import INTERPRETED

pytestmark = pytest.mark.skipif(INTERPRETED, reason="the interpreter has no driver")
GEOMETRY = [3, 3, 1, 1, 1, 1, 1, 1]
N, K, NNZ, TILE = 256, 320, 7, (32, 32)


def empty(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="cuda")


def stored(rows):
    """Blocks in so many block rows: values, crow_indices and col_indices."""
    return empty(NNZ, *TILE), empty(rows + 1, dtype=torch.int32), empty(NNZ, dtype=torch.int32)


def half(rows, columns):
    """A 2:4 weight: values and indices."""
    return empty(rows, columns // 2), empty(rows, columns // 8, dtype=torch.uint8)


def masked_weight():
    """A weight and its mask."""
    return empty(64, 9 * 64), empty(2, 18, dtype=torch.float32)


CASES = {  # name -> of the batch: the op and its tensors
    "linear": lambda M: (lambda *a: linear._block_sparse_linear(*a, None, N), empty(M, K), *stored(8)),
    "linear dx": lambda M: (lambda *a: linear.block_sparse_linear_dx(*a, K), empty(M, N), *stored(8)),
    "linear dvalues": lambda M: (
        lambda dy, x, values, *a: linear._block_sparse_linear_dvalues(dy, x, *a, *TILE),
        *(empty(M, N), empty(M, K), *stored(8)),
    ),
    "conv": lambda B: (lambda *a: conv.block_conv(*a, None, None, GEOMETRY, N, None), empty(B, 8, 8, K), *stored(8)),
    "conv dx": lambda B: (
        lambda *a: conv.block_conv_dx(*a, None, GEOMETRY, 8, 8, K),
        *(empty(B, 8, 8, N), *stored(8)),
    ),
    "conv dvalues": lambda B: (
        lambda dy, x, values, *a: conv.block_conv_dvalues(dy, x, *a, GEOMETRY, *TILE),
        *(empty(B, 8, 8, N), empty(B, 8, 8, K), *stored(8)),
    ),
    "masked conv": lambda B: (
        lambda *a: masked.masked_conv(*a, None, GEOMETRY, *TILE, 0.0, False),
        *(empty(B, 8, 8, 64), *masked_weight()),
    ),
    "masked conv dx": lambda B: (
        lambda *a: masked.masked_conv_dx(*a, GEOMETRY, 8, 8, 64, *TILE, 0.0),
        *(empty(B, 8, 8, 64), *masked_weight()),
    ),
    "nm": lambda M: (
        lambda *a: nm._semi_structured_linear(*a, None, None, 2, 4, None, False),
        *(empty(M, K), *half(N, K)),
    ),
    "nm conv": lambda B: (
        lambda *a: nm_conv._conv(*a, None, None, GEOMETRY, 2, 4, None),
        *(empty(B, 8, 8, K), *half(N, 9 * K)),
    ),
}


@pytest.mark.parametrize("size", [8, 3000])
@pytest.mark.parametrize("name", CASES)
def test_it_stays_dynamic(name, size):
    env = ShapeEnv()
    with claimed(), FakeTensorMode(shape_env=env):
        symbol = env.create_symbol(size, ConstantSource("size"), dynamic_dim=DimDynamic.DYNAMIC)
        op, *tensors = CASES[name](env.create_symintnode(symbol, hint=size))
        graph = aot_export_joint_simple(lambda *args: (op(*args),), tensors, trace_joint=False).graph
    assert not env.replacements, "the batch became a number"
    seen = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert sum("triton_kernel_wrapper" in each for each in seen) == (3 if "masked" in name else 1)
    assert not [each for each in seen if "smart_kernels" in each]
