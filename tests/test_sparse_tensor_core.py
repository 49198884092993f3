"""2:4 on sparse tensor cores: packing against torch's converters; the kernels' PTX, bit by bit, in the interpreter of
tests/ptx, with random schedules of the warps and early and late copies; and that a broken kernel is noticed."""

import re
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
import triton
from torch.sparse import _semi_structured_conversions as conversions

from bench.codegen import sparse
from smart_kernels.kernels.tensor_core.mma import TRIED, worth_trying
from smart_kernels.ops import tensor_core as sparse_tensor_core
from smart_kernels.ops.common.launch import aligned
from smart_kernels.ops.tensor_core import device as devices
from smart_kernels.ops.tensor_core import mma, verify
from smart_kernels.ops.tensor_core.launch import _plan_rows
from smart_kernels.reference.common import compress
from smart_kernels.reference.common.epilogue import ACTIVATIONS, finish
from tests.ptx.changes import every, nth
from tests.ptx.launch import Machine, emulated
from tests.ptx.warp import Fault
from tests.util import assert_close

if triton.knobs.runtime.interpret:
    pytest.skip("PTX comes from the compiler", allow_module_level=True)

CPU, EIGHT = torch.device("cpu"), {torch.int8: "sm_80", torch.float8_e4m3fn: "sm_89"}
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
MMA, WGMMA = ([*sparse_tensor_core.tuner(kernel).configs] for kernel in ("mma", "wgmma_ss"))


