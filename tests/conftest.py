import os
import tempfile
from collections import Counter

# compiled graphs are cached on disk under a key that leaves out register_autograd formulas (pytorch#144344)
os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()

import pytest
import torch
import triton
from hypothesis import settings

INTERPRETED = triton.knobs.runtime.interpret
if INTERPRETED:
    from .interpreter import repair

    repair()

torch.set_num_threads(1)
settings.register_profile("default", deadline=None, derandomize=True, max_examples=25)
settings.register_profile("all", deadline=None, max_examples=300)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return request.param


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
def dtype(request):
    return request.param


@pytest.fixture(autouse=True)
def _poison_empty():
    """torch.empty returns NaN, so an output that a kernel forgets to write fails the test."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)


def pytest_addoption(parser):
    parser.addoption("--one-in", type=int, default=1, metavar="N", help="of each test the first of N cases, and so on")


def pytest_collection_modifyitems(config, items):
    N = config.getoption("--one-in")
    if N < 1:
        raise pytest.UsageError(f"--one-in must be at least 1, got {N}")
    cases = Counter()
    left_out = []
    for item in items:
        test = item.nodeid.partition("[")[0]
        if cases[test] % N:
            left_out.append(item)
        cases[test] += 1
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


def pytest_report_header():
    return f"triton {triton.__version__}, interpreter {'on' if INTERPRETED else 'off'}, torch {torch.__version__}"
