"""Asynchronous copies: early and late, complete only after the wait, visible to TMA only after the fence."""

import numpy as np
import pytest

from .copies import TensorMap, swizzled
from .snippet import run
from .warp import PARAMETER_BASE, Fault

MAP = PARAMETER_BASE
CP_ASYNC = """
    shl.b32 %o, %tid.x, 4;
    add.s32 %a, %o, global_smem;
    cvt.u64.u32 %w, %o;
    add.s64 %g, %base, %w;
    cp.async.cg.shared.global [%a], [%g], 16, %size;
    cp.async.commit_group;
    {wait}
    ld.shared.b32 %d, [%a + 12];
"""


def copied(wait, timing, size=16):
    memory = np.arange(1024, dtype=np.uint32).view(np.uint8)
    sizes = {"%size": np.full(32, size, np.uint32)}
    return run(CP_ASYNC.format(wait=wait), sizes, memory=memory, timing=timing).warps[0].get("%d", "u32")


def test_cp_async_is_done_after_its_wait():
    for timing in ("early", "late"):
        assert copied("cp.async.wait_group 0;", timing).tolist() == [4 * lane + 3 for lane in range(32)]
    assert (copied("cp.async.wait_group 1;", "late") == 0xFFFFFFFF).all(), "one group may still be on its way"
    assert (copied("", "early") != 0xFFFFFFFF).all(), "or not"


def test_cp_async_fills_with_zeros():
    assert (copied("cp.async.wait_group 0;", "late", size=0) == 0).all()


@pytest.mark.parametrize(("width", "chunks"), [(128, [3, 2, 1, 0]), (64, [1, 0, 3, 2]), (32, [1, 0])])
def test_swizzle_exchanges_chunks_of_16_bytes(width, chunks):
    """Where the first chunks are, of the row whose swizzle is 3, 1 and 1."""
    row = {128: 3, 64: 2, 32: 4}[width]
    start = row * width
    found = [(int(swizzled(np.array(start + 16 * c), width)) - start) // 16 for c in range(len(chunks))]
    assert found == chunks


LOAD = """
    setp.eq.u32 %p, %tid.x, 0;
    @%p mbarrier.init.shared::cta.b64 [global_smem + 16384], 1;
    bar.sync 0;
    @%p mbarrier.arrive.expect_tx.shared.b64 _, [global_smem + 16384], 1024;
    mov.b32 %c, 0;
    mov.b32 %r, {row};
    @%p cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [global_smem], [%map, {{%c, %r}}],
        [global_smem + 16384];
    {wait}
    shl.b32 %o, %tid.x, 4;
    ld.shared.b32 %d, [global_smem + 144];
"""
WAIT = (
    "{ .reg .pred done; again: mbarrier.try_wait.parity.shared.b64 done, [global_smem + 16384], 0; @!done bra again; }"
)


def loaded(wait=WAIT, row=0, rows=16, timing="late", seed=0):
    memory = np.arange(1024, dtype=np.uint32).view(np.uint8)
    tensor = TensorMap(base=0, rows=rows, row_bytes=128, stride=128, box_rows=8, box_bytes=128, element=2)
    registers = {"%map": np.full(32, MAP, np.uint64)}
    body = LOAD.format(wait=wait, row=row)
    return (
        run(body, registers, memory=memory, maps={MAP: tensor}, timing=timing, seed=seed).warps[0].get("%d", "u32")[0]
    )


def test_tma_swizzles_and_the_mbarrier_knows_when():
    for timing in ("early", "late"):
        assert loaded(timing=timing) == 32, "byte 144 of the tile is chunk 1 of row 1: there is chunk 0, word 32"
    assert loaded(wait="", timing="late") == 0xFFFFFFFF


def test_tma_fills_with_zeros_beyond_the_tensor():
    assert loaded(rows=9, row=8) == 0


STORE = """
    shl.b32 %o, %tid.x, 5;
    add.s32 %a, %o, global_smem;
    st.shared.v4.b32 [%a], {{1, 2, 3, 4}};
    st.shared.v4.b32 [%a + 16], {{5, 6, 7, 8}};
    {fence}
    bar.sync 0;
    setp.eq.u32 %p, %tid.x, 0;
    mov.b32 %c, 0;
    @%p cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%map, {{%c, %c}}], [global_smem];
    cp.async.bulk.commit_group;
    {wait}
"""


def stored(fence="fence.proxy.async.shared::cta;", wait="cp.async.bulk.wait_group.read 0;", rows=32):
    memory = np.zeros(4096, np.uint8)
    tensor = TensorMap(base=0, rows=rows, row_bytes=32, stride=64, box_rows=32, box_bytes=32, element=2)
    registers = {"%map": np.full(32, MAP, np.uint64)}
    run(STORE.format(fence=fence, wait=wait), registers, memory=memory, maps={MAP: tensor})
    return memory.view(np.uint32).reshape(-1, 16)


def test_tma_stores_what_is_fenced_inside_the_tensor():
    out = stored()
    assert out[0, :8].tolist() == list(range(1, 9)) and not out[:32, 8:].any()
    assert out[4, :8].tolist() == [5, 6, 7, 8, 1, 2, 3, 4], "32-byte swizzle: from row 4 on the chunks are exchanged"
    assert not stored(rows=3)[3:].any()
    assert (stored(fence="")[0, :8] == 0xFFFFFFFF).all(), "without the fence TMA sees what was there before"
    assert not stored(wait="").any(), "without the wait the store may come too late"


def test_an_mbarrier_counts_phases_and_arrivals():
    body = """
        setp.eq.u32 %p, %tid.x, 0;
        @%p mbarrier.init.shared::cta.b64 [global_smem], 2;
        @%p mbarrier.arrive.shared::cta.b64 _, [global_smem];
    """
    assert run(body).mbarriers.popitem()[1].phase == 0
    both = run(body + "@%p mbarrier.arrive.shared::cta.b64 _, [global_smem];").mbarriers.popitem()[1]
    assert (both.phase, both.pending) == (1, 2)
    with pytest.raises(Fault, match="more arrivals"):
        run(body.replace(", 2;", ", 1;") + "@%p mbarrier.arrive.shared::cta.b64 _, [global_smem], 2;")
    with pytest.raises(Fault, match="deadlock"):
        run(body + WAIT.replace("+ 16384", ""))
