"""2:4 layers in the order of a sparse tensor-core kernel under torch.compile: that kernel runs if eager mode has
verified it."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
import triton
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses import FakeTensorMode

from bench.codegen.compile import launchers
from smart_kernels import SparseConv2d, SparseLinear
from smart_kernels.formats import SemiStructured
from smart_kernels.ops import semi_structured_prune, tensor_core
from smart_kernels.ops.tensor_core import packed_linear, verify
from smart_kernels.reference.common import expand
from tests.ptx.launch import Machine, emulated

if triton.knobs.runtime.interpret:
    pytest.skip("PTX comes from the compiler", allow_module_level=True)

CPU, N, K = torch.device("cpu"), 36, 44
MORE = [pytest.param(kernel, marks=pytest.mark.slow) for kernel in tensor_core.KERNELS[1:]]
each_kernel = pytest.mark.parametrize("kernel", ["mma", *MORE])
ways = pytest.mark.parametrize("transposable", [True, False])


@pytest.fixture
def asked(monkeypatch):
    """Every kernel is right on a CPU, once it is verified: for which dtypes it has been."""
    found = []

    def right(device, kernel, config, shape, dtype):
        found.append(dtype)
        return True

    monkeypatch.setattr(verify, "_exact", set())
    monkeypatch.setattr(verify, "supported", lambda device, kernel: None)
    monkeypatch.setattr(verify, "_right", right)
    monkeypatch.setattr(tensor_core, "verified", functools.cache(tensor_core.verified.__wrapped__))
    return found


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()


def compiled(function):
    """The function, and the operators of this package in each graph made of it: forward, then backward."""
    graphs = []

    def record(graph, inputs):
        names = [node.target.name() for node in graph.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
        graphs.append([name.split("::")[1] for name in names if name.startswith("smart_kernels::")])
        return make_boxed_func(graph)

    return torch.compile(function, backend=aot_autograd(fw_compiler=record, bw_compiler=record), fullgraph=True), graphs


def dense_weight(dtype):
    values, indices, *_ = semi_structured_prune(torch.randint(-4, 5, (N, K)).to(dtype), transposable=True)
    return expand(values, indices, 2, 4, K)


def layer(kernel, transposable=True, dtype=torch.bfloat16):
    return SparseLinear.from_format(
        SemiStructured.from_dense(dense_weight(dtype), (1, 1), layout=kernel, transposable=transposable),
        torch.randint(-4, 5, (N,)).to(dtype),
    )


def step(run, layer, x):
    """Integers, so that sums are exact: y and the gradients."""
    x = x.clone().requires_grad_()
    y = run(x)
    return y, *torch.autograd.grad((y * y.detach().sign()).sum(), (x, *layer.parameters()))


def integers(*size, dtype=torch.bfloat16):
    return torch.randint(-3, 4, size).to(dtype)


# ---- the kernel is in the graph


@each_kernel
def test_inference(kernel, asked):
    chosen, x = layer(kernel), integers(2, 5, K)
    run, graphs = compiled(lambda x: chosen(x))
    with torch.no_grad():
        y = run(x)
    assert graphs == [["sparse_tensor_linear"]]
    assert torch.equal(y, F.linear(x.double(), chosen.weight.double(), chosen.bias.double()).bfloat16())


@each_kernel
@ways
def test_training_both_ways(kernel, transposable, asked):
    chosen, x = layer(kernel, transposable), integers(2, 5, K)
    run, graphs = compiled(lambda x: chosen(x))
    got, expected = step(run, chosen, x), step(chosen, chosen, x)
    assert graphs == [["sparse_tensor_linear"], ["sparse_tensor_linear_dx", "sparse_tensor_kept"]]
    assert all(map(torch.equal, got, expected))
    dense = [x.double().requires_grad_(), chosen.weight.detach().double(), chosen.bias.double()]
    y = F.linear(*dense)
    y.backward(got[0].double().sign())
    assert torch.equal(got[0], y.bfloat16()) and torch.equal(got[1], dense[0].grad.bfloat16())


@each_kernel
def test_one_graph_for_any_number_of_rows(kernel, asked, monkeypatch):
    monkeypatch.setattr(packed_linear, "TRITON_DEVICES", ("cpu",))  # strides as the launcher gives them
    chosen = layer(kernel)
    run, graphs = compiled(lambda x: chosen(x))
    for rows in (5, 3, 9):
        x = integers(rows, K)
        torch._dynamo.mark_dynamic(x, 0)
        with torch.no_grad():
            assert torch.equal(run(x), F.linear(x.double(), chosen.weight.double(), chosen.bias.double()).bfloat16())
    assert graphs == [["sparse_tensor_linear"]]


def test_pointwise_convolutions(asked):
    conv = torch.nn.Conv2d(K, N, 1, bias=False)
    format = SemiStructured.from_dense(dense_weight(torch.bfloat16), (1, 1), layout="mma", transposable=True)
    chosen, x = SparseConv2d.from_format(format, None, conv), integers(2, K, 3, 2)
    run, graphs = compiled(lambda x: chosen(x))
    got, expected = step(run, chosen, x), step(chosen, chosen, x)
    assert graphs[0] == ["sparse_tensor_linear"] and all(map(torch.equal, got, expected))


def test_autocast_decides_the_dtype(asked):
    chosen = layer("mma")
    chosen.float()
    run, graphs = compiled(lambda x: chosen(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, expected = (step(f, chosen, integers(3, K, dtype=torch.float32)) for f in (run, chosen))
    assert got[0].dtype == torch.bfloat16 and graphs[0] == ["sparse_tensor_linear"] and set(asked) == {torch.bfloat16}
    assert [t.dtype for t in got] == [t.dtype for t in expected]


def test_what_is_compiled_runs_the_kernel(asked):
    """The CPU stands for a GPU: PTX, interpreted."""
    chosen, x = layer("mma"), integers(5, K)
    expected, machine = step(chosen, chosen, x), Machine()
    run, _ = compiled(lambda x: chosen(x))
    with emulated("sm_80", machine), launchers(), tensor_core.forced("mma", tensor_core.tuner("mma").configs[0]):
        got = step(run, chosen, x)
    names = [launch.src.fn.__name__ for launch in machine.compiled]
    assert names == ["sparse_mma_kernel", "sparse_gather_kernel"] * 2 and all(map(torch.equal, got, expected))


@pytest.mark.parametrize("kernel", ["mma", "wgmma_ss", *MORE[1:]])
@pytest.mark.parametrize("transposable", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_tracer_knows_the_strides(kernel, transposable, asked, monkeypatch):
    """N = 36 and K = 44 are not divisible by 8; TMA writes rows of whole 16 bytes."""
    monkeypatch.setattr(packed_linear, "TRITON_DEVICES", ("cpu",))
    chosen = layer(kernel, transposable).format
    linear, dx = torch.ops.smart_kernels.sparse_tensor_linear, torch.ops.smart_kernels.sparse_tensor_linear_dx
    forms = chosen.values.detach(), chosen.indices
    calls = [(linear, (integers(5, K), *forms, None, chosen.turned, kernel, N))]
    if transposable:  # the other one is the portable kernel
        calls += [(dx, (integers(5, N), *forms, chosen.turned, kernel, K))]
    for op, args in calls:
        config = tensor_core.tuner(kernel).configs[0]
        target = emulated("sm_80" if kernel == "mma" else "sm_90", Machine())
        with target, launchers(), tensor_core.forced(kernel, config):
            real = op(*args)
        with FakeTensorMode() as mode:
            fake = op(*(mode.from_tensor(t) if isinstance(t, torch.Tensor) else t for t in args))
        assert real.stride() == fake.stride() and real.shape == fake.shape and real.dtype == fake.dtype


# ---- only what eager mode has verified


def test_what_nobody_verified_multiplies_the_saved_form_until_somebody_has(asked):
    chosen, x = layer("mma"), integers(5, K)
    verify._exact.clear()
    tensor_core.verified.cache_clear()
    before, (run, graphs) = len(asked), compiled(lambda x: chosen(x))
    got = step(run, chosen, x)
    assert graphs[0] == ["semi_structured_linear"] and len(asked) == before, "a tracer verifies nothing"
    expected = step(chosen, chosen, x)  # verifies
    again = step(run, chosen, x)
    assert graphs[2] == ["sparse_tensor_linear"] and len(graphs) == 4 and len(asked) > before
    assert all(map(torch.equal, got, expected)) and all(map(torch.equal, again, expected))


def test_what_is_wrong_is_not_run(asked, monkeypatch):
    plain = SemiStructured.from_dense(dense_weight(torch.bfloat16), (1, 1), transposable=True)
    monkeypatch.setattr(verify, "_right", lambda *_: False)
    stored = SemiStructured(*plain.state_dict().values(), (N, K), layout="mma", transposable=True)
    x, (run, graphs) = integers(5, K), compiled(lambda x: stored.linear(x))
    y = stored.linear(x)
    assert tensor_core.verified(CPU, "mma", torch.bfloat16) and not tensor_core.exact(CPU, "mma", torch.bfloat16)
    assert torch.equal(run(x), y) and graphs[0] == ["semi_structured_linear"]


# ---- the metadata of the transpose is a buffer


@each_kernel
def test_compiled_code_reads_what_was_loaded(kernel, asked):
    chosen, other, x = layer(kernel), layer(kernel), integers(5, K)
    run, graphs = compiled(lambda x: chosen(x))
    step(run, chosen, x)
    chosen.load_state_dict(other.state_dict())
    assert torch.equal(chosen.format.turned, other.format.turned)
    got, expected = step(run, chosen, x), step(other, other, x)
    assert len(graphs) == 2 and all(map(torch.equal, got, expected))


def test_the_buffer_travels_but_is_not_saved(asked):
    stored = layer("mma").format
    assert "turned" not in stored.state_dict() and stored.turned is stored._turned()
    twin = copy.deepcopy(stored)
    assert torch.equal(twin.turned, stored.turned) and twin.turned is not stored.turned
    assert [name for name, _ in stored.named_buffers()] == ["indices", "kept", "turned"]
    assert stored.turned.nbytes == 128 * 64 // 8, "K and N as padded"
    assert stored.to("meta").turned.is_meta
    plain = layer("mma", transposable=False).format
    assert plain.turned is None and [name for name, _ in plain.named_buffers()] == ["indices", "kept"]


def test_indices_changed_in_place_are_seen_by_the_next_gradient_in_eager_mode(asked):
    chosen, other, x = layer("mma"), layer("mma"), integers(5, K)
    run, _ = compiled(lambda x: chosen(x))
    step(run, chosen, x)
    with torch.no_grad():
        for name in ("values", "indices"):
            getattr(chosen.format, name).copy_(getattr(other.format, name))
        chosen.bias.copy_(other.bias)
    assert not torch.equal(chosen.format.turned, other.format.turned)
    expected = step(chosen, chosen, x)
    assert torch.equal(chosen.format.turned, other.format.turned)
    assert all(map(torch.equal, step(run, chosen, x), expected))
