"""A compiler sees the launches of the ops on a GPU, and takes no tensor that is only read for written."""

import re

import pytest
import torch
import triton
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.claimed import claimed
from smart_kernels.kernels.block_sparse.decode import block_decode_kernel
from smart_kernels.ops.block_sparse import conv_operators, linear
from smart_kernels.ops.block_sparse.tile_matmul import TileProduct, plan_tiles
from smart_kernels.ops.common.launch import NOTHING
from tests.ptx.launch import Machine, emulated

from ...conftest import INTERPRETED

pytestmark = pytest.mark.skipif(INTERPRETED, reason="the interpreter has no driver")
GEOMETRY = [3, 3, 1, 1, 1, 1, 1, 1]


def empty(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="cuda")


def indices(rows, nnz):
    return empty(rows + 1, dtype=torch.int32), empty(nnz, dtype=torch.int32)


def shows_one_launch(op, *args):
    graph = aot_export_joint_simple(lambda *args: (op(*args),), args, trace_joint=False).graph
    seen = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert sum("triton_kernel_wrapper" in name for name in seen) == 1
    assert not [name for name in seen if "smart_kernels" in name or "copy_" in name.replace("_to_copy", "")]
    assert seen.count("aten.sort.stable") <= 1, "lists are made once"


@pytest.mark.parametrize("M, tile", [(8, (32, 32)), (256, (32, 32)), (256, (64, 64)), (256, (24, 160))], ids=str)
@pytest.mark.parametrize("indexed", [True, False])
def test_linear(M, tile, indexed):
    N, K, nnz = 256, 320, 7
    rows, cols = -(-N // tile[0]), -(-K // tile[1])
    with claimed(), FakeTensorMode():
        x, dy, values, bias = empty(M, K), empty(M, N), empty(nnz, *tile), empty(N)
        crow, col = indices(rows, nnz)
        index = [empty(rows + 2 * (cols + nnz), dtype=torch.int32)] * indexed
        forward = linear._block_sparse_linear
        shows_one_launch(lambda *args: forward(*args[:5], N, *args[5:]), x, values, crow, col, bias, *index)
        dx = linear.block_sparse_linear_dx
        shows_one_launch(lambda *args: dx(*args[:4], K, *args[4:]), dy, values, crow, col, *index)
        if tile[0] != 24:  # joining blocks ends with contiguous(), which a build for the CPU refuses a fake of a GPU
            shows_one_launch(lambda *args: linear._block_sparse_linear_dvalues(*args, *tile), dy, x, crow, col)


@pytest.mark.parametrize("tile", [(32, 32), (24, 136)], ids=str)
def test_convolution(tile):
    with claimed(), FakeTensorMode():
        x, values, dy = empty(2, 8, 8, 160), empty(16, *tile), empty(2, 8, 8, 96)
        crow, col = indices(96 // tile[0], 16)
        lists = values, crow, col
        op = conv_operators.block_conv
        shows_one_launch(lambda *args: op(*args, None, None, GEOMETRY, 96, "relu"), x, *lists)
        op_dx = conv_operators.block_conv_dx
        shows_one_launch(lambda *args: op_dx(*args, None, GEOMETRY, 8, 8, 160), dy, *lists)
        op_dvalues = conv_operators.block_conv_dvalues
        if tile[0] != 24:
            shows_one_launch(lambda *args: op_dvalues(*args, GEOMETRY, *tile), dy, x, crow, col)


class Compiled(Machine):
    """A GPU on which nothing runs."""

    def launch(self, compiled, values, grid):
        self.compiled.append(compiled)


def test_nothing_is_touched_before_the_launch_before_has_ended():
    product = TileProduct(64, None, None, "ieee", False)
    x, values = torch.empty(16, 2048, dtype=torch.bfloat16), torch.empty(64, 64, 64, dtype=torch.bfloat16)
    rows = (*torch.zeros(2, 1, dtype=torch.int32), torch.zeros(64, dtype=torch.int32))
    nothing = (NOTHING,) * 3
    with emulated("sm_90", Compiled()) as gpu:
        plan_tiles(x, values, *rows, *nothing, product)(x, values, *rows, *nothing)
    assert [compiled.name for compiled in gpu.compiled] == ["block_decode_kernel", "sum_pieces_kernel"]
    for compiled in gpu.compiled:
        ptx = compiled.asm["ptx"]
        touched = re.search(r"(ld|st)\.global|cp\.async", ptx).start()
        assert ptx.index("griddepcontrol.wait") < touched and compiled.metadata.launch_pdl


@pytest.mark.parametrize(
    ("tile", "listed", "aligned", "asks"),
    [
        ((64, 64), False, True, 1),
        ((16, 16), False, True, 1),
        ((64, 64), True, True, 0),  # tiles of a row lie anywhere
        ((64, 64), False, False, 0),
        ((128, 64), False, True, 0),  # two programs share a tile
        ((3, 5), False, True, 0),  # of 30 bytes
    ],
    ids=str,
)
def test_w_is_asked_for_once_and_ahead_where_tiles_follow_each_other(tile, listed, aligned, asks, monkeypatch):
    config = triton.Config({"AHEAD": True}, num_warps=4, num_stages=4)
    monkeypatch.setattr(block_decode_kernel, "configs", [config])
    rows = 64 * tile[0]
    x, values = torch.empty(16, 2048, dtype=torch.bfloat16), torch.empty(64, *tile, dtype=torch.bfloat16)
    lists = (*torch.zeros(2, 64, dtype=torch.int32), torch.zeros(64, dtype=torch.int32))
    others = torch.zeros(64, dtype=torch.int32) if listed else NOTHING, NOTHING, NOTHING
    with emulated("sm_90", Compiled()) as gpu:
        plan_tiles(x, values, *lists, *others, TileProduct(rows, None, None, "ieee", aligned))(
            x, values, *lists, *others
        )
    ptx = gpu.compiled[0].asm["ptx"]
    found = [ask.start() for ask in re.finditer("cp.async.bulk.prefetch.L2.global", ptx)]
    assert len(found) == asks
    if asks:
        assert ptx.index("griddepcontrol.wait") < found[0] < re.search(r"cp\.async\.c[ag]", ptx).start()
