"""The command that tries other people's models; here with families that are made up."""

import argparse
import sys
import time
from contextlib import closing
from types import ModuleType

import pytest
import torch
from torch import nn

from bench import zoo
from bench.zoo import library as families
from bench.zoo import page, table, trial, worker


class Here:
    """A worker that is no process, as what is made up here is not in others."""

    def __init__(self, seconds):
        self.close = lambda: None

    def __call__(self, function, *args):
        return function(*args)


FAMILY = families.Family("timm", "made_up")


@pytest.fixture
def library(monkeypatch):
    """A timm with three models of one module, and a torchvision with none."""
    built = {
        "made_up_small": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 4, 3)),
        "made_up_medium": lambda: nn.Sequential(nn.Conv2d(3, 99, 3), nn.Conv2d(99, 99, 3)),
        "made_up_large": lambda: nn.Linear(1, 1),
    }
    timm, torchvision = ModuleType("timm"), ModuleType("torchvision")
    timm.list_modules = lambda: ["made_up"]
    timm.list_models = lambda module: sorted(built)
    timm.create_model = lambda name, pretrained: built[name]()
    torchvision.models = argparse.Namespace(list_models=lambda module: [], get_model_builder=None)
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setattr(trial, "version", lambda name: "1")
    monkeypatch.setattr(zoo, "Worker", Here)
    return built


def arguments(tmp_path, **other):
    return argparse.Namespace(
        filter="", out=tmp_path / "zoo.json", dry_run=False, threads=torch.get_num_threads(), **other
    )


def test_the_smallest_is_found_among_those_that_may_be(library):
    name, size, error = families.smallest(FAMILY)
    assert (name, error) == ("made_up_small", "")
    assert size == sum(p.numel() for p in library[name]().parameters())
    assert families.families() == [FAMILY]


def test_a_model_is_slimmed_and_compared(library):
    result = trial.attempt(FAMILY, "made_up_small", torch.get_num_threads())
    assert (result.verdict, result.reason, result.input) == ("slimmed", "", "1x3x64x64")
    assert result.left < 0.75 * result.size


def test_what_stays_and_what_fails_is_told_apart(library):
    library["made_up_small"] = lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 3))
    stays = trial.attempt(FAMILY, "made_up_small", torch.get_num_threads())
    assert stays.verdict == "stays" and stays.left == stays.size
    library["made_up_small"] = lambda: nn.Sequential(nn.Linear(7, 7))
    fails = trial.attempt(FAMILY, "made_up_small", torch.get_num_threads())
    assert fails.verdict == "fails" and "shapes cannot be multiplied" in fails.reason


def test_what_is_in_the_table_is_not_tried_again(library, tmp_path, capsys, monkeypatch):
    args = argparse.Namespace(filter="", out=tmp_path / "zoo.json", dry_run=False, threads=torch.get_num_threads())
    assert zoo.main(args) == 0
    first = table.read(args.out)
    assert list(first) == ["timm made_up"]
    library.clear()
    assert zoo.main(args) == 0 and table.read(args.out) == first
    assert capsys.readouterr().out.count("slimmed") == 2


def test_the_page_counts_what_was_tried():
    def result(verdict, size=100, left=50):
        return table.Result(f"timm {verdict}", "m", size, left, "1x3x64x64", verdict, "a | b", 1.0, "here")

    text = "\n".join(page.lines([result("slimmed"), result("stays"), result("fails"), result("left out")]))
    assert "**33.3 % of 3 families slimmed**: 1 fails, 1 stays, 1 slimmed, 1 left out" in text
    assert "Made with: here" in text and "a / b" in text


def test_a_worker_that_gives_no_answer_is_replaced():
    work = worker.Worker(60.0)
    with closing(work):
        assert work(abs, -3) == 3
        work.seconds = 0.2
        with pytest.raises(TimeoutError, match=r"no answer within 0.2 s"):
            work(time.sleep, 30)
        work.seconds = 60.0
        assert work(abs, -4) == 4
