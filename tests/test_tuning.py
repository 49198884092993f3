"""Which launch configurations are tried, that they are compiled side by side, and how they are timed."""

import contextlib
import importlib
import itertools
import pkgutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
import triton
import triton.language as tl
from torch import nn
from triton.runtime import driver
from triton.runtime.errors import OutOfResources
from triton.runtime.jit import JITFunction, KernelInterface

from bench.codegen.compile import ClaimedDriver, launchers
from bench.codegen.table import LIMITS
from bench.gpu_check.check import TUNED
from smart_kernels import Block, SparseLinear, kernels, semi_structured_prune, soft_topk, warmup
from smart_kernels.convert.compress.warmup import Uncomputed
from smart_kernels.kernels.common import Tuned, compiling, tuner, tuning
from smart_kernels.ops.common.launch import TENSOR, Launch
from smart_train import SmartPruner
from tests.conftest import INTERPRETED

if INTERPRETED:
    pytest.skip("the interpreter takes the first configuration", allow_module_level=True)

DEVICES = itertools.count(5000)  # Triton keeps what it compiled by device: each test has another one
BY_NAME = {kernel.base_fn.__name__: kernel for kernel in TUNED}


class Claimed(ClaimedDriver):
    """A GPU that is only claimed: it compiles, launches nothing, and finds all configurations equally fast."""

    def __init__(self, target="sm_90"):
        super().__init__(target)
        self.device = next(DEVICES)

    def get_benchmarker(self):
        return lambda call, quantiles: [1.0] * len(quantiles)


@pytest.fixture
def claim():
    before = driver._active
    yield lambda target: driver.set_active(Claimed(target))
    driver.set_active(before)


def problems():
    """Arguments that the rules of all kernels read, over shapes, tiles, dtypes and what may follow."""
    sizes = [(16, 16), (32, 32), (64, 64), (128, 8), (128, 64), (128, 128), (256, 128)]
    for M, (n, k) in itertools.product((16, 64, 256, 1024, 4096), sizes):
        for dtype, precision in ((torch.bfloat16, "ieee"), (torch.float32, "ieee"), (torch.float32, "tf32")):
            for residual, tma in itertools.product((False, True), repeat=2):
                x = torch.empty(0, dtype=dtype)
                args = {"x_ptr": x, "M": M, "M_CLASS": M, "N_PACKED": 384, "residual_ptr": x if residual else None}
                args |= {"scale_ptr": None, "longest": 16, "C": 16}
                kwargs = {
                    "BLOCK_N": n,
                    "BLOCK_K": k,
                    "PRECISION": precision,
                    "TMA_ROWS": 128 * tma,
                    "BLOCK_M": min(M, 64),
                }
                kwargs |= {
                    "WHOLE_COPIES": tma,
                    "EVEN_K": True,
                    "TILES_N": 1,
                    "TILES_K": 1,
                    "TYPE": "bf16",
                    "W_SHARED": True,
                    "SPLIT": False,
                }
                kwargs |= {"STRIDE_WK": n if residual else 1}
                yield args, kwargs | {"ACTIVATION": "gelu" if residual else None}


@pytest.mark.parametrize("target", LIMITS)
@pytest.mark.parametrize("name", BY_NAME)
def test_at_most_three_are_tried_and_the_first_is_one_of_them(name, target, claim):
    claim(target)
    kernel, counts = BY_NAME[name], set()
    for args, kwargs in problems():
        runnable = kernel.runnable(kernel.configs, args, **kwargs)
        tried = kernel.early_config_prune(kernel.configs, args, **kwargs)
        assert 1 <= len(tried) <= 3 and tried[0] == runnable[0]
        assert all(config in runnable for config in tried) and len(set(tried)) == len(tried)
        assert len(tried) == min(3, len(runnable))
        counts.add(len(tried))
        if "BLOCK_M" in kernel.configs[0].kwargs and name.startswith(("block_m", "block_grad", "conv", "weight")):
            assert all(staged(config, name, args, kwargs) <= LIMITS[target] for config in tried[1:])
    assert counts - {1} or name == "sparse_mma_kernel", "no problem leaves a choice"


def staged(config, name, args, kwargs):
    """Bytes of the steps of a product that are under way while one is multiplied."""
    m, n, k = config.kwargs["BLOCK_M"], kwargs["BLOCK_N"], kwargs["BLOCK_K"]
    size = (n + max(k, config.kwargs.get("WIDTH", 0))) * m if "grad" in name else (m + n) * k
    return (config.num_stages - 1) * size * args["x_ptr"].element_size()


