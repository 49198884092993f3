"""The persistent form of a product with blocks: its PTX, bit by bit, in the interpreter of tests/ptx; that a broken
kernel is noticed; when it is chosen; that it is launched as a kept launch."""

import re
from dataclasses import replace
from unittest import mock

import pytest
import torch
import triton

from bench.claimed import claimed
from bench.codegen.compile import ClaimedDriver
from smart_kernels.kernels.common import compiling
from smart_kernels.ops.common import block_matmul, exact, fastest, persistent
from smart_kernels.ops.common.axis import Axis
from smart_kernels.ops.common.block_matmul import Product, plan_matmul
from smart_kernels.ops.common.launch import NOTHING, STATE
from smart_kernels.ops.common.persistent import Form
from smart_kernels.ops.common.plan import forced
from tests.ptx.changes import every, nth
from tests.ptx.launch import Machine, emulated
from tests.ptx.warp import Fault

if triton.knobs.runtime.interpret:
    pytest.skip("PTX comes from the compiler", allow_module_level=True)

from smart_kernels.kernels.common.persistent import CONFIGS, offered, persistent_matmul_kernel, worth_trying

CPU, HALF, BF16 = torch.device("cpu"), torch.float16, torch.bfloat16
FORMS = {  # dtype, out, block, transposed, slots, order, bias, residual
    "64x64": Form(BF16, BF16, (64, 64), False, False, True, True, None),
    "128x128": Form(BF16, BF16, (128, 128), False, False, True, False, None),
    "64x128 transposed": Form(HALF, HALF, (64, 128), True, True, False, False, None),
    "128x64 transposed": Form(BF16, HALF, (128, 64), True, True, True, True, BF16),
    "256x64": Form(HALF, BF16, (256, 64), False, True, True, True, torch.float32),
}
QUICK = {("64x64", 0, "late"), ("64x128 transposed", 1, "early"), ("128x128", 1, "late")}
RUNS = [
    pytest.param(name, i, timing, marks=[] if (name, i, timing) in QUICK else pytest.mark.slow)
    for name, form in FORMS.items()
    for i in range(len(offered(form.block[0], form.residual is not None)))
    for timing in ("early", "late")
]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Two programs walk some ten tiles each, and more steps than they have stages."""
    monkeypatch.setattr(exact, "TRIAL", (144, 5, 4))
    monkeypatch.setattr(exact, "TRIAL_PROGRAMS", 2)


def right(form, config, machine):
    with emulated("sm_90", machine):
        return exact.right(CPU, form, config)


@pytest.mark.parametrize(("name", "number", "timing"), RUNS)
def test_every_configuration_is_exact(name, number, timing):
    form = FORMS[name]
    machine = Machine(timing, seed=number)
    assert right(form, offered(form.block[0], form.residual is not None)[number], machine)
    assert machine.count["tensor store", 4096] and any(key[0] == "wgmma" for key in machine.count)


def ragged(dtype=BF16, M=77, block=(64, 64)):
    """Tensors of a product whose last blocks reach beyond W, with rows of x in a wider matrix, and that product."""
    N, K = 3 * block[0] - 24, 2 * block[1] + 40
    mask = torch.tensor([[True, False, True], [False, False, False], [False, True, True]])
    values = torch.randint(-4, 5, (int(mask.sum()), *block)).to(dtype)
    dense = torch.zeros(3, 3, *block, dtype=torch.float64)
    dense[mask] = values.double()
    dense = dense.transpose(1, 2).reshape(3 * block[0], 3 * block[1])
    values[-1, N - 2 * block[0] :], values[1, :, K - 2 * block[1] :], values[-1, :, K - 2 * block[1] :] = 0, 0, 0
    wide = torch.full((M, K + 24), float("inf"), dtype=dtype)
    x = wide[:, :K].copy_(torch.randint(-4, 5, (M, K)))
    counts = mask.sum(1)
    end = counts.cumsum(0).int()
    lists = end - counts.int(), end, mask.nonzero()[:, 1].int(), NOTHING, NOTHING
    product = Product(Axis.separate(N, *block[:1] * 2), Axis.separate(K, *block[1:] * 2), True, "relu", None, "ieee")
    expected = (x.double() @ dense[:N, :K].T).relu().to(dtype)
    return (x, values, *lists, NOTHING, NOTHING, NOTHING), product, expected


@pytest.mark.parametrize("config", [CONFIGS[2], pytest.param(CONFIGS[1], marks=pytest.mark.slow)], ids=str)
def test_nothing_beyond_the_edges_is_read_or_written(config):
    tensors, product, expected = ragged()
    assert persistent.fits(tensors, product)
    y = torch.empty_like(expected)
    with emulated("sm_90", Machine()), forced(persistent_matmul_kernel, config):
        persistent.launched(tensors, product, persistent.form_of(tensors, product), 2)(*tensors, y)
    assert torch.equal(y, expected)


# ---- a broken kernel is noticed


WAIT = r"wgmma\.wait_group\.sync\.aligned "
DESCRIPTOR = str(0x4000_0040_0000_0000)
MUTATIONS = {
    "swizzle": every(DESCRIPTOR, str(0x8000_0040_0000_0000)),
    "rows between": every(DESCRIPTOR, str(0x4000_0020_0000_0000)),
    "second product": nth(r"add\.s32( +\t*%r\d+, %r\d+), 2;", r"add.s32\1, 4;"),
    "sums begin anew": every(r"mov\.pred( +\t*%p\d+), -1;", r"mov.pred\1, 0;"),
    "W is transposed": nth(r"(wgmma\.mma_async[^;]*, 1, 1, )0, 0;", r"\g<1>1, 0;"),
    "one product stays in flight": every(WAIT + "0;", "wgmma.wait_group.sync.aligned 1;"),
    "four products in flight": every(WAIT + "1;", "wgmma.wait_group.sync.aligned 4;"),
    "no wgmma.fence": every(r"wgmma\.fence\.sync\.aligned;", ""),
    "no fence before TMA": every(r"fence\.proxy\.async[^;]*;", ""),
    "y is not transposed": every(r"(stmatrix\S*)\.trans", r"\1"),
    "buffers of y are not waited for": every(r"cp\.async\.bulk\.wait_group\.read\s+1;", ""),
    "no arrival": nth(r"@%p\d+ mbarrier\.arrive\.shared::cta\.b64 _, \[[^\]]*\];", ""),
    "parity": nth(r"(mbarrier\.try_wait\.parity\.shared\S*\.b64 complete, \[[^\]]*\], )%r\d+;", r"\g<1>1;", 1),
    "groups do not take turns": lambda ptx: untaken(ptx),
}
FEW = ("swizzle", "one product stays in flight", "no fence before TMA", "groups do not take turns")


def untaken(ptx):
    """Nobody waits for the other group: waits whose parity is computed once, from the turn, not carried by a loop."""
    changed = ptx
    for wait, parity in re.findall(r"(mbarrier\.try_wait\.parity\S* complete, \[%r\d+\], (%r\d+);)", ptx):
        made = re.findall(rf"(\S+)\s+{parity}, ", ptx)
        if "xor.b32" not in made:
            changed = changed.replace(wait, "mov.pred complete, -1;")
    assert changed != ptx
    return changed


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FEW else pytest.mark.slow) for n in MUTATIONS])
def test_a_change_of_the_ptx_is_noticed(name, monkeypatch):
    form = replace(FORMS["64x64"], block=(64, 128))
    monkeypatch.setattr(exact, "TRIAL", (144, 3, 8))  # tiles with more steps than there are stages
    assert any(broken(form, CONFIGS[2], MUTATIONS[name], seed) for seed in range(4))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("one consumer is enough", every(r"(mbarrier\.init\.shared::cta\.b64 \[[^\]]*\]), 2;", r"\1, 1;")),
        ("the other 64 rows of W", every(r"add\.s32(\s+%r\d+, %r\d+), 139264;", r"add.s32\1, 131072;")),
    ],
)
def test_a_change_is_noticed_where_groups_share_a_tile(name, change):
    assert any(broken(FORMS["128x128"], CONFIGS[3], change, seed) for seed in range(4))


def broken(form, config, change, seed):
    """Whether one of two runs is wrong or stops."""
    for timing in ("early", "late"):
        try:
            if not right(form, config, Machine(timing, seed, change)):
                return True
        except Fault:
            return True
    return False


# ---- when it is chosen


def test_what_does_not_fit_is_left_to_the_plain_form():
    tensors, product, _ = ragged()
    x, values, *others = tensors
    fits, ours = persistent.fits, dict(vars(product))
    assert not fits((x.float(), values.float(), *others), product)
    assert not fits((x[:64], values, *others), product), "few rows"
    assert not fits((x.T.contiguous().T, values, *others), product)
    assert not fits((x, values.expand(2, *values.shape)[0].mT[:, ::2], *others), product)
    for changed in (
        {"aligned": False},
        {"dtype": torch.float32},
        {"n": Axis.separate(171, 64, 64)},
        {"n": Axis.separate(168, 32, 32)},
        {"k": Axis.separate(168, 40, 64)},
    ):
        assert not fits(tensors, Product(**ours | changed)), changed
    with mock.patch.object(STATE, "tracing", True):
        assert not fits(tensors, product), "torch captures no descriptors"


def test_it_is_verified_first(monkeypatch):
    form = FORMS["64x64"]
    verified = exact.verified.__wrapped__
    assert verified(CPU, form) == "wgmma exists on sm_90 only"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(exact, "trial", lambda device, form, trial=exact.trial: trial(CPU, form))
    monkeypatch.setattr("smart_kernels.kernels.common.persistent.CONFIGS", CONFIGS[2:3])
    gpu = torch.device("cuda")
    with emulated("sm_90", Machine()):
        assert verified(gpu, form) is None
    with emulated("sm_90", Machine(change=MUTATIONS["one product stays in flight"])):
        assert f"is wrong with triton {triton.__version__}" in verified(gpu, form)
    with emulated("sm_90", Machine(change=lambda ptx: ptx.replace("stmatrix", "no"))):
        assert "does not run" in verified(gpu, form)


@pytest.mark.parametrize("block", [64, 128, 256])
@pytest.mark.parametrize("M", [256, 1024, 4096])
@pytest.mark.parametrize("residual", [None, torch.empty(0)], ids=["", "residual"])
def test_few_configurations_are_tried(block, M, residual):
    found = worth_trying(CONFIGS, {"M_CLASS": M, "residual_ptr": residual}, BLOCK_N=block)
    assert 1 <= len(found) <= 3
    assert all(c.kwargs["TALL"] == min(block, 128) and c.kwargs["BLOCK_M"] <= M for c in found)


@pytest.fixture
def ways(monkeypatch, tmp_path):
    """Two ways that note what is called, the second faster; what is stored is stored elsewhere."""
    called = []
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    monkeypatch.setattr(fastest, "_found", {})
    monkeypatch.setattr(fastest, "time_launches", lambda call, quantiles: [{"a": 2.0, "b": 1.0}[call.func.__name__]])
    monkeypatch.setattr(triton.runtime.driver, "_active", ClaimedDriver("sm_90"))

    def a(*tensors):
        called.append("a")

    def b(*tensors):
        called.append("b")

    return {"a": a, "b": b}, called


def test_the_fastest_way_is_kept(ways, monkeypatch):
    both, called = ways
    once = fastest.Fastest(both, ("a shape",))
    once(1)
    assert called == ["a", "b", "b"], "the first result is that of the later ones"
    once(1)
    fastest._found.clear()
    monkeypatch.setattr(fastest, "time_launches", None)
    fastest.Fastest(both, ("a shape",))(1)
    assert called[3:] == ["b", "b"], "read from Triton's cache"
    monkeypatch.setattr(fastest, "capturing", lambda: True)
    fastest.Fastest(both, ("another shape",))(1)
    assert called[5:] == ["a"], "nothing is timed within a graph"


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": 1}'])
def test_a_damaged_choice_is_made_anew(ways, tmp_path, damage):
    both, called = ways
    fastest.Fastest(both, ("a shape",))(1)
    (path,) = tmp_path.rglob(fastest.FILE)
    for after in (["a", "b", "b"], ["b"]):  # measured and stored again, then read
        path.write_text(damage) if len(after) > 1 else None
        fastest._found.clear()
        called.clear()
        fastest.Fastest(both, ("a shape",))(1)
        assert called == after


def test_all_ways_are_compiled(ways):
    both, called = ways
    way = fastest.Fastest(both, ("a shape",))
    with compiling():
        way(1)
    assert {"a", "b"} <= {*called} and way.best is None and not fastest._found


def test_its_launch_is_kept(monkeypatch):
    made = []

    def launch(*args, **constants):
        made.append(block_matmul.Launch(*args, **constants))
        return made[-1]

    monkeypatch.setattr(exact, "verified", lambda device, form: None)
    monkeypatch.setattr(persistent, "Launch", launch)
    monkeypatch.setattr(fastest.Fastest, "_choose", lambda self, tensors: self.ways["persistent"])
    tensors, product, _ = ragged(M=300)
    with claimed() as driver:
        multiply = plan_matmul(*tensors, product)
        for _ in range(2):
            driver.launches.clear()
            multiply(*tensors)
        assert len(driver.launches) == 1
    (kept,) = made[0].kept.values()
    assert kept is not None, "Triton's own way is slow"
    assert kept.compiled.name == "persistent_matmul_kernel" and len(kept.maps) == 3
