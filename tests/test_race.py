"""When a comparison ends: after few rounds where more would not change it, and never before it is clear."""

import pytest
import torch

from smart_kernels.convert.measure import choose, timing
from smart_kernels.convert.measure.effort import FULL, TOLD
from smart_kernels.convert.measure.race import decided, in_reach

CPU = torch.device("cpu")
DENSE = ("dense", "packed")


def steady(seconds, count=10):
    return [seconds * (1 + 0.001 * (i % 3)) for i in range(count)]


def noisy(seconds, count=10):
    return [seconds * (0.8 + 0.1 * (i % 5)) for i in range(count)]


@pytest.mark.parametrize(
    "times, expected",
    [
        pytest.param({"dense": steady(1.0), "ell": steady(0.5)}, True, id="wins clearly"),
        pytest.param({"dense": steady(1.0), "ell": steady(1.5)}, True, id="loses clearly"),
        pytest.param({"dense": steady(1.0), "ell": steady(0.95)}, False, id="wins narrowly"),
        pytest.param({"dense": steady(1.0), "packed": steady(0.97), "ell": steady(2.0)}, False, id="two dense ones"),
        pytest.param({"dense": steady(1.0), "ell": steady(0.5), "jit": steady(0.505)}, True, id="two sparse ones"),
        pytest.param({"dense": steady(1.0), "ell": noisy(0.75)}, False, id="noise"),
        pytest.param(
            {"dense": steady(1.0), "ell": steady(0.5), "jit": noisy(0.52)}, False, id="noise of two sparse ones"
        ),
        pytest.param({"dense": steady(1.0)}, True, id="alone"),
    ],
)
def test_decided(times, expected):
    assert decided(times, DENSE) is expected


def test_only_the_clearly_beaten_leave():
    times = {"a": [1.0, 1.1], "b": [1.05, 1.0], "near": [1.2, 1.15], "far": [1.3, 1.25]}
    assert in_reach(times, 2) == ["a", "b", "near"]
    assert in_reach({**times, "b": [1.05, 9.0], "near": [9.0, 1.15]}, 2) == [*times]  # two bad rounds: nobody is known
    assert in_reach(times, 4) == [*times]


class Clock:
    """A clock on which each candidate takes what it is told, and that counts the samples of each."""

    def __init__(self, seconds, noise=0.0):
        self.seconds, self.noise, self.calls, self.now = seconds, noise, dict.fromkeys(seconds, 0), None
        self.clock = timing.Clock(self.timed)

    def of(self, name):
        def call():
            self.now = name

        return call

    def timed(self, run, calls):
        run()
        count = self.calls[self.now] = self.calls[self.now] + 1
        seconds = self.seconds[self.now] * (1 + self.noise * ((count + ord(self.now[0])) % 5 - 2))
        return lambda: seconds

    def measure(self, effort=FULL, seconds=0.0):
        calls = {name: self.of(name) for name in self.seconds}
        return timing.time_in_turns(calls, DENSE, CPU, seconds, clock=self.clock, effort=effort)


def test_a_clear_comparison_ends_early():
    clock = Clock({"dense": 1.0, "packed": 1.2, "a": 0.4, "b": 0.5, "c": 2.0})
    times = clock.measure()
    assert {name: len(rounds) for name, rounds in times.items()} == dict.fromkeys(("dense", "packed", "a", "b"), 10)
    assert clock.calls["c"] == 1 + timing.LOOK  # one to see how long it takes
    assert choose(times, DENSE).name == "a"


@pytest.mark.parametrize("seconds", [0.95, 1.05])
def test_a_close_comparison_takes_all_rounds(seconds):
    times = Clock({"dense": 1.0, "a": seconds}).measure()
    assert {len(rounds) for rounds in times.values()} == {FULL.pairs}


def test_noise_takes_all_rounds_and_leaves_nobody_out():
    clock = Clock({"dense": 1.0, "a": 0.7, "b": 0.72, "c": 0.75}, noise=0.2)
    assert {len(rounds) for rounds in clock.measure().values()} == {FULL.pairs}
    assert clock.calls["c"] == 1 + FULL.trial


def test_numbers_that_are_told_have_all_rounds():
    times = Clock({"dense": 1.0, "a": 0.1}).measure(TOLD)
    assert {len(rounds) for rounds in times.values()} == {TOLD.pairs}


def test_numbers_that_are_told_go_on_while_they_have_not_settled():
    noisy = {"dense": 1.0, "a": 0.1}
    assert len(Clock(noisy, noise=0.2).measure(TOLD, 0.02)["a"]) > TOLD.pairs
    assert len(Clock(noisy, noise=0.2).measure(FULL, 0.02)["a"]) < FULL.pairs, "it is clear who wins"
    assert len(Clock(noisy).measure(TOLD, 5.0)["a"]) == TOLD.pairs, "settled"