def test_what_has_won_is_a_configuration_of_its_kernel():
    assert {*tuning.WON} <= {*BY_NAME}
    for name, won in tuning.WON.items():
        settings = [config.all_kwargs() for config in BY_NAME[name].configs]
        for one in won:
            assert any(one.items() <= each.items() for each in settings), f"{name} has no {one}"


MEASURED = {  # winners on an H200 in bf16 at M = 4096: kernel, (BLOCK_N, BLOCK_K), configuration
    "block_matmul_kernel": [
        ((64, 64), {"BLOCK_M": 128, "TMA": True, "num_warps": 4, "num_stages": 3}),
        ((128, 128), {"BLOCK_M": 256, "TMA": True, "W_LEFT": True, "num_warps": 8}),
        ((32, 32), {"BLOCK_M": 128, "TMA": False, "num_warps": 4, "num_stages": 3}),
    ],
    "block_gather_kernel": [
        ((32, 32), {"BLOCK_M": 256, "num_warps": 8, "num_stages": 2}),
        ((32, 32), {"BLOCK_M": 128, "num_warps": 4, "num_stages": 3}),
    ],
    "conv_matmul_kernel": [
        ((64, 64), {"BLOCK_M": 128, "num_warps": 4, "num_stages": 3}),
        ((64, 64), {"BLOCK_M": 64, "num_warps": 4, "num_stages": 3}),
    ],
    "weight_grad_kernel": [
        ((64, 64), {"BLOCK_M": 64, "num_warps": 4, "num_stages": 3}),
        ((64, 64), {"BLOCK_M": 64, "num_warps": 8, "num_stages": 3}),
        ((128, 64), {"BLOCK_M": 64, "num_warps": 8, "num_stages": 3}),
        ((32, 32), {"BLOCK_M": 64, "num_warps": 4, "num_stages": 3}),
    ],
    "block_decode_kernel": [
        ((64, 64), {"num_warps": 4, "num_stages": 6}),
        ((32, 32), {"num_warps": 2, "num_stages": 4}),
    ],
    "sparse_wgmma_kernel": [((128, 32), {"BLOCK_M": 256})],
    "semi_structured_conv_kernel": [((64, 32), {"BLOCK_M": 256, "num_warps": 8, "num_stages": 3})],
}


@pytest.mark.parametrize("name", MEASURED)
def test_what_won_on_a_gpu_is_tried(name, claim):
    claim("sm_90")
    for block, won in MEASURED[name]:
        M = 16 if "decode" in name else 4096
        args = {"x_ptr": torch.empty(0, dtype=torch.bfloat16), "M": M, "M_CLASS": M, "residual_ptr": None, "C": 64}
        kwargs = {
            "WHOLE_COPIES": False,
            "BLOCK_N": block[0],
            "BLOCK_K": block[1],
            "PRECISION": "ieee",
            "TMA_ROWS": 256 if block == (128, 128) else 128,
            "BLOCK_M": 16,
        }
        kwargs |= {"EVEN_K": True, "TILES_N": 1, "TILES_K": 1, "TYPE": "bf16", "ACTIVATION": None, "STRIDE_WK": 1}
        tried = BY_NAME[name].early_config_prune(BY_NAME[name].configs, args | {"scale_ptr": None}, **kwargs)
        assert any(won.items() <= config.all_kwargs().items() for config in tried), (block, won)


@pytest.mark.parametrize(
    ("change", "warps"),
    [
        ({}, 8),
        ({"BLOCK_N": 32, "BLOCK_K": 32}, 4),
        ({"BLOCK_N": 128}, None),  # would hold twice the sums
        ({"TILES_K": 2}, None),
        ({"WHOLE_COPIES": False}, None),
        ({"EVEN_K": False}, None),
        ({"C": 3}, None),  # no row has so many blocks
    ],
)
def test_where_a_masked_gradient_takes_several_blocks(change, warps, claim):
    claim("sm_90")
    args = {"x_ptr": torch.empty(0, dtype=torch.bfloat16), "M_CLASS": 4096, "C": change.pop("C", 64)}
    kwargs = {"BLOCK_N": 64, "BLOCK_K": 64, "PRECISION": "ieee", "EVEN_K": True, "WHOLE_COPIES": True}
    kwargs |= {"TILES_N": 1, "TILES_K": 1} | change
    kernel = BY_NAME["weight_grad_kernel"]
    tried = kernel.early_config_prune(kernel.configs, args, **kwargs)
    assert [c.num_warps for c in tried if c.kwargs["WIDTH"] == 256] == ([] if warps is None else [warps])
    assert any(c.kwargs["WIDTH"] == 16 and c.kwargs["BLOCK_M"] == 64 for c in tried)


