"""A plan is made once for tensors alike, and never used for others."""

from concurrent.futures import ThreadPoolExecutor

import torch

from smart_kernels.ops.common.launch import NOTHING, traced
from smart_kernels.ops.common.plan import MOST, Planned, buffers, forget


def planned():
    made = []

    def prepare(x, bias, factor):
        made.append((tuple(x.shape), x.stride(), x.dtype, bias is NOTHING, factor))
        return lambda x, bias: factor * x.sum()

    return Planned(prepare), made


def test_another_plan_for_everything_that_matters():
    function, made = planned()
    x, bias = torch.ones(4, 6), torch.ones(6)
    calls = [
        (x, bias, 2), (x.T, bias, 2), (x[:, ::2], bias, 2), (x.double(), bias, 2), (x, NOTHING, 2), (x, bias, 3),
        (x, bias.double(), 2), (x.to("meta"), bias, 2), (x[:2], bias, 2),
    ]  # fmt: skip
    for _ in range(2):
        for x_, bias_, factor in calls:
            result = function((x_, bias_), (factor,))
            if x_.device.type == "cpu":
                assert result == factor * x_.sum()
    assert len(made) == len(calls)
    function((x[2:] + 1, bias), (2,))
    assert len(made) == len(calls), "values and addresses do not matter"


def test_plans_can_be_dropped_and_do_not_grow_without_bound(monkeypatch):
    function, made = planned()
    x = torch.ones(2)
    for _ in range(2):
        function((x, NOTHING), (1,))
    forget()
    function((x, NOTHING), (1,))
    assert len(made) == 2
    monkeypatch.setattr("smart_kernels.ops.common.plan.MOST", 3)
    for factor in range(10):
        function((x, NOTHING), (factor,))
        assert len(function.plans) <= 3 < MOST
    before = len(made)
    for factor in (7, 8, 9):
        function((x, NOTHING), (factor,))
    assert len(made) == before, "only the oldest have gone"


def test_threads_may_plan_at_once(monkeypatch):
    """While plans come and go each call is answered by a plan of its own."""
    function, _ = planned()
    monkeypatch.setattr("smart_kernels.ops.common.plan.MOST", 2)
    x = torch.ones(2)

    def calls(seed):
        for i in range(200):
            factor = (seed + i) % 5
            assert function((x, NOTHING), (factor,)) == 2 * factor
            if i % 50 == seed:
                forget()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(calls, range(4)))
    assert len(function.plans) <= 2


def test_a_graph_gets_a_plan_of_its_own():
    function, made = planned()
    with traced():
        for _ in range(2):
            function((torch.ones(2), NOTHING), (1,))
    assert len(made) == 2 and not function.plans


def test_buffers_lie_in_one_piece_at_aligned_places():
    make = buffers([3, 0, 9], torch.int32, torch.device("cpu"))
    one, two, three = make()
    assert len(one) >= 3 and len(three) >= 9
    assert one.untyped_storage().data_ptr() == three.untyped_storage().data_ptr()
    assert [t.storage_offset() % 4 for t in (one, two, three)] == [0, 0, 0]
    assert len({one.data_ptr(), make()[0].data_ptr()}) == 2, "each call has its own"
    with traced():
        alone = buffers([3, 9], torch.int32, torch.device("cpu"))()
    assert [t.storage_offset() for t in alone] == [0, 0] and len({t.untyped_storage().data_ptr() for t in alone}) == 2