def random_2_4(N, K, dtype=torch.bfloat16):
    """A dense weight with exactly two of four non-zero, and its saved form."""
    order = torch.rand(N, K // 4, 4).argsort(-1)[..., :2].sort(-1).values
    values = torch.randint(1, 9, order.shape).to(dtype)
    dense = torch.zeros(N, K // 4, 4, dtype=dtype).scatter_(2, order, values).view(N, K)
    nibbles = (order[..., 0] + 4 * order[..., 1]).view(N, -1, 2)
    return dense, values.flatten(1), (nibbles[..., 0] + 16 * nibbles[..., 1]).to(torch.uint8)


def multiply(kernel, config, inputs, machine=None, target=None):
    x, values, indices, bias, residual, expected = inputs
    scale = sparse_tensor_core.scales(len(values), x.dtype, x.device)
    packed = sparse_tensor_core.pack(values, indices, kernel)
    target = target or ("sm_80" if kernel == "mma" else "sm_90")
    with emulated(target, machine or Machine()), sparse_tensor_core.forced(kernel, config):
        return sparse_tensor_core.matmul(x, packed, bias, residual, "relu", scale, expected.dtype)


def shape_for(config, edges):
    """One tile more than whole ones along M, one more step than stages; few enough for the interpreter."""
    block_m, block_n = config.kwargs["BLOCK_M"], config.kwargs.get("BLOCK_N", 128)
    steps = config.kwargs["STAGES"] + 2
    return (block_m + 5, block_n - 6, 64 * steps - 22) if edges else (block_m, block_n, 64 * steps)


# ---- packing


def test_metadata_is_that_of_cutlass_in_another_order():
    dense, values, indices = random_2_4(128, 256)
    kept, metadata = conversions.sparse_semi_structured_from_dense_cutlass(dense)
    assert torch.equal(kept, values)
    packed = sparse_tensor_core.pack(values, indices)
    # words of 32 lanes, 4 g + 2 tile + column half, for 32 rows and 32 columns
    theirs = metadata.reshape(-1).view(torch.int32).view(4, 2, 2, 2, 8, 2, 2)  # k64, k32, n64, n32, g, tile, half
    ours = packed.metadata.view(2, 4, 2, 2, 8, 2, 2)  # n64, k64, n32, tile, g, k32, half
    assert torch.equal(ours, theirs.permute(2, 0, 3, 5, 4, 1, 6))


def test_metadata_of_eight_bits_is_that_of_cutlass_in_another_order():
    dense, values, indices = random_2_4(128, 256, torch.int8)
    kept, metadata = conversions.sparse_semi_structured_from_dense_cutlass(dense)
    assert torch.equal(kept, values)
    theirs = metadata.reshape(-1).view(2, 2, 2, 4, 8, 4)  # k128, k64, n64, n16, g, lane of the four
    ours = sparse_tensor_core.pack(values, indices).metadata.view(2, 2, 2, 4, 8, 4)  # n64, k128, k64, n16, g, lane
    assert torch.equal(ours, theirs.permute(2, 0, 1, 3, 4, 5))


@pytest.mark.parametrize("dtype", EIGHT, ids=str)
@pytest.mark.parametrize(("N", "K"), [(1, 4), (130, 132), (9, 130), (256, 256)])
def test_eight_bits_are_packed_like_pairs(dtype, N, K):
    weight = torch.where(torch.rand(N, -(-K // 4), 4).argsort(-1) < 2, torch.randint(1, 9, (N, -(-K // 4), 4)), 0)
    values, indices = compress(weight.flatten(1)[:, :K], weight.flatten(1)[:, :K] != 0, 2, 4)
    packed = sparse_tensor_core.pack(values.to(dtype), indices)
    assert packed.shape == (-(-N // 128) * 128, -(-K // 128) * 128) and packed.metadata.is_contiguous()
    again = sparse_tensor_core.unpack(packed)
    assert torch.equal(again[0].float(), values.float()) and torch.equal(again[1], indices)
    words, (row, word) = packed.weight.view(torch.int32), (N - 1, 0)
    lane = row % 8 * 4 + word
    four = words[row // 16, 0, lane, row % 16 // 8].view(1).view(torch.int8).view(dtype)
    expected = F.pad(values, (0, 4))[row, :4]
    assert torch.equal(four.float(), expected.float())
    rows = sparse_tensor_core.pack(values.to(dtype), indices, "wgmma_ss")
    assert all(torch.equal(a.float(), b.float()) for a, b in zip(sparse_tensor_core.unpack(rows), again, strict=True))
    assert torch.equal(rows.weight[:N, : values.shape[1]].float(), values.float())
    assert torch.equal(rows.metadata, packed.metadata)
    same = sparse_tensor_core.pack(values.to(dtype), indices, "wgmma_rs")
    assert torch.equal(same.weight.view(torch.int8), packed.weight.view(torch.int8)), "wgmma_rs reads the words of mma"


def test_fragments_are_where_the_lanes_want_them():
    _, values, indices = random_2_4(128, 128)
    words = sparse_tensor_core.pack(values, indices).weight.view(torch.int32)
    pairs = values.view(torch.int32)
    for tile, step, lane, r in [(0, 0, 0, 0), (3, 1, 13, 2), (7, 3, 31, 3), (2, 0, 6, 1)]:
        row, column = 16 * tile + lane // 4 + 8 * (r % 2), 8 * step + lane % 4 + 4 * (r // 2)
        assert words[tile, step, lane, r] == pairs[row, column]


@pytest.mark.parametrize("kernel", sparse_tensor_core.KERNELS)
def test_packing_pads_rows_and_columns(kernel):
    _, values, indices, *_ = sparse_tensor_core.integers((1, 130, 132), torch.bfloat16, CPU)
    packed = sparse_tensor_core.pack(values, indices, kernel)
    assert packed.shape == (256, 192) and packed.metadata.shape == (4, 3, 4, 32)
    assert packed.weight.count_nonzero() <= values.numel()
    nibbles = packed.metadata.view(torch.uint8)
    first, second = nibbles & 3, (nibbles >> 2) & 3
    assert (first < second).all() and ((nibbles >> 4 & 3) < (nibbles >> 6)).all(), "indices rise in the padding, too"


def test_packing_says_what_does_not_fit():
    _, values, indices = random_2_4(16, 16)
    with pytest.raises(ValueError, match="kernel must be one of"):
        sparse_tensor_core.pack(values, indices, "fma")
    with pytest.raises(ValueError, match="values must be"):
        sparse_tensor_core.pack(values.float(), indices)
    with pytest.raises(ValueError, match="indices must be"):
        sparse_tensor_core.pack(values, indices.int())
    with pytest.raises(ValueError, match="x must be"):
        sparse_tensor_core.matmul(torch.zeros(4, 20, dtype=values.dtype), sparse_tensor_core.pack(values, indices))


# ---- the kernels

QUICK = {
    ("mma", 0, "bf16", "late", True),
    ("mma", 4, "bf16", "late", False),
    ("wgmma_ss", 0, "bf16", "late", True),
    ("wgmma_ss", 3, "fp16", "early", False),
    ("wgmma_rs", 2, "bf16", "late", True),
}
RUNS = [
    pytest.param(
        kernel, i, type, timing, edges, marks=[] if (kernel, i, type, timing, edges) in QUICK else pytest.mark.slow
    )
    for kernel in sparse_tensor_core.KERNELS
    for i in range(len(MMA if kernel == "mma" else WGMMA))
    for type in TYPES
    for timing in ("early", "late")
    for edges in (False, True)
]


@pytest.mark.parametrize(("kernel", "number", "type", "timing", "edges"), RUNS)
def test_every_configuration_is_exact(kernel, number, type, timing, edges):
    config = sparse_tensor_core.tuner(kernel).configs[number]
    inputs = sparse_tensor_core.integers(shape_for(config, edges), TYPES[type], CPU)
    machine = Machine(timing, seed=number)
    assert torch.equal(multiply(kernel, config, inputs, machine), inputs[-1])
    used = {key[-1] for key in machine.count if key[0] in ("mma.sp", "wgmma.sp")}
    assert used == {0, 1}, "both selectors are used"


EIGHT_RUNS = [
    pytest.param(
        kernel,
        dtype,
        i,
        timing,
        edges,
        marks=[] if (i, timing, edges) == (0, "late", True) and kernel != "wgmma_ss" else pytest.mark.slow,
    )
    for kernel in sparse_tensor_core.KERNELS
    for dtype in EIGHT
    for i in range(len(sparse_tensor_core.offered(kernel, dtype)))
    for timing in ("early", "late")
    for edges in (False, True)
]


@pytest.mark.parametrize(("kernel", "dtype", "number", "timing", "edges"), EIGHT_RUNS, ids=str)
def test_eight_bits_are_exact(kernel, dtype, number, timing, edges):
    config = sparse_tensor_core.offered(kernel, dtype)[number]
    M, N, K = shape_for(config, edges)
    inputs = sparse_tensor_core.integers((M, N, 2 * K), dtype, CPU)
    y = multiply(kernel, config, inputs, Machine(timing, seed=number), EIGHT[dtype] if kernel == "mma" else "sm_90")
    assert y.dtype == torch.bfloat16 and torch.equal(y, inputs[-1])


@pytest.mark.parametrize("kernel", ["wgmma_rs", pytest.param("wgmma_ss", marks=pytest.mark.slow)])
@pytest.mark.parametrize("number", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in (1, 2, 3))])
def test_fp32_results_of_eight_bits_are_exact(kernel, number):
    config = sparse_tensor_core.offered(kernel, torch.float8_e4m3fn)[number]
    *inputs, _ = sparse_tensor_core.integers((21, 130, 260), torch.float8_e4m3fn, CPU)
    x, values, indices, bias, residual = inputs
    places = torch.stack([indices & 15, indices >> 4], -1).flatten(1)[:, : values.shape[1] // 2].long()
    places = 4 * torch.arange(places.shape[1])[:, None] + torch.stack([places & 3, places >> 2], -1)
    dense = torch.zeros(130, 260).scatter_(1, places.flatten(1), values.float())
    scale = sparse_tensor_core.scales(130, x.dtype, CPU)
    expected = (x.float() @ dense.T * scale + bias + residual).relu()
    y = multiply(kernel, config, (*inputs, expected))
    assert y.dtype == torch.float32 and torch.equal(y, expected)


# ---- few rows: programs share the columns of a block


def shared(inputs, target, machine, processors=4):
    """relu(...) of these integers as on a GPU with so many multiprocessors, in the configuration that is chosen."""
    x, values, indices, bias, residual, expected = inputs
    packed, scale = sparse_tensor_core.pack(values, indices), sparse_tensor_core.scales(len(values), x.dtype, CPU)
    with mock.patch.object(devices, "processors", lambda device: processors), emulated(target, machine):
        return sparse_tensor_core.matmul(x, packed, bias, residual, "relu", scale, expected.dtype)


@pytest.mark.parametrize(
    ("dtype", "target", "shape", "programs"),
    [
        (torch.bfloat16, "sm_80", (1, 120, 2048), 4),
        (torch.bfloat16, "sm_90", (5, 250, 2092), 4),  # 33 steps in four shares, edges along N and K
        pytest.param(torch.float16, "sm_90", (16, 128, 1088), 2, marks=pytest.mark.slow),
        (torch.int8, "sm_80", (5, 250, 4184), 4),
        pytest.param(torch.float8_e4m3fn, "sm_89", (3, 120, 6000), 5, marks=pytest.mark.slow),
        pytest.param(torch.float8_e4m3fn, "sm_120", (1, 250, 4184), 4, marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize("timing", ["early", "late"])
def test_shared_columns_are_exact(dtype, target, shape, programs, timing):
    inputs, machine = sparse_tensor_core.integers(shape, dtype, CPU), Machine(timing, seed=shape[0])
    assert torch.equal(shared(inputs, target, machine), inputs[-1])
    assert [compiled.name for compiled in machine.compiled] == ["sparse_mma_kernel", "sum_pieces_kernel"]
    packed = sparse_tensor_core.pack(*inputs[1:3])
    assert mma.splits(shape[0], packed, 4) == programs


@pytest.mark.parametrize(
    ("M", "N", "K", "programs"),
    [
        (1, 4096, 14336, 8),  # 32 blocks for 132 processors
        (16, 4096, 14336, 8),
        (16, 14336, 4096, 2),  # 112 blocks
        (64, 14336, 4096, 1),  # 448 blocks
        (64, 1024, 4096, 2),  # 32 blocks, but so many sums cost a quarter of the weight
        (1, 128, 512, 1),  # each share has 8 steps
        (4096, 4096, 4096, 1),
    ],
)
def test_as_many_programs_as_there_is_work_for(M, N, K, programs):
    packed = mock.Mock(shape=(N, K), out_features=N, dtype=torch.bfloat16)
    packed.weight.nbytes, packed.metadata.nbytes = N * K, N * K // 8
    assert mma.splits(M, packed, 132) == programs


@pytest.mark.parametrize("M", [1, 7, 16])
def test_rows_that_are_not_there_are_not_read(M):
    """All programs would read the last row again and again."""
    machine, inputs = Machine(), sparse_tensor_core.integers((M, 128, 128), torch.bfloat16, CPU)
    assert torch.equal(multiply("mma", MMA[0], inputs, machine), inputs[-1])
    packed = sparse_tensor_core.pack(*inputs[1:3])
    assert machine.count["cp.async bytes",] == inputs[0].nbytes + packed.weight.nbytes + packed.metadata.nbytes


@pytest.mark.parametrize("M", [16, 64, 256, 1024, 4096])
@pytest.mark.parametrize("target", ["sm_86", "sm_90"])
@pytest.mark.parametrize("settings", [("bf16", None), ("bf16", "gelu"), ("e4m3", None), ("s8", "relu")], ids=str)
def test_few_configurations_are_tried(M, target, settings):
    call = {"TYPE": settings[0], "ACTIVATION": settings[1], "SPLIT": False}
    with emulated(target, Machine()):
        found = worth_trying(MMA, {"M_CLASS": M, "N_PACKED": 4096}, **call)
        assert 1 <= len(found) <= TRIED and all(config.kwargs["BLOCK_M"] <= M for config in found)
        assert (MMA[0] in found) == (M <= 64 or settings[0] == "e4m3" or settings[1] == "gelu")
        assert worth_trying(MMA, {"M_CLASS": M, "N_PACKED": 4096}, **call | {"SPLIT": True}) == MMA[:1]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
@pytest.mark.parametrize("number", [0, 2, 6])
def test_mma_is_exact_on_every_architecture(target, number):
    inputs = sparse_tensor_core.integers(shape_for(MMA[number], True), torch.bfloat16, CPU)
    assert torch.equal(multiply("mma", MMA[number], inputs, target=target), inputs[-1])


@pytest.mark.slow
@pytest.mark.parametrize("kernel", sparse_tensor_core.KERNELS)
@pytest.mark.parametrize("steps", range(1, 10))
def test_any_number_of_steps_and_any_schedule(kernel, steps):
    config = MMA[0] if kernel == "mma" else WGMMA[0]
    inputs = sparse_tensor_core.integers((40, 200, 64 * steps), torch.bfloat16, CPU)
    for timing in ("early", "late"):
        assert torch.equal(multiply(kernel, config, inputs, Machine(timing, seed=steps)), inputs[-1])


@pytest.mark.parametrize("kernel", ["mma", "wgmma_rs"])
def test_any_rows_of_x(kernel):
    """Strided, unaligned, ragged: K = 30 is padded, a slice of a wider matrix is read in place."""
    config = MMA[0] if kernel == "mma" else WGMMA[0]
    x, *rest = sparse_tensor_core.integers((3, 9, 32), torch.bfloat16, CPU)
    for form in (x.T.contiguous().T, torch.cat([x, x], 1)[:, :32], torch.cat([x[:, :1], x], 1)[:, 1:]):
        ready = _plan_rows(form, aligned(form))(form)
        assert torch.equal(ready, x) and ready.stride(0) % 8 == 0 and ready.data_ptr() % 16 == 0
    wide = torch.cat([x, x], 1)[:, :32]
    assert _plan_rows(wide, True)(wide) is wide
    assert torch.equal(multiply(kernel, config, (wide, *rest)), rest[-1])
    inputs = sparse_tensor_core.integers((1, 1, 30), torch.bfloat16, CPU)
    assert torch.equal(multiply(kernel, config, inputs), inputs[-1])


@pytest.mark.parametrize(
    "activation",
    ["gelu", *(pytest.param(name, marks=pytest.mark.slow) for name in [*ACTIVATIONS, None] if name != "gelu")],
)
def test_epilogue(activation):
    x, values, indices, bias, residual, _ = sparse_tensor_core.integers((16, 128, 64), torch.float16, CPU)
    x, values = x / 16, values / 4
    packed = sparse_tensor_core.pack(values, indices)
    with emulated("sm_80", Machine()), sparse_tensor_core.forced("mma", MMA[0]):
        plain = sparse_tensor_core.matmul(x, packed)
        y = sparse_tensor_core.matmul(x, packed, bias, residual, activation)
    sums = plain.double()
    assert_close("y", y, finish(sums, bias.double(), residual.double(), activation), torch.float16)


# ---- a broken kernel is noticed


def another_metadata(ptx):
    found = re.findall(r"mma\.sp[^;]*, (%r\d+), 0x0;", ptx)
    other = next(register for register in found if register != found[0])
    return nth(r"(mma\.sp[^;]*, )%r\d+, 0x0;", rf"\g<1>{other}, 0x0;")(ptx)


def other_product(ptx):
    """The first fp8 product of wgmma.sp reads the metadata of the second."""
    found = re.findall(r"wgmma\.mma_async\.sp[^;]*, xd, (%r\d+), 0,", ptx)
    other = next(register for register in found if register != found[0])
    return nth(r"(wgmma\.mma_async\.sp[^;]*, xd, )%r\d+, 0,", rf"\g<1>{other}, 0,")(ptx)


SP = r"(wgmma\.mma_async\.sp[^;]*?"
MUTATIONS = {
    "mma": {
        "selector": nth(r"(mma\.sp[^;]*, 0x)0;", r"\g<1>1;", 5),
        "registers of W": nth(r"(mma\.sp\S+ \{[^}]*\}, \{)(%r\d+),(%r\d+),(%r\d+)", r"\1\2,\4,\3", 7),
        "registers of x": nth(r"(mma\.sp\S+ \{[^}]*\}, \{[^}]*\}, \{)(%r\d+),(%r\d+)", r"\1\3,\2", 9),
        "wait for one copy less": every(r"(cp\.async\.wait_group\s+)(0x)?2;", r"\g<1>3;"),
        "no wait": every(r"cp\.async\.wait_group\s+[^;]*;", ""),
        "barrier of the loop": nth(r"bar\.sync\s+0;|barrier\.sync\S*\s+0;", "", 0),
        "swizzle": nth(r"xor\.b32\s+(%r\d+), (%r\d+), 64;", r"xor.b32 \1, \2, 32;"),
    },
    "wgmma_ss": {
        "selector": nth(SP + r"%r\d+, )1(, 1, 1, 1)", r"\g<1>0\2"),
        "second product of x": nth(r"add\.s32 xs, xs, 65600;", "add.s32 xs, xs, 65568;"),
        "second product of W": nth(r"add\.s32 ws, ws, 32;", "add.s32 ws, ws, 64;"),
        "swizzle": every("0x40000040", "0x80000020"),
        "rows between": every("0x40000040", "0x40000020"),
        "offset of W": nth(r"add\.s32 ws, ws, (\d{4,});", "add.s32 ws, ws, 64;"),
        "one group stays in flight": every(r"wgmma\.wait_group\.sync\.aligned 0;", "wgmma.wait_group.sync.aligned 1;"),
        "two groups in flight": every(r"wgmma\.wait_group\.sync\.aligned 1;", "wgmma.wait_group.sync.aligned 3;"),
        "no wgmma.fence": every(r"wgmma\.fence\.sync\.aligned;", ""),
        "no fence before TMA": every(r"fence\.proxy\.async[^;]*;", ""),
        "no arrival": nth(r"@%p\d+ mbarrier\.arrive\.shared::cta\.b64 _, \[[^\]]*\];", ""),
        "one consumer": every(r"(mbarrier\.init\.shared::cta\.b64 \[[^\]]*\]), 2;", r"\1, 1;"),
        "parity": nth(r"(mbarrier\.try_wait\.parity\.shared\S*\.b64 complete, \[[^\]]*\], )%r\d+;", r"\g<1>1;"),
    },
    "int8": {
        "registers of W": nth(r"(mma\.sp\S+ \{[^}]*\}, \{)(%r\d+),(%r\d+),(%r\d+)", r"\1\2,\4,\3", 7),
        "registers of x": nth(r"(mma\.sp\S+ \{[^}]*\}, \{[^}]*\}, \{)(%r\d+),(%r\d+)", r"\1\3,\2", 9),
        "metadata of another tile": lambda ptx: another_metadata(ptx),
        "sums as if unsigned": every(r"cvt\.rn\.f32\.s32", "cvt.rn.f32.u32"),
        "wait for one copy less": every(r"(cp\.async\.wait_group\s+)(0x)?2;", r"\g<1>3;"),
    },
    "fp8": {
        "metadata of the other product": lambda ptx: other_product(ptx),
        "sums go on": nth(SP + r"%r\d+, 0, )0(, 1, 1)", r"\g<1>1\2"),
        "second product begins": nth(SP + r"%r\d+, 0, )1(, 1, 1)", r"\g<1>0\2"),
        "step of x": nth(r"add\.s32 xs, xs, 4;", "add.s32 xs, xs, 2;"),
        "step of W": nth(r"add\.s32 ws, ws, 2;", "add.s32 ws, ws, 4;"),
        "one group stays in flight": every(r"wgmma\.wait_group\.sync\.aligned 0;", "wgmma.wait_group.sync.aligned 1;"),
        "two groups in flight": every(r"wgmma\.wait_group\.sync\.aligned 1;", "wgmma.wait_group.sync.aligned 2;"),
        "the other half of x": nth(r"add\.s32 xs, xs, 66560;", "add.s32 xs, xs, 65536;"),
    },
    "wgmma_rs": {"registers of W": nth(SP + r"\}, \{)(%r\d+),(%r\d+),(%r\d+)", r"\1\2,\4,\3")},
}
FEW = {
    ("int8", "registers of W"),
    ("int8", "metadata of another tile"),
    ("fp8", "metadata of the other product"),
    ("fp8", "sums go on"),
    ("mma", "selector"),
    ("mma", "no wait"),
    ("mma", "swizzle"),
    ("wgmma_ss", "swizzle"),
    ("wgmma_ss", "one group stays in flight"),
    ("fp8", "two groups in flight"),
}
FEW |= {("wgmma_ss", "no wgmma.fence"), ("wgmma_ss", "no fence before TMA")}


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        pytest.param(kernel, name, marks=[] if (kernel, name) in FEW else pytest.mark.slow)
        for kernel, changes in MUTATIONS.items()
        for name in changes
    ],
)
def test_a_change_of_the_ptx_is_noticed(kernel, name):
    config = MMA[0] if kernel in ("mma", "int8") else WGMMA[0]
    dtype = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}.get(kernel, torch.bfloat16)
    inputs = sparse_tensor_core.integers((20, 128, 64 * 6 * 2 // dtype.itemsize), dtype, CPU)
    assert any(
        broken({"int8": "mma", "fp8": "wgmma_ss"}.get(kernel, kernel), config, inputs, MUTATIONS[kernel][name], seed)
        for seed in range(4)
    )


def broken(kernel, config, inputs, change, seed):
    """Whether one of two runs is wrong or stops."""
    for timing in ("early", "late"):
        try:
            if not torch.equal(multiply(kernel, config, inputs, Machine(timing, seed, change)), inputs[-1]):
                return True
        except Fault:
            return True
    return False


def test_one_bit_of_the_metadata_is_noticed():
    x, values, indices, *_ = sparse_tensor_core.integers((16, 128, 64), torch.bfloat16, CPU)
    values[:], x[:] = 1, torch.arange(64)
    packed = sparse_tensor_core.pack(values, indices)
    packed.metadata.view(-1)[40] ^= 2 if packed.metadata.view(-1)[40] & 15 == 4 else 1
    try:
        with emulated("sm_80", Machine()), sparse_tensor_core.forced("mma", MMA[0]):
            changed = sparse_tensor_core.matmul(x, packed)
            packed = sparse_tensor_core.pack(values, indices)
            assert not torch.equal(changed, sparse_tensor_core.matmul(x, packed))
    except Fault as fault:
        assert "two places" in str(fault)


# ---- what the user is told


def test_a_cpu_is_not_supported():
    for kernel in sparse_tensor_core.KERNELS:
        assert "NVIDIA" in sparse_tensor_core.supported("cpu", kernel) == sparse_tensor_core.verified("cpu", kernel)


@pytest.mark.parametrize(("capability", "kernel", "reason"), [((7, 5), "mma", "sm_80"), ((10, 0), "wgmma_rs", "sm_90")])
def test_the_wrong_gpu_is_not_supported(monkeypatch, capability, kernel, reason):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert reason in sparse_tensor_core.supported("cuda", kernel)


@pytest.mark.parametrize(
    ("dtype", "capability", "reason"),
    [
        (torch.int8, (8, 0), None),
        (torch.int8, (10, 0), None),
        (torch.float8_e4m3fn, (12, 0), None),
        (torch.float8_e4m3fn, (8, 6), "needs sm_89 or sm_12x"),
        (torch.float8_e4m3fn, (8, 9), None),
        (torch.float8_e4m3fn, (9, 0), "others convert it to fp16, this is sm_90"),
    ],
)
def test_which_gpus_multiply_eight_bits(monkeypatch, dtype, capability, reason):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found = sparse_tensor_core.lacks("cuda", dtype)
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize(
    ("dtype", "capability", "kernel"),
    [
        (torch.int8, (9, 0), "mma"),
        (torch.float8_e4m3fn, (9, 0), "wgmma_rs"),
        (torch.float8_e4m3fn, (8, 9), "mma"),
        (torch.float8_e4m3fn, (10, 0), "mma"),
    ],
)
def test_which_kernel_reads_eight_bits(monkeypatch, dtype, capability, kernel):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert sparse_tensor_core.words_kernel("cuda", dtype) == kernel


SHARED = (1, 128, 2048)  # by 2 of 8 bits, 4 of 16


def verifying(monkeypatch, kernel, trial):
    """``verified``, uncached, where every device is supported: one configuration, one (M, N, K) and, for mma, one more
    whose columns are shared."""
    monkeypatch.setattr(verify, "supported", lambda device, kernel: None)
    monkeypatch.setattr(verify, "TRIALS", (trial,))
    monkeypatch.setattr(verify, "SHARED", SHARED)
    monkeypatch.setattr(devices, "processors", lambda device: 2)
    monkeypatch.setattr(sparse_tensor_core.tuner(kernel), "configs", (MMA if kernel == "mma" else WGMMA)[:1])
    return sparse_tensor_core.verified.__wrapped__


@pytest.mark.parametrize("dtype", [torch.int8, pytest.param(torch.float8_e4m3fn, marks=pytest.mark.slow)], ids=str)
def test_eight_bits_are_verified_likewise(monkeypatch, dtype):
    monkeypatch.setattr(verify, "lacks", lambda device, dtype: None)
    verified = verifying(monkeypatch, "mma", (16, 128, 512))
    with emulated(EIGHT[dtype], Machine()):
        assert verified(CPU, "mma", dtype) is None
        assert "weights, got torch.float32" in verified(CPU, "wgmma_ss", torch.float32)
    with emulated(EIGHT[dtype], Machine(change=another_metadata)):
        assert "mma is wrong with triton" in verified(CPU, "mma", dtype)


@pytest.mark.slow
def test_fp8_on_wgmma_is_verified_likewise(monkeypatch):
    verified = verifying(monkeypatch, "wgmma_rs", (16, 128, 512))
    with emulated("sm_90", Machine()):
        assert verified(CPU, "wgmma_rs", torch.float8_e4m3fn) is None
    with emulated("sm_90", Machine(change=other_product)):
        assert "wgmma_rs is wrong with triton" in verified(CPU, "wgmma_rs", torch.float8_e4m3fn)


def test_a_kernel_is_chosen_only_after_it_was_right(monkeypatch):
    verified = verifying(monkeypatch, "mma", (16, 128, 64))
    with emulated("sm_80", Machine()):
        assert verified(CPU) is None
    with emulated("sm_80", Machine(change=every(r"(mma\.sp[^;]*, 0x)1;", r"\g<1>0;"))):
        assert "mma is wrong with triton" in verified(CPU)
    with emulated("sm_80", Machine(change=lambda ptx: ptx.replace("mma.sp", "mma.dense"))):
        assert "does not run" in verified(CPU)


def test_shared_columns_are_verified_likewise(monkeypatch):
    verified, wrong = verifying(monkeypatch, "mma", (16, 128, 64)), []

    def others(ptx):
        """Each program but the first begins where the first does."""
        wrong.append("%ctaid.y" in ptx)
        return ptx.replace("%ctaid.y", "0")

    with emulated("sm_80", Machine(change=others)):
        assert f"mma is wrong with triton {triton.__version__}, torch.bfloat16 at M, N, K = {SHARED}" in verified(CPU)
    assert any(wrong)


@pytest.mark.parametrize("kernel", ["mma", "wgmma_ss"])
def test_the_tuned_choice_is_stored(kernel, monkeypatch, tmp_path):
    """Triton stores none where a configuration has a pre_hook."""
    tuned, timed = sparse_tensor_core.tuner(kernel), []

    def bench():
        timed.append(kernel)
        tuned.configs_timings = {config: -float(i) for i, config in enumerate(tuned.configs)}

    monkeypatch.setattr(tuned, "configs_timings", None, raising=False)
    monkeypatch.setattr(tuned, "_found", {})
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    with emulated("sm_90", Machine()):
        for _ in range(2):
            tuned.check_disk_cache(("a shape",), tuned.configs, bench)
        assert timed == [kernel] and tuned.cache["a shape",].kwargs == tuned.configs[-1].kwargs


@pytest.mark.parametrize(
    ("kernel", "case", "config", "expected"),
    [
        ("sparse_wgmma_kernel", "sparse wgmma_ss bf16", "TYPE=bf16 BLOCK_M=256 STAGES=4 w12 s3", 10.0),
        ("sparse_wgmma_kernel", "sparse wgmma_rs fp8", "TYPE=e4m3 BLOCK_M=128 STAGES=6 w12 s3", 6.3),
        ("sparse_mma_kernel", "sparse mma bf16", "BLOCK_N=256 BLOCK_M=64 WARPS_N=4 WARPS_M=1 STAGES=3 w4 s3", 12.7),
    ],
)
def test_what_a_step_reads_is_counted(kernel, case, config, expected):
    """In bytes for a thousand FLOP: at 864 TFLOP/s, 10 are 8.6 TB/s."""
    assert sparse.traffic({"kernel": kernel, "case": case, "config": config}) == pytest.approx(expected, abs=0.06)
    assert sparse.traffic({"kernel": "sum_pieces_kernel", "case": case, "config": ""}) is None
