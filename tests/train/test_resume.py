import json
import os
import random
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from smart_kernels import parse
from smart_train import SmartPruner
from smart_train import data as datasets
from smart_train.models import build
from smart_train.run import checkpoint
from smart_train.run.loop import fit
from smart_train.run.recipe import Recipe
from smart_train.run.training import Course, Training

STEPS, SEARCH = 24, 12


class Killed(BaseException):
    pass


def training(name):
    recipe = Recipe.for_model(
        name, pattern="block:8x8", sparsity=0.75, search_steps=SEARCH, finetune_steps=STEPS - SEARCH, batch=16
    )
    model = with_dropout(build(name, 1, 8, 10))
    pruner = SmartPruner(model, parse(recipe.pattern), recipe.sparsity, search_steps=SEARCH)
    return Training(model, datasets.load("digits"), recipe, Course(STEPS, flat=SEARCH), pruner=pruner)


def with_dropout(model):
    """A model that draws random numbers in every step."""
    return torch.nn.Sequential(torch.nn.Dropout(0.1), model)


def states_equal(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(states_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(states_equal, a, b))
    return a == b


@pytest.fixture(scope="module", params=["cnn-tiny", "vit-tiny"])
def whole(request, tmp_path_factory):
    """A training that nobody interrupted, with its name and folder."""
    done, folder = training(request.param), tmp_path_factory.mktemp("whole")
    fit(done, folder, every=4)
    return request.param, done, folder


@pytest.mark.parametrize("last", [1, 7, SEARCH, SEARCH + 1, STEPS - 1])
def test_killed_and_continued_equals_uninterrupted(whole, last, tmp_path):
    name, done, folder = whole
    interrupted = training(name)
    advance = interrupted.advance

    def advance_and_die():
        if interrupted.step == last:
            raise Killed
        return advance()

    interrupted.advance = advance_and_die
    with pytest.raises(Killed):
        fit(interrupted, tmp_path, every=4)

    torch.manual_seed(99)  # a new process has other random states
    continued = training(name)
    fit(continued, tmp_path, every=4, resume=True)
    assert states_equal(continued.state_dict(), done.state_dict())
    assert (tmp_path / "history.jsonl").read_text() == (folder / "history.jsonl").read_text()


def test_a_finished_training_resumes_to_itself(whole):
    name, done, folder = whole
    again = training(name)
    fit(again, folder, resume=True)
    assert again.step == STEPS and states_equal(again.state_dict(), done.state_dict())


def test_random_states_come_back():
    state = checkpoint.random_state()
    drawn = torch.rand(3), np.random.rand(3).tolist(), random.random()
    checkpoint.set_random_state(state)
    again = torch.rand(3), np.random.rand(3).tolist(), random.random()
    assert torch.equal(drawn[0], again[0]) and drawn[1:] == again[1:]


def test_states_of_gpus_come_back(monkeypatch):
    taken, given = [torch.tensor([1, 2], dtype=torch.uint8)], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: taken)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", given.extend)
    checkpoint.set_random_state(checkpoint.random_state())
    assert states_equal(given, taken)


def test_a_seed_is_that_of_all_generators():
    drawn = []
    for _ in range(2):
        checkpoint.seed(3)
        drawn.append((torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()))
    assert drawn[0] == drawn[1]


def test_a_file_is_on_the_disk_before_it_takes_its_place_and_its_name_after(tmp_path, monkeypatch):
    log, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda it: log.append("folder" if stat.S_ISDIR(os.fstat(it).st_mode) else "file"))
    monkeypatch.setattr(os, "replace", lambda *paths: log.append("replaced") or replace(*paths))
    checkpoint.save(tmp_path / "state.pt", {"step": 1})
    assert log == ["file", "replaced", "folder"]
    checkpoint.write_text(tmp_path / "history.jsonl", "x")
    assert log[3:] == ["file", "replaced"]
    assert checkpoint.load(tmp_path / "state.pt", "cpu") == {"step": 1}


def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    checkpoint.save(path, {"step": 1})
    monkeypatch.setattr(checkpoint.torch, "save", lambda state, file: (file.write(b"half"), exec("raise OSError")))
    with pytest.raises(OSError):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path, "cpu") == {"step": 1}


TRAIN = """
import os
import signal
import sys
from pathlib import Path
from smart_train import data
from smart_train.run.recipe import Recipe
from smart_train.run.stages import Stages
from smart_train.run.training import Training

settings = {"pattern": "block:16x16", "sparsity": 0.8, "batch": 16}
recipe = Recipe.for_model("vit-tiny", dense_steps=5, search_steps=60, finetune_steps=5, **settings)
last = int(sys.argv[1])
advance = Training.advance

def advance_or_die(training):
    if training.pruner and training.step == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return advance(training)

Training.advance = advance_or_die
for out in sys.argv[2:]:
    stages = Stages(recipe, data.load("digits"), Path(out), "cpu", resume=True)
    stages.pruned(stages.dense())
"""


def test_sigkill(tmp_path):
    """The real thing: a process that is killed while it searches, and another one that continues."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    options = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "stderr": subprocess.DEVNULL}
    history = Path("training/smart/history.jsonl")
    process = subprocess.run([sys.executable, "-c", TRAIN, "57", str(killed)], **options)
    assert process.returncode == -signal.SIGKILL and _last_step(killed / history) == 55
    subprocess.run([sys.executable, "-c", TRAIN, "-1", str(killed), str(whole)], check=True, **options)
    states = [checkpoint.load(run / "training/smart/state.pt", "cpu") for run in (killed, whole)]
    assert states_equal(*states)
    assert (killed / history).read_text() == (whole / history).read_text()


def _last_step(history: Path) -> int:
    return json.loads(history.read_text().splitlines()[-1])["step"]
