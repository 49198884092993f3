from dataclasses import FrozenInstanceError
from itertools import pairwise

import pytest

from smart_train.schedule import Cooling, Lengths, cosine, cubic, exponential, keep, linear

STEPS = [i / 100 for i in range(101)]


@pytest.mark.parametrize("schedule", [cosine, exponential, linear])
def test_temperature_falls_from_start_to_end(schedule):
    values = [schedule(u, 0.2, 1e-3) for u in STEPS]
    assert values[0] == pytest.approx(0.2)
    assert values[-1] == pytest.approx(1e-3)
    assert all(a > b for a, b in pairwise(values))


@pytest.mark.parametrize("warmup", [0.0, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("everything, target", [(720, 36), (7, 7), (5, 1), (3, 0)])
def test_the_budget_falls_in_whole_tiles_to_the_target_before_the_search_ends(everything, target, warmup):
    values = [keep(u, everything, target, warmup, whole=True) for u in STEPS]
    assert all(isinstance(value, int) for value in values)
    assert all(a >= b for a, b in pairwise(values))
    assert values[0] == (everything if warmup else target)
    assert all(value == target for u, value in zip(STEPS, values, strict=True) if u >= warmup)


def test_the_budget_of_unequal_tiles_is_real():
    assert keep(0.25, 1000, 100, 0.5, whole=False) == 100 + 900 / 8
    assert keep(0.0, 1000, 100, 0.5, whole=False) == 1000


def test_progress_runs_from_the_first_step_of_the_search_to_its_last():
    lengths = Lengths(search_steps=11, dense_steps=5)
    assert [lengths.progress(step) for step in (5, 10, 15)] == [0, 0.5, 1]
    assert Cooling().temperature_at(lengths.progress(5)) == 0.2
    assert Cooling().temperature_at(lengths.progress(15)) == pytest.approx(1e-3)


def test_temperature_may_be_a_function():
    assert Cooling(lambda u: 1 - u / 2).temperature_at(1.0) == 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"search_steps": 0},
        {"dense_steps": -1},
        {"warmup": 1.0},
        {"warmup": -0.1},
        {"temperature": (0.2, 0.0)},
        {"temperature": 0.2},
        {"temperature": (0.2,)},
    ],
    ids=str,
)
def test_rejects(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind = Lengths if wrong.keys() & {"search_steps", "dense_steps"} else Cooling
        kind(**({"search_steps": 10} if kind is Lengths else {}) | wrong)


@pytest.mark.parametrize("pruned", [0.0, 0.2, 0.875, 1.0])
def test_the_progress_that_has_pruned_a_part_of_what_goes(pruned):
    assert keep(cubic(pruned), 1000, 200, 1.0, whole=False) == pytest.approx(1000 - 800 * pruned)


@pytest.mark.parametrize("name", ["search_steps", "dense_steps"])
def test_steps_are_whole_numbers(name):
    with pytest.raises(TypeError, match=rf"{name} must be a whole number, got 2\.5"):
        Lengths(**{"search_steps": 10} | {name: 2.5})


def test_a_schedule_does_not_change():
    for schedule, name in ((Lengths(3), "search_steps"), (Cooling(), "warmup")):
        with pytest.raises(FrozenInstanceError):
            setattr(schedule, name, 0.5)