def test_a_kernel_without_entry_tries_its_tallest():
    configs = [triton.Config({"BLOCK_M": m}, num_warps=w) for m, w in ((16, 4), (32, 4), (64, 4), (128, 8), (128, 4))]
    tried = tuning.few("new_kernel", configs)
    assert [(c.kwargs["BLOCK_M"], c.num_warps) for c in tried] == [(16, 4), (128, 4), (128, 8)]


# how they are timed


@pytest.mark.parametrize("kernel", TUNED, ids=lambda kernel: kernel.base_fn.__name__)
def test_every_tuned_kernel_is_timed_in_graphs(kernel):
    assert kernel.do_bench is tuner.time_launches and kernel.cache_results


def test_launches_are_timed_in_a_graph_and_otherwise_as_triton_does(monkeypatch, claim):
    claim("sm_90")
    quantiles = (0.5, 0.2, 0.8)
    monkeypatch.setattr(tuner, "in_graph", lambda call, quantiles: [2.0] * 3)
    assert tuner.time_launches(lambda: None, quantiles) == [2.0] * 3

    def cannot(call, quantiles):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(tuner, "in_graph", cannot)
    assert tuner.time_launches(lambda: None, quantiles=quantiles) == [1.0] * 3


def test_what_the_device_cannot_hold_is_for_the_tuner(monkeypatch):
    def too_large(call, quantiles):
        call()

    def launch():
        raise OutOfResources(2**20, 2**17, "shared memory")

    monkeypatch.setattr(tuner, "in_graph", too_large)
    with pytest.raises(OutOfResources):
        tuner.time_launches(launch, (0.5,))


class Cuda:
    """``torch.cuda`` of a device that is only imagined; a launch costs the host and, later, the device."""

    LAUNCH_MS = 0.01  # of a graph

    def __init__(self, host_ms, device_ms, captures=True):
        self.host_ms, self.device_ms, self.captures = host_ms, device_ms, captures
        self.now, self.log, self.capturing = 0.0, [], None

    def launch(self):
        if self.capturing is not None:
            self.capturing.append(self.device_ms)
        else:
            self.now += self.host_ms + self.device_ms
            self.log.append("launch")

    def synchronize(self):
        self.log.append("synchronize")

    Stream = object

    @contextlib.contextmanager
    def stream(self, stream):
        yield

    def Event(self, enable_timing):
        event = SimpleNamespace(synchronize=lambda: None)
        event.record = lambda: setattr(event, "at", self.now)
        event.elapsed_time = lambda end: end.at - event.at
        return event

    def CUDAGraph(self):
        def begin(capture_error_mode):
            self.log.append(capture_error_mode)
            self.capturing = []

        def end():
            graph.held, self.capturing = self.capturing, None
            self.log.append(len(graph.held))
            if not self.captures:
                raise RuntimeError("operation not permitted when stream is capturing")

        def replay():
            self.now += self.LAUNCH_MS + sum(graph.held)

        graph = SimpleNamespace(capture_begin=begin, capture_end=end, replay=replay)
        return graph


@pytest.mark.parametrize("host_ms", [0.02, 0.6])
def test_the_host_does_not_count(host_ms, claim):
    """5 us on the device are 5 us, and the graph is as long, whatever a launch costs the host."""
    claim("sm_90")
    cuda = Cuda(host_ms, device_ms=0.005)
    driver.active.get_device_interface = lambda: cuda
    assert tuner.time_launches(cuda.launch, (0.5, 0.2)) == pytest.approx([0.005, 0.005], rel=0.05)
    assert cuda.log == ["synchronize", "launch", "thread_local", 1, "thread_local", 67]


def test_what_cannot_be_captured_is_timed_as_triton_does(claim):
    claim("sm_90")
    cuda = Cuda(0.02, 0.005, captures=False)
    driver.active.get_device_interface = lambda: cuda
    assert tuner.time_launches(cuda.launch, (0.5, 0.2)) == [1.0, 1.0] and cuda.capturing is None


# compiled side by side


@pytest.fixture
def compiles(monkeypatch, claim):
    """List the compilations as (name of the kernel, settings, thread). Nothing is launched."""
    found, before = [], {id(fn): fn.__dict__.get("compile") for fn in jitted()}

    def compile(src, target=None, options=None, **_):
        time.sleep(0.01)
        found.append((src.name, options["num_warps"], options["num_stages"], threading.current_thread().name))
        return SimpleNamespace(
            run=lambda *args: None, launch_metadata=lambda *args: None, function=0, packed_metadata=(), name=src.name
        )

    monkeypatch.setattr(triton.compiler, "compile", compile)
    claim("sm_90")
    device = driver.active.device
    monkeypatch.setattr(tuner.Tuned, "check_disk_cache", without_disk)
    yield found
    for fn in jitted():
        fn.device_caches.pop(device, None)
        fn.__dict__.pop("compile", None)
        if before.get(id(fn)) is not None:
            fn.compile = before[id(fn)]
    for kernel in TUNED:
        kernel.cache.clear()


