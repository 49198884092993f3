"""Single instructions against values worked out by hand."""

import numpy as np
import pytest

from .arithmetic import f32_to_bf16
from .snippet import block, run, value
from .warp import LANES, Fault

ARITHMETIC = [
    ("add.s32 %d, 2147483647, 1;", "s32", -(2**31)),
    ("sub.s32 %d, 3, 5;", "s32", -2),
    ("mul.lo.s32 %d, 65536, 65537;", "s32", 65536),
    ("mul.hi.u32 %d, 4294967295, 4294967295;", "u32", 4294967294),
    ("mul.wide.s32 %d, -3, 2000000000;", "s64", -6_000_000_000),
    ("mad.lo.s32 %d, 7, 8, -1;", "s32", 55),
    ("mad.wide.u32 %d, 4294967295, 2, 5;", "u64", 8589934595),
    ("div.s32 %d, -7, 2;", "s32", -3),
    ("rem.s32 %d, -7, 2;", "s32", -1),
    ("div.u32 %d, 4294967295, 2;", "u32", 2147483647),
    ("min.s32 %d, -1, 1;", "s32", -1),
    ("max.u32 %d, 4294967295, 1;", "u32", 4294967295),
    ("shl.b32 %d, 1, 32;", "u32", 0),
    ("shl.b32 %d, 3, 30;", "u32", 3221225472),
    ("shr.s32 %d, -8, 1;", "s32", -4),
    ("shr.s32 %d, -8, 40;", "s32", -1),
    ("shr.u32 %d, 4294967288, 1;", "u32", 2147483644),
    ("bfe.u32 %d, 0xABCD, 4, 8;", "u32", 0xBC),
    ("bfe.s32 %d, 0xABCD, 4, 8;", "s32", 0xBC - 256),
    ("bfi.b32 %d, 0xF, 0xAB00, 4, 8;", "u32", 0xA0F0),
    ("prmt.b32 %d, 0x33221100, 0x77665544, 0x7250;", "u32", 0x77225500),
    ("prmt.b32 %d, 0x33221100, 0x77665544, 0x7250U;", "u32", 0x77225500),
    ("lop3.b32 %d, 0xF0F0, 0xFF00, 0x00FF, 0xEA;", "u32", 0xFFFF & ((0xF0F0 & 0xFF00) | 0x00FF)),
    ("xor.b32 %d, 0xFF, 0x0F;", "u32", 0xF0),
    ("selp.b32 %d, 1, 2, true;", "u32", 1),
    ("mov.b32 %d, 0f3F800000;", "f32", 1.0),
    ("mov.b64 %d, {1, 2};", "u64", 2**33 + 1),
    ("fma.rn.f32 %d, 0f40000000, 0f40400000, 0f3F800000;", "f32", 7.0),
    ("add.f32x2 %d, 0x400000003F800000, 0x4040000040000000;", "u64", 0x40A0000040400000),  # (1, 2) + (2, 3)
    ("fma.rn.f32x2 %d, 0x400000003F800000, 0x4040000040000000, 0x0;", "u64", 0x40C0000040000000),
    ("add.rn.f32.bf16 %d, 0x4040, 0f40000000;", "f32", 5.0),  # 3 + 2
    ("ex2.approx.ftz.f32 %d, 0f40400000;", "f32", 8.0),
    ("cvt.rn.bf16x2.f32 %d, 0f40000000, 0f3F800000;", "u32", 0x40003F80),
    ("cvt.rn.f16x2.f32 %d, 0f40000000, 0f3F800000;", "u32", 0x40003C00),
    ("cvt.s64.s32 %d, -5;", "s64", -5),
    ("cvt.u64.u32 %d, 4294967291;", "u64", 4294967291),
]


@pytest.mark.parametrize(("body", "type", "expected"), ARITHMETIC, ids=lambda v: v if isinstance(v, str) else None)
def test_arithmetic(body, type, expected):
    assert value(body, "%d", type) == expected


@pytest.mark.parametrize(
    ("compare", "expected"),
    [
        ("lt.s32 %p, -1, 0", True),
        ("lt.u32 %p, -1, 0", False),
        ("ge.s32 %p, 4, 4", True),
        ("hi.u32 %p, 1, 2", False),
        ("eq.f32 %p, 0f7FC00000, 0f7FC00000", False),
        ("neu.f32 %p, 0f7FC00000, 0f00000000", True),
        ("num.f32 %p, 0f3F800000, 0f7FC00000", False),
        ("lt.and.s32 %p, 0, 1, false", False),
    ],
)
def test_setp(compare, expected):
    assert value(f"setp.{compare};", "%p", "pred") == expected


