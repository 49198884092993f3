"""An op registered the cheap way: the dispatcher chooses, gradients and fakes are right, compilers see the launches."""

import operator

import pytest
import torch
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
from torch._subclasses.fake_tensor import FakeTensorMode

from bench import host
from bench.claimed import claimed
from smart_kernels.kernels.common.block_matmul import block_matmul_kernel
from smart_kernels.ops import masked_linear
from smart_kernels.ops.masked import linear as ops

from ...conftest import INTERPRETED
from ...util import assert_close

TILE = 16, 16
compiled = pytest.mark.skipif(INTERPRETED, reason="the interpreter has no driver")


def inputs(device="cpu", dtype=torch.float32, grad=True):
    shapes = (40, 64), (48, 64), (3, 4), (48,)
    x, weight, mask, bias = (torch.rand(shape, device=device, dtype=dtype, requires_grad=grad) for shape in shapes)
    return x, weight, mask, bias


def call(x, weight, mask, bias):
    return masked_linear(x, weight, mask, bias, tile=TILE)


def forward(*args):
    return ops._masked_linear(*args, *TILE, 0.0, False)


def backward(*args):
    return ops._masked_linear_backward(*args, *TILE, 0.0, False, True, True, None)


def test_opcheck(device):
    args = inputs(device)
    torch.library.opcheck(ops._masked_linear, (*args, *TILE, 0.0, False))
    with torch.no_grad():
        dy = torch.randn(40, 48, device=device)
        rest = (*inputs(device, grad=False)[:3], *TILE, 0.0, False, True, True, torch.float32)
        torch.library.opcheck(ops._masked_linear_backward, (dy, *rest))


def test_schema_is_that_of_the_annotations():
    schema = str(ops._masked_linear._schema)
    assert "Tensor x, Tensor weight, Tensor mask, Tensor? bias, SymInt tile_n, SymInt tile_k, float eps" in schema


def test_what_has_no_gradient_says_so():
    x, weight, mask, _ = inputs()
    dy = torch.randn(40, 48, requires_grad=True)
    dweight, *_ = backward(dy, x, weight, mask)
    with pytest.raises(RuntimeError, match="masked_linear_backward is the end of differentiation"):
        dweight.sum().backward()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_in_one_graph(backend, device):
    args = inputs(device)
    dy = torch.randn(40, 48, device=device)
    torch._dynamo.reset()
    fast = torch.compile(call, fullgraph=True, backend=backend)
    results = [torch.autograd.grad(f(*args), args, dy) for f in (call, fast)]
    for ours, expected in zip(*results, strict=True):
        assert_close("gradient", ours, expected, torch.float32)


def test_dynamo_leaves_kernels_alone():
    """They are called from C++, which it does not see, in frames that it does."""
    seen = []

    def backend(graph, example):
        seen.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    @torch._dynamo.disable(recursive=False)
    def eager(*args):
        return ops._masked_linear(*args, *TILE, 0.0, False)

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(lambda *args: eager(*args) + 1, backend=backend)(*inputs(grad=False))
    assert seen == [operator.add]


def nodes(function, *args) -> list:
    graph = aot_export_joint_simple(function, args, trace_joint=False)
    return [node for node in graph.graph.nodes if node.op == "call_function"]


@compiled
@pytest.mark.parametrize("where", ["cuda", "cpu"])
def test_a_graph_shows_launches_on_a_gpu_and_the_op_on_a_cpu(where):
    with claimed(), FakeTensorMode():
        args = inputs(where, torch.bfloat16, grad=False)
        dy = torch.empty(40, 48, device=where, dtype=torch.bfloat16)
        ahead = nodes(lambda *args: (forward(*args),), *args)
        back = nodes(backward, dy, *args[:3])
    ours = [str(node.target) for node in (*ahead, *back) if "smart_kernels" in str(node.target)]
    kernels = [node for node in (*ahead, *back) if "triton_kernel_wrapper" in str(node.target)]
    if where == "cpu":
        assert len(ours) == 2 and not kernels
        return
    assert not ours and len(kernels) == 4
    changed = [node for node in ahead if "copy_" in str(node.target)]
    assert not changed, "no input is taken for written"
    tuned = kernels[2]
    assert "x_ptr" in tuned.kwargs["kwargs"] and len(tuned.kwargs["grid"]) > 1, "a compiler may tune"


@compiled
def test_a_graph_has_the_configuration_that_was_tuned():
    with claimed():
        x, *others = inputs(dtype=torch.bfloat16, grad=False)
        x = torch.cat([x.flatten(), x[0]])[1 : 1 + x.numel()].view_as(x)  # a graph knows of no alignment either
        with torch.no_grad():
            call(x, *others)
        best = block_matmul_kernel.best_config
        with FakeTensorMode():
            args = inputs("cuda", torch.bfloat16, grad=False)
            ahead = nodes(lambda *args: (forward(*args),), *args)
    (kernel,) = [node.kwargs for node in ahead if "x_ptr" in node.kwargs.get("kwargs", {})]
    configs = kernel_side_table.get_kernel(kernel["kernel_idx"]).configs
    assert [c.kwargs for c in configs] == [best.kwargs] and len(kernel["grid"]) == 1


@compiled
def test_what_a_call_costs_the_host():
    """Counts, so the same on every machine; ``python -m bench host`` has them for all ops."""
    x, weight, mask, bias = inputs()
    with claimed() as driver:
        for run, calls, launches in (
            (torch.no_grad()(lambda: call(x, weight, mask, bias)), 120, 3),
            (host.step(lambda: call(x, weight, mask, bias), [x, weight, mask, bias]), 300, 7),
        ):
            for _ in range(host.WARM):
                run()
            driver.launches.clear()
            assert host.counted(run) <= calls and len(driver.launches) == launches
