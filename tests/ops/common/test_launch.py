"""A kept launch hands the driver what ``kernel[grid]`` hands it, on a GPU that is only claimed."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.tools.tensor_descriptor import TensorDescriptor

from bench import claimed as claim
from bench.claimed import arguments, claimed
from bench.codegen.compile import ClaimedDriver
from smart_kernels.kernels.common.block_grad import block_grad_kernel
from smart_kernels.ops.common import kept as recorded
from smart_kernels.ops.common import recording
from smart_kernels.ops.common.arguments import overlapped
from smart_kernels.ops.common.launch import TENSOR, Descriptor, Launch, traced

from ...conftest import INTERPRETED

compiled = pytest.mark.skipif(INTERPRETED, reason="the interpreter has no driver")


@triton.jit
def copy_kernel(x_ptr, none_ptr, y_ptr, n, stride, scale, EVEN: tl.constexpr, BLOCK: tl.constexpr = 16):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + offs, tl.load(x_ptr + offs * stride, mask=offs < n) * scale, mask=offs < n)


@triton.jit
def tiled_kernel(x_desc, y_ptr, n, BLOCK: tl.constexpr):
    tl.store(y_ptr + tl.arange(0, BLOCK), tl.sum(x_desc.load([0, 0]), 0))


def same(driver, kept: Launch, tensors, kernel, grid, args, constants) -> list:
    """Both launches; asserts that they agree in all but what only hooks read."""
    before = len(driver.launches)
    kept(*tensors)
    kernel[grid](*args, **constants)
    ours, theirs = driver.launches[before:]
    assert told(ours) == told(theirs)
    return told(ours)


def flat(launch) -> list:
    """The arguments of a launch, those of the kernel among them."""
    return [*launch[:-1], *launch[-1]] if isinstance(launch[-1], (tuple, list)) else [*launch]


def told(launch) -> list:
    """Record what a launch tells the driver."""
    for_hooks = triton.knobs.HookChain, triton.compiler.compiler.LazyDict
    return [None if isinstance(value, for_hooks) else value for value in arguments(launch)]


@compiled
@given(
    offsets=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6),
    stride=st.integers(1, 33),
    n=st.integers(1, 64),
    warps=st.sampled_from([1, 4]),
)
def test_arguments_are_those_of_triton(offsets, stride, n, warps):
    x, y = torch.zeros(4096), torch.zeros(4096, dtype=torch.bfloat16)
    grid, values, constants = (triton.cdiv(n, 16), 2), (n, stride, 0.5), {"EVEN": n % 16 == 0, "num_warps": warps}
    kept = Launch(copy_kernel, grid, TENSOR, None, TENSOR, *values, **constants)
    with claimed() as driver:
        for a, b in [*offsets, *offsets]:
            tensors = x[a:], y[b:]
            args = (tensors[0], None, tensors[1], *values)
            same(driver, kept, tensors, copy_kernel, grid, args, constants)
        assert all(kept.kept.values()), "every launch was understood"


@compiled
@pytest.mark.parametrize("pdl", [False, True])
def test_an_overlapped_launch_stays_one(pdl):
    x, y = torch.zeros(64), torch.zeros(64)
    constants = {"EVEN": False, "launch_pdl": pdl}
    kept = Launch(copy_kernel, (1,), TENSOR, None, TENSOR, 1, 1, 1.0, **constants)
    with claimed() as driver:
        for _ in range(2):
            told = same(driver, kept, (x, y), copy_kernel, (1,), (x, None, y, 1, 1, 1.0), constants)
            assert sum(value is True for value in told) == pdl, "no other flag of the launch is set"
        assert all(kept.kept.values())


@compiled
@pytest.mark.parametrize(("target", "able"), [("sm_80", False), ("sm_90", True), ("sm_120", True), ("gfx942", False)])
def test_where_a_launch_is_set_up_while_another_ends(target, able, monkeypatch):
    monkeypatch.setattr(driver, "_active", ClaimedDriver(target))
    assert overlapped() == ({"OVERLAPPED": True, "launch_pdl": True} if able else {"OVERLAPPED": False})
    with traced():
        assert overlapped() == {"OVERLAPPED": False}, "a compiler launches by itself"


@compiled
def test_a_tensor_may_be_given_twice():
    x, y = torch.zeros(64), torch.zeros(64)
    kept = Launch(copy_kernel, (1,), TENSOR, None, TENSOR, 1, 1, 1.0, EVEN=False)
    with claimed() as driver:
        for a, b in ((x, x), (x, y), (y, x)):
            told = same(driver, kept, (a, b), copy_kernel, (1,), (a, None, b, 1, 1, 1.0), {"EVEN": False})
            assert told[-8:-5] == [a.data_ptr(), None, b.data_ptr()]


@compiled
def test_the_first_launch_is_launched_once():
    x = torch.zeros(64)
    kept = Launch(copy_kernel, (3,), TENSOR, None, TENSOR, 1, 1, 1.0, EVEN=False)
    with claimed() as driver:
        kept(x, x)
        assert len(driver.launches) == 1


@compiled
def test_a_tuned_kernel_keeps_what_its_tuner_chose():
    dy, x = torch.zeros(96, 64, dtype=torch.bfloat16), torch.zeros(96, 32, dtype=torch.bfloat16)
    start, end, cols = torch.tensor([[0, 1], [1, 2], [0, 0]], dtype=torch.int32)
    grad = torch.zeros(2, 32, 32)
    values = 96, 64, 32, *dy.stride(), *x.stride(), 256, 1
    constants = {"STRIDE_N": 32, "PARTS_N": 1, "STRIDE_K": 32, "PARTS_K": 1, "PRECISION": "ieee"}
    constants |= {"EVEN_N": True, "EVEN_K": True, "WHOLE_COPIES": True}
    constants |= {"BLOCK_N": 32, "BLOCK_K": 32}
    kept = Launch(block_grad_kernel, (2,), *[TENSOR] * 6, *values, **constants)
    tensors = dy, x, start, end, cols, grad
    with claimed() as driver:
        for _ in range(3):
            same(driver, kept, tensors, block_grad_kernel, (2,), (*tensors, *values), constants)
        assert all(kept.kept.values())


@compiled
def test_descriptors_are_made_anew_for_other_addresses():
    x, y = torch.zeros(4, 32, 64, dtype=torch.float16), torch.zeros(64)

    def descriptor(tensor):
        return TensorDescriptor(tensor, [32, 64], [64, 1], [16, 64])

    kept = Launch(tiled_kernel, (1,), Descriptor(descriptor), TENSOR, 3, BLOCK=64)
    with claimed() as driver:
        for part in (0, 1, 0, 1):
            tensors = x[part], y
            found = same(driver, kept, tensors, tiled_kernel, (1,), (descriptor(x[part]), y, 3), {"BLOCK": 64})
            maps = [value for value in found if isinstance(value, tuple) and value[0] == "tensor map"]
            assert [m[1] for m in maps] == [x[part].data_ptr()]
        assert len(kept.kept) == 1 and all(kept.kept.values())  # one record for any address


@compiled
def test_the_stream_is_read_at_each_call(monkeypatch):
    x = torch.zeros(64)
    kept = Launch(copy_kernel, (1,), TENSOR, None, TENSOR, 1, 1, 1.0, EVEN=False)
    with claimed() as driver:
        streams = iter(range(100, 200))
        monkeypatch.setattr(driver, "get_current_stream", lambda device: next(streams))
        for _ in range(3):
            kept(x, x)
        found = [launch[3] for launch in driver.launches]
        assert len(set(found)) == 3 and min(found) >= 100


@compiled
def test_hooks_of_a_profiler_are_called(monkeypatch):
    x, seen = torch.zeros(64), []
    kept = Launch(copy_kernel, (1,), TENSOR, None, TENSOR, 1, 1, 1.0, EVEN=False)
    hook = triton.knobs.runtime.launch_enter_hook
    with claimed() as driver:
        kept(x, x)
        kept(x, x)
        monkeypatch.setattr(hook, "calls", [seen.append])
        kept(x, x)
        assert len(driver.launches) == 3 and len(seen) == 1


def newer(self, grid, stream, function, *args):
    """A launcher that begins in another way."""


def hidden(self, gridX, gridY, gridZ, stream, function, *args):
    """A launcher that hands on something else than it was given."""
    self.launch(gridX, str(stream), function, args)


@compiled
@pytest.mark.parametrize("call", [newer, hidden])
def test_an_unknown_launcher_is_not_understood(call, monkeypatch):
    x, y = torch.zeros(64), torch.zeros(64)
    with claimed() as driver:
        again = lambda: copy_kernel[(1,)](x, None, y, 1, 1, 1.0, EVEN=False)  # noqa: E731
        found = again()
        assert recorded.understood(found, again, [x, y]) is not None
        before = len(driver.launches)
        monkeypatch.setattr(type(found.run), "__call__", call)
        assert recorded.understood(found, again, [x, y]) is None
        assert len(driver.launches) == before, "nothing was launched to find out"


@compiled
@pytest.mark.parametrize("name", ["global_scratch_size", "profile_scratch_size", "gsan_enabled", "of_a_newer_triton"])
def test_a_launch_with_something_of_its_own_is_not_kept(name):
    x, y = torch.zeros(64), torch.zeros(64)
    with claimed():
        again = lambda: copy_kernel[(1,)](x, None, y, 1, 1, 1.0, EVEN=False)  # noqa: E731
        found = again()
        assert recorded.understood(found, again, [x, y]) is not None
        setattr(found.run, name, 128)
        assert recorded.understood(found, again, [x, y]) is None


@compiled
def test_what_is_not_understood_is_launched_by_triton(monkeypatch):
    x, y = torch.zeros(64), torch.zeros(64)
    monkeypatch.setattr(recorded, "HEAD", ("grid",))
    kept = Launch(copy_kernel, (1,), TENSOR, None, TENSOR, 1, 1, 1.0, EVEN=False)
    with claimed() as driver:
        for tensors in ((x, y), (y, x), (x[1:], y)):
            args = (tensors[0], None, tensors[1], 1, 1, 1.0)
            same(driver, kept, tensors, copy_kernel, (1,), args, {"EVEN": False})
        assert list(kept.kept.values()) == [None, None]


@compiled
def test_a_function_before_each_launch_is_not_left_out(monkeypatch):
    x, seen = torch.zeros(64), []
    kept = Launch(copy_kernel, (1,), TENSOR, None, TENSOR, 1, 1, 1.0, EVEN=False)
    monkeypatch.setattr(copy_kernel, "pre_run_hooks", [lambda *args, **constants: seen.append(args)])
    with claimed():
        for _ in range(3):
            kept(x, x)
    assert len(seen) == 3


@compiled
def test_amd_is_left_to_triton(monkeypatch):
    x, y = torch.zeros(64), torch.zeros(64)
    with claimed() as driver:
        again = lambda: copy_kernel[(1,)](x, None, y, 1, 1, 1.0, EVEN=False)  # noqa: E731
        found = again()
        assert recorded.understood(found, again, [x, y]) is not None
        monkeypatch.setattr(driver, "target", GPUTarget("hip", "gfx942", 64))
        assert recorded.understood(found, again, [x, y]) is None


@compiled
def test_another_thread_may_launch_the_same_kernel_meanwhile():
    x, y = torch.zeros(64), torch.zeros(64)
    with claimed() as driver:
        call = lambda: copy_kernel[(1,)](x, None, y, 1, 1, 1.0, EVEN=False)  # noqa: E731
        found = call()

        def both():
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
            call()

        before = len(driver.launches)
        assert recorded.understood(found, both, [x, y]) is not None
        assert len(driver.launches) == before + 1


def test_the_interpreter_launches_as_ever(device):
    if not INTERPRETED and device == "cpu":
        pytest.skip("a CPU launches nothing")
    x, y = torch.arange(64.0, device=device), torch.zeros(64, device=device)
    kept = Launch(copy_kernel, (2,), TENSOR, None, TENSOR, 20, 1, 2.0, EVEN=False)
    for _ in range(3):
        y.zero_()
        kept(x, y)
        assert torch.equal(y[:20], 2 * x[:20]) and not y[20:].any()
    kept(x[7:], y[30:])
    assert torch.equal(y[30:50], 2 * x[7:27])


def _yielding(run):
    """Let other threads go first."""

    def later(*args, **kwargs):
        time.sleep(1e-4)
        return run(*args, **kwargs)

    return later


@compiled
def test_threads_may_record_the_same_kernel_at_once(monkeypatch):
    """Each call is launched once, and none is swallowed by a recorder that another thread has left behind."""
    x, y = torch.zeros(64), torch.zeros(64)
    threads, rounds = 8, 20
    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", _yielding(triton.runtime.jit.JITFunction.run))
    with claimed() as driver, ThreadPoolExecutor(threads) as pool:
        for n in range(rounds):
            kept = [Launch(copy_kernel, (1,), TENSOR, None, TENSOR, n, 1, 1.0, EVEN=False) for _ in range(threads)]
            list(pool.map(lambda launch: launch(x, y), kept))
            assert all(launch.kept[None] for launch in kept), "every record was understood"
        found = copy_kernel[(1,)](x, None, y, 1, 1, 1.0, EVEN=False)
        assert len(driver.launches) == threads * rounds + 1
        assert isinstance(found.run, driver.launcher_cls), "Triton's own launcher is back"


@compiled
def test_another_thread_may_fill_a_tensor_map_meanwhile(monkeypatch):
    x, y = torch.zeros(32, 64, dtype=torch.float16), torch.zeros(64)
    described = Descriptor(lambda tensor: TensorDescriptor.from_tensor(tensor, [16, 64]))
    kept = Launch(tiled_kernel, (1,), described, TENSOR, 3, BLOCK=64)
    with claimed() as driver, ThreadPoolExecutor(1) as pool:
        utils, fill = driver.utils, driver.utils.fill_tma_descriptor

        def together(*settings):
            if threading.current_thread() is threading.main_thread():
                for name in recording.FILLS:
                    pool.submit(lambda name=name: getattr(utils, name)(*settings)).result()
            return fill(*settings)

        for name in recording.FILLS:
            monkeypatch.setattr(utils, name, together)
        for _ in range(2):
            kept(x, y)
        assert kept.kept[None] is not None and len(driver.launches) == 2


@compiled
@pytest.mark.parametrize("hook", [None, lambda metadata: None], ids=["none", "function"])
def test_a_hook_that_is_no_chain_is_left_to_triton(hook, monkeypatch):
    x, y = torch.zeros(64), torch.zeros(64)
    kept = Launch(copy_kernel, (1,), TENSOR, None, TENSOR, 1, 1, 1.0, EVEN=False)
    with claimed() as driver:
        kept(x, y)
        monkeypatch.setattr(triton.knobs.runtime, "launch_exit_hook", hook)
        kept(x, y)
        by_triton = driver.launches[-1]
    assert hook in by_triton and any(torch.is_tensor(value) for value in flat(by_triton))


@compiled
def test_a_tensor_that_would_be_kept_is_not_understood(monkeypatch):
    """A kernel may be handed the tensor behind a descriptor; its address would be that of the first call for ever."""
    x, y = torch.zeros(32, 64, dtype=torch.float16), torch.zeros(64)
    kept = Launch(
        tiled_kernel, (1,), Descriptor(lambda t: TensorDescriptor.from_tensor(t, [16, 64])), TENSOR, 3, BLOCK=64
    )
    monkeypatch.setattr(claim, "_descriptor", lambda signature: None)
    with claimed() as driver:
        for _ in range(2):
            kept(x, y)
            assert any(torch.is_tensor(value) for value in flat(driver.launches[-1]))
        assert kept.kept == {None: None}


@compiled
def test_a_kernel_that_another_thread_has_compiled_is_kept():
    x, y = torch.zeros(64), torch.zeros(64)
    with claimed():
        again = lambda: copy_kernel[(1,)](x, None, y, 1, 1, 1.0, EVEN=False)  # noqa: E731
        later = SimpleNamespace(future=None, kernel=again())
        assert recorded.understood(later, again, [x, y]) is not None


@compiled
def test_each_gpu_has_a_record_and_a_stream_of_its_own(monkeypatch):
    """Whoever keeps a launch keeps it under the device; a record asks for the stream of the one it was made on."""
    x, y = torch.zeros(64), torch.zeros(64)
    with claimed() as driver:
        monkeypatch.setattr(driver, "get_current_stream", lambda device: 10 * device)
        first = driver.device
        for device in (first, first + 5000):
            driver.device = device
            kept = Launch(copy_kernel, (1,), TENSOR, None, TENSOR, 1, 1, 1.0, EVEN=False)
            for _ in range(2):
                kept(x, y)
            assert [launch[3] for launch in driver.launches[-2:]] == [10 * device] * 2
            assert kept.kept[None].device == device
