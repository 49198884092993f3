"""A pruning run that is killed at random points, and the one that continues it.

The points are counted, not timed: every call that the trainings, ``torch.save`` and ``json`` make is one. So a kill
falls into a step, into the writing of a file, or between two files, and into the same whenever it is repeated.
"""

import os
import shutil
import signal
import sys
import tempfile
from functools import cache, partial
from pathlib import Path
from random import Random
from unittest import mock

import torch

from smart_train import data
from smart_train.run import checkpoint, stages
from smart_train.run.loop import fit
from smart_train.run.recipe import Recipe

from .originals import equal

MODELS = ("vit-tiny", "cnn-tiny")
COUNTED = ("smart_train/run", "torch/serialization", "json/")
KEPT = ("dense", "smart")  # the trainings of a run


def prepare() -> None:
    """Do nothing: what nobody kills runs when it is needed."""


def case(rng: Random) -> str:
    """Kill a run once or twice, let it end, and compare it with one that nobody killed."""
    name = rng.choice(MODELS)
    whole, points = _whole(name)
    out = Path(tempfile.mkdtemp(prefix="killed"))
    try:
        kills = sorted(rng.sample(range(1, points), rng.choice((1, 1, 2))))
        for point in kills:
            _in_child(name, out, point)
        ended, _ = _in_child(name, out, None)
        assert ended == 0, f"what was killed at points {kills} of {points} did not go on: {ended}"
        for training in KEPT:
            _check_same(out / "training" / training, whole / "training" / training, f"killed at {kills} of {points}")
    finally:
        shutil.rmtree(out)
    return "equal"


@cache
def _whole(name: str) -> tuple[Path, int]:
    """Return the folder of a run that nobody killed, and how many points it has."""
    torch.set_num_threads(1)
    data.load("digits")
    out = Path(tempfile.mkdtemp(prefix="whole"))
    ended, points = _in_child(name, out, None)
    assert ended == 0, "the run that nobody kills must end"
    return out, points


def _in_child(name: str, out: Path, point: int | None) -> tuple[int, int]:
    """Run in a process of its own, killed at a point if one is given; how it ended, and the points it has passed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, str(_run(name, out, point)).encode())
            os._exit(0)
        except BaseException as error:
            print(f"{name} in {out}: {type(error).__name__}: {error}", flush=True)
            os._exit(3)
    os.close(write)
    passed = os.read(read, 100)
    os.close(read)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(passed or 0)


def _run(name: str, out: Path, point: int | None) -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # progress bars
    passed = 0

    def count(frame, event, argument):
        nonlocal passed
        if event in ("call", "c_call") and any(part in frame.f_code.co_filename for part in COUNTED):
            passed += 1
            if passed == point:
                os.kill(os.getpid(), signal.SIGKILL)

    steps = {"dense_steps": 6, "search_steps": 12, "finetune_steps": 6}
    recipe = Recipe.for_model(name, pattern="block:8x8", sparsity=0.7, batch=8, **steps)
    with mock.patch.object(stages, "fit", partial(fit, every=3)):
        run = stages.Stages(recipe, data.load("digits"), out, "cpu", resume=True)
        sys.setprofile(count)
        run.pruned(run.dense())
        sys.setprofile(None)
    return passed


def _check_same(folder: Path, whole: Path, when: str) -> None:
    states = [checkpoint.load(path / "state.pt", "cpu") for path in (folder, whole)]
    assert equal(*states), f"another state of {folder.name}, {when}"
    histories = [(path / "history.jsonl").read_text() for path in (folder, whole)]
    assert histories[0] == histories[1], f"another history of {folder.name}, {when}"