def without_disk(self, tuning_key, configs, bench_fn, real=Tuned.check_disk_cache):
    """Triton's own look-up of the disk finds nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton.runtime.autotuner.Autotuner, "check_disk_cache", lambda self, key, configs, bench: bench())
        return real(self, tuning_key, configs, bench_fn)


def jitted():
    """Every Triton function of the package, below its decorators, and the one below."""
    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(kernels.__path__, f"{kernels.__name__}.")]
    for value in [add_kernel, *(value for module in modules for value in vars(module).values())]:
        while isinstance(value, KernelInterface) and not isinstance(value, JITFunction):
            value = value.fn
        if isinstance(value, JITFunction):
            yield value


@triton.jit
def add_kernel(x_ptr, M_CLASS, BLOCK_M: tl.constexpr):
    offsets = tl.arange(0, BLOCK_M)
    tl.store(x_ptr + offsets, tl.load(x_ptr + offsets) + 1)


def tuned(count=3):
    configs = [triton.Config({"BLOCK_M": 16 << i}) for i in range(count)]
    return tuning.autotune(configs, ["M_CLASS"], lambda configs, args, **kwargs: configs)(add_kernel)


def test_the_configurations_of_a_problem_are_compiled_in_threads(compiles):
    kernel = tuned()
    kernel[(1,)](torch.zeros(64), 64)
    assert len(compiles) == 3 and all(thread.startswith("compile") for *_, thread in compiles)
    kernel[(1,)](torch.zeros(64), 64)
    assert len(compiles) == 3 and kernel._call is None


def test_many_problems_are_compiled_at_once_and_not_launched(compiles, monkeypatch):
    kernel, timed = tuned(), []
    monkeypatch.setattr(tuner, "in_graph", lambda call, quantiles: timed.append(call) or [1.0] * 3)
    x = torch.zeros(64)
    with compiling() as compiler:
        for M in (64, 64, 256):  # a class of M is no argument that code depends on, up to what 16 divides
            assert kernel[(1,)](x, M) is None
        kernel[(1,)](x.double(), 64)
        in_a_thread(compiler.taking()(lambda: kernel[(1,)](x.half(), 64)))  # as torch's backward does
    assert len(compiles) == 9 and not timed and not kernel.cache
    kernel[(1,)](x, 64), kernel[(1,)](x.double(), 64), kernel[(1,)](x.half(), 64)
    assert len(compiles) == 9 and len(kernel.cache) == 3  # timing finds everything compiled


def in_a_thread(call):
    """Call it in a thread of its own and return what it returns, or raise what it raises."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def test_other_threads_launch_while_one_compiles(compiles, monkeypatch):
    """They may serve requests, whose kernels must not be left out."""
    kernel, x = tuned(), torch.zeros(64)
    monkeypatch.setattr(tuner, "in_graph", lambda call, quantiles: [1.0] * 3)
    with compiling() as compiler:
        assert in_a_thread(lambda: kernel[(1,)](x, 64)) is not None
        assert kernel[(1,)](x, 64) is None and compiler.submitted == 1
    assert kernel[(1,)](x, 64) is not None


