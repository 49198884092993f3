"""One more method, as a stranger would add it: a class in a file and a line in the table, and everything takes it."""

import json

import pytest
import torch

from smart_train import PRUNERS, Pruner
from smart_train.cli import main
from smart_train.demo import check
from smart_train.run import loop, plots, prune, training


class RandomPruner(Pruner):
    """Tiles at random: drawn when the search begins, pruned gradually."""

    title = "random tiles"
    options = ("luck",)

    def __init__(self, *place, luck=1, **common):
        self.luck = luck
        super().__init__(*place, **common)

    def start(self):
        generator = torch.Generator().manual_seed(self.luck)
        for layer in self.layers.values():
            layer.scores.copy_(torch.rand(layer.scores.shape, generator=generator))

    def search(self):
        self.masked.set_masks(self.masked.hard_masks(self.progress))


TINY = ["prune", "--model", "cnn-tiny", "--sparsity", "0.75", "--batch", "32", "--pruner", "random", "--baseline"]
TINY += ["--dense-steps", "12", "--search-steps", "12", "--finetune-steps", "8", "--pattern", "block:8x8"]


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRUNERS, "random", RandomPruner)
        patch.setattr(prune, "PATIENCE", 0.0)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "random"
    assert main([*TINY, "--out", str(out)]) == 0
    return out


def test_report_and_tables(whole):
    report = json.loads((whole / "report.json").read_text())
    assert list(report["accuracy"]) == ["dense", "random", "oneshot"] and report["recipe"]["pruner"] == "random"
    assert 0 <= report["budget"]["asked"] - report["budget"]["kept"] < report["budget"]["largest_block"]
    text = (whole / "report.md").read_text()
    assert "random tiles" in text and "one-shot magnitude" in text and "SMART" not in text


def test_history_and_plots(whole):
    rows = [json.loads(line) for line in (whole / "training/random/history.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["search", "search", "finetune", "finetune"]
    assert rows[0]["live"] > rows[1]["live"] > 0.25 and "temperature" not in rows[0]
    assert {path.name for path in whole.glob("*.png")} >= {"accuracy.png", "temperature.png", "latency.png"}
    colours = plots.colours(json.loads((whole / "report.json").read_text()))
    assert list(colours) == ["dense", "random", "oneshot"] and len(set(colours.values())) == 3


def test_run_and_the_demos_check(whole, capsys):
    assert main(["run", str(whole)]) == 0
    measured, reported = capsys.readouterr().out.removeprefix("accuracy ").split(", reported ")
    assert measured.strip() == reported.strip()
    report = json.loads((whole / "report.json").read_text())
    report["accuracy"] |= {"random": 50.0, "oneshot": 60.0}
    demand = "random tiles is at least as accurate as one-shot, got 50.00 and 60.00"
    assert any(demand in each for each in check(report))


def test_killed_in_the_search_and_resumed_is_the_same(whole, tmp_path, monkeypatch):
    advance = training.Training.advance
    fit = loop.fit

    def advance_and_die(running):
        if running.pruner and running.step == 7:
            raise KeyboardInterrupt
        return advance(running)

    monkeypatch.setattr("smart_train.run.stages.fit", lambda *args, **kwargs: fit(*args, every=3, **kwargs))
    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "advance", advance_and_die)
        assert main([*TINY, "--out", str(tmp_path / "killed")]) == 130
    assert main([*TINY, "--out", str(tmp_path / "killed"), "--resume"]) == 0
    states = [torch.load(out / "training/random/state.pt", weights_only=True) for out in (whole, tmp_path / "killed")]
    assert states[0]["pruner"]["masks"].keys() == states[1]["pruner"]["masks"].keys() != set()
    for key, tensor in states[0]["model"].items():
        assert tensor.equal(states[1]["model"][key]), key
    reports = [json.loads((out / "report.json").read_text()) for out in (whole, tmp_path / "killed")]
    for part in ("accuracy", "budget", "steps"):
        assert reports[0][part] == reports[1][part]


def test_options(tmp_path, capsys):
    assert main([*TINY, "--option", "luck=7", "--out", str(tmp_path / "seven")]) == 0
    assert json.loads((tmp_path / "seven/recipe.json").read_text())["options"] == {"luck": 7}
    capsys.readouterr()
    assert main([*TINY, "--option", "luck=8", "--out", str(tmp_path / "seven"), "--resume"]) == 2
    assert "options: {'luck': 8}, {'luck': 7} there" in capsys.readouterr().err
    assert main([*TINY, "--option", "lick=8", "--out", str(tmp_path / "other")]) == 2
    assert "options must be among luck of random, got {'lick': 8}" in capsys.readouterr().err
    assert main([*TINY, "--pruner", "smart", "--option", "warmup=0", "--out", str(tmp_path / "other")]) == 2
    assert "options must be among init, prepare_batches of smart, got {'warmup': 0}" in capsys.readouterr().err
    assert main([*TINY, "--option", "luck", "--out", str(tmp_path / "other")]) == 2
    assert "--option must be NAME=VALUE, got 'luck'" in capsys.readouterr().err


def test_an_unknown_method_is_refused_by_name(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*TINY, "--pruner", "nobody", "--out", str(tmp_path)])
    assert "random" in capsys.readouterr().err