def test_bf16_rounds_to_nearest_even():
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8)], np.float32)
    assert f32_to_bf16(ties).tolist() == [0x3F80, 0x3F82, 0xBF80]
    assert f32_to_bf16(np.array([np.nan], np.float32))[0] == 0x7FFF


def test_a_predicate_leaves_other_lanes_alone():
    body = "mov.b32 %d, 1; setp.lt.u32 %p, %tid.x, 4; @%p mov.b32 %d, 2; @!%p add.s32 %d, %d, 10;"
    assert run(body).warps[0].get("%d", "u32").tolist() == [2] * 4 + [11] * 28


def test_loops_and_lanes_that_part():
    assert value("mov.b32 %d, 0; $L: add.s32 %d, %d, 1; setp.lt.s32 %p, %d, 5; @%p bra $L;", "%d", "s32") == 5
    body = """
        setp.lt.u32 %p, %tid.x, 4;
        @%p bra $A;
        mov.b32 %d, 1; bra $B;
        $A: mov.b32 %d, 2;
        $B: add.s32 %d, %d, 10;
    """
    assert run(body).warps[0].get("%d", "u32").tolist() == [12] * 4 + [11] * 28
    own = "mov.b32 %d, 0; $L: add.s32 %d, %d, 1; setp.lt.u32 %p, %d, %tid.x; @%p bra $L; {more}"
    assert run(own.format(more="")).warps[0].get("%d", "u32").tolist() == [1, *range(1, 32)]
    with pytest.raises(Fault, match="all lanes must take part"):
        run("setp.lt.u32 %p, %tid.x, 4; @%p bra $L; bar.sync 0; $L: mov.b32 %d, 1;")


def test_shfl_reads_another_lane():
    assert value("shfl.sync.idx.b32 %d|%p, %tid.x, 9, 31, -1;", "%d", "u32", lane=3) == 9


def test_vectors_and_alignment():
    memory = np.zeros(1024, np.uint8)
    body = "mul.wide.u32 %o, %tid.x, 16; add.s64 %a, %base, %o; st.global.v4.b32 [%a], {%tid.x, 1, 2, 3};"
    run(body, memory=memory)
    assert memory.view(np.uint32).reshape(-1, 4)[:32].tolist() == [[lane, 1, 2, 3] for lane in range(32)]
    with pytest.raises(Fault, match="multiples of 16"):
        run("ld.global.v4.b32 {%a, %b, %c, %d}, [%base + 4];", memory=memory)


def test_ldmatrix_and_stmatrix_are_inverse():
    words = {f"%m{j}": (1000 * j + LANES).astype(np.uint32) for j in range(4)}
    body = """
        shl.b32 %o, %tid.x, 4;
        mov.b32 %s, global_smem;
        add.s32 %a, %s, %o;
        stmatrix.sync.aligned.m8n8.x4.shared.b16 [%a], {%m0, %m1, %m2, %m3};
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%l0, %l1, %l2, %l3}, [%a];
        ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%t}, [%a];
        ld.shared.b32 %w, [%a + 4];
    """
    warp = run(body, words).warps[0]
    for j in range(4):
        assert (warp.get(f"%l{j}", "u32") == warp.get(f"%m{j}", "u32")).all()
    # row g of matrix 0 is the words of lanes 4g .. 4g + 3; address 16 lane + 4 is word 1 of row "lane"
    assert warp.get("%w", "u32")[:8].tolist() == [4 * row + 1 for row in range(8)]
    # transposed: lane 4g + t has elements (2t, g) and (2t + 1, g); element (row, 2c) is the word of lane 4 row + c
    assert warp.get("%t", "u32")[0] == 0 | 4 << 16


def test_shared_memory_starts_as_nan():
    assert np.isnan(value("ld.shared.f32 %d, [global_smem];", "%d", "f32"))


BARRIER = """
    setp.lt.u32 %p, %tid.x, 32;
    shl.b32 %o, %laneid, 2;
    add.s32 %a, %o, global_smem;
    @%p st.shared.b32 [%a], 5;
    {barrier}
    ld.shared.b32 %d, [%a];
"""


def test_a_barrier_orders_warps_and_its_absence_shows():
    def seen(barrier, seed):
        return run(BARRIER.format(barrier=barrier), warps=4, seed=seed).warps[3].get("%d", "u32")[0]

    assert {seen("bar.sync 0;", seed) for seed in range(8)} == {5}
    assert {seen("", seed) for seed in range(8)} == {5, 0xFFFFFFFF}


def test_a_deadlock_is_a_fault():
    with pytest.raises(Fault, match="deadlock"):
        run("bar.sync 0, 64;", warps=1)


def test_unknown_instructions_are_faults():
    with pytest.raises(Fault, match="no such instruction"):
        block("frobnicate.s32 %d, 1;").run()