def test_threads_may_tune_at_once(compiles, monkeypatch):
    """Each with its own arguments, though Triton's tuner keeps them in itself."""
    kernel, timed = tuned(), []

    def slow(call, quantiles):
        time.sleep(0.01)
        timed.append(call())
        return [1.0] * 3

    monkeypatch.setattr(tuner, "in_graph", slow)
    sizes = [64 << i for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        launched = list(pool.map(lambda M: kernel[(1,)](torch.zeros(64), M), sizes))
    assert all(launched) and len(timed) == 3 * len(sizes)
    assert sorted(M for M, *_ in kernel.cache) == sizes and kernel.nargs is None


def test_what_was_found_on_one_gpu_is_not_used_on_another_kind(claim, monkeypatch):
    kernel = tuned()
    for target, best in (("sm_90", 0), ("sm_80", 1), ("sm_90", 0)):
        claim(target)
        kernel.cache.setdefault((64,), kernel.configs[best])
        assert kernel.cache[(64,)] is kernel.configs[best]


def test_tuning_during_a_capture_says_what_to_do(compiles):
    driver.active.get_device_interface = lambda: SimpleNamespace(is_current_stream_capturing=lambda: True)
    with pytest.raises(RuntimeError, match="add_kernel must be tuned before a CUDA graph is captured"):
        tuned()[(1,)](torch.zeros(64), 64)
    tuned(count=1)[(1,)](torch.zeros(64), 64)  # without a choice nothing is timed


def test_threads_really_compile(claim, tmp_path, monkeypatch):
    """With Triton's own compiler, for a GPU that is not there."""
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    claim("sm_90")
    kernel = tuned()
    with compiling():
        kernel[(1,)](torch.zeros(64), 64)
    compiled = add_kernel.device_caches.pop(driver.active.device)[0]
    assert len(compiled) == 3 and all(one.asm["cubin"] for one in compiled.values())


def test_what_does_not_compile_is_left_to_the_launch(compiles, monkeypatch):
    def fails(src, target=None, options=None, **_):
        raise ValueError("ptxas")

    monkeypatch.setattr(triton.compiler, "compile", fails)
    kernel = tuned()
    with compiling():
        kernel[(1,)](torch.zeros(64), 64)
    with pytest.raises(ValueError, match="ptxas"):
        kernel[(1,)](torch.zeros(64), 64)


def test_a_launch_that_was_only_compiled_is_kept_another_time(compiles):
    launch = Launch(tuned(), (1,), TENSOR, 64)
    with compiling():
        launch(torch.zeros(64))
    assert not launch.kept
    launch(torch.zeros(64))
    assert launch.kept


def test_a_kernel_without_choice_is_launched(compiles):
    """Whoever forces a configuration wants its result: what is verified so is remembered."""
    with compiling() as compiler:
        assert tuned(count=1)[(1,)](torch.zeros(64), 64) is not None
    assert [thread for *_, thread in compiles] == ["MainThread"] and not compiler.submitted


def test_an_error_in_the_block_ends_it(compiles):
    with pytest.raises(KeyError), compiling():
        raise KeyError
    assert not tuner.HERE.compiler


@pytest.fixture
def warm(monkeypatch):
    """Kernels are compiled for tensors on the CPU."""
    monkeypatch.setattr(sys.modules[warmup.__module__], "COMPILED_ON", ("cpu",))
    with launchers():
        yield


def tuned_ones(compiles):
    """Return the tuned kernels among what was compiled."""
    return [row for row in compiles if row[0] in BY_NAME]


def test_warmup_compiles_all_layers_before_the_first_runs(compiles, warm):
    sizes = (32, 64, 32, 64)  # two problems, each twice
    model = nn.Sequential(*(SparseLinear(128, 128, Block(size, size), 0.5) for size in sizes), nn.ReLU())
    warmup(model, [(256, 128)])
    made = tuned_ones(compiles)
    assert len(made) == 3 + 2  # exact fp32 leaves two of 64x64
    assert all(thread.startswith("compile") for *_, thread in made)
    with torch.no_grad():
        model(torch.ones(256, 128))
    assert tuned_ones(compiles) == made


def test_warmup_of_a_masked_model_compiles_its_backward(compiles, warm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)).train()
    pruner = SmartPruner(model, Block(32, 32), 0.5, search_steps=10)
    pruner.step()
    warmup(model, [(256, 64)])
    made = tuned_ones(compiles)
    assert {name for name, *_ in made} == {"block_matmul_kernel", "weight_grad_kernel"}
    assert all(thread.startswith("compile") for *_, thread in made)
    assert all(p.grad is None for p in model.parameters()) and model.training
    model(torch.ones(256, 64)).sum().backward()
    assert tuned_ones(compiles) == made


def test_while_kernels_are_compiled_outputs_are_zero(compiles, warm):
    """Not what memory held, which a model might take for places."""
    layer, seen = SparseLinear(64, 64, Block(32, 32), 0.5, bias=False), []
    layer.register_forward_hook(lambda module, args, y: seen.append(y.clone()))
    warmup(nn.Sequential(layer), [(256, 64)])
    assert len(seen) == 2 and not seen[0].any()


def test_what_is_computed_all_the_same_is_kept():
    """The places of a weight, say, which layers keep once they have been made."""
    with Uncomputed(SimpleNamespace(submitted=0, taking=contextlib.nullcontext)):
        mask, _ = soft_topk(torch.randn(4, 8), 2.0, 0.1)
        values, indices = semi_structured_prune(torch.randn(8, 32, dtype=torch.float16))
    assert mask.sum() == pytest.approx(8, rel=1e-3) and values.any() and indices.any()
