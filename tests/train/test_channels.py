"""Output channels from the command line: pruned together, removed, saved small, and loaded again."""

import json

import pytest
from safetensors.torch import load_file

from smart_train.cli import main
from smart_train.run import loop, prune, training

CHANNELS = ["--model", "cnn-tiny", "--pattern", "channel", "--sparsity", "0.6", "--batch", "32", "--baseline"]
CHANNELS += ["--dense-steps", "20", "--search-steps", "12", "--finetune-steps", "8"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "channels"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prune, "PATIENCE", 0.0)
        patch.setattr(prune.plots, "draw", lambda *_: [])
        assert main(["prune", *CHANNELS, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def report(run):
    return json.loads((run / "report.json").read_text())


def test_what_is_saved_is_small(run):
    tensors, slimmed = load_file(run / "model.safetensors"), json.loads((run / "config.json").read_text())["slimmed"]
    inner = slimmed["stage4.depthwise.conv.weight"][0]
    assert inner < 64 and slimmed["stage3.pointwise.norm.running_var"] == [inner]
    assert slimmed["stage3.pointwise.conv.weight"][0] == slimmed["stage4.pointwise.conv.weight"][1] == inner
    assert tensors["head.values"].shape == (10, slimmed["head.weight"][1]) and slimmed["head.weight"][1] < 128
    assert not any(name.startswith("stem") for name in slimmed)


def test_it_runs_as_reported(run, capsys):
    assert main(["run", str(run)]) == 0
    measured, reported = capsys.readouterr().out.removeprefix("accuracy ").split(", reported ")
    assert measured.strip() == reported.strip()


def test_the_report_has_before_and_after(run, report):
    dense, oneshot, smart = (report["cost"][name] for name in ("dense", "oneshot", "smart"))
    for name in ("macs", "parameters"):
        assert oneshot[name] < dense[name] and smart[name] < dense[name]
    weights = {row["name"]: row["slimmed"] for row in report["layers"]}
    assert weights["stage4.depthwise.conv"][1:] == [9, 1] and weights["head"][0] == 10
    sizes = (run / "model.safetensors").stat().st_size, 4 * smart["parameters"]
    assert report["bytes"]["dense"] > sizes[0] == report["bytes"]["sparse"] > sizes[1]
    text = (run / "report.md").read_text()
    assert f"{smart['macs']:,}" in text and f"{oneshot['parameters']:,}" in text and "128x128 -> " in text


def test_the_budget_is_filled(report):
    budget = report["budget"]
    assert budget["largest_block"] == 128  # a row of stage5; one of stage4 with its depthwise has 64 + 9
    assert 0 <= budget["asked"] - budget["kept"] < budget["largest_block"]


def test_killed_in_the_search_and_resumed_is_the_same(run, report, tmp_path, monkeypatch):
    monkeypatch.setattr(prune, "PATIENCE", 0.0)
    monkeypatch.setattr(prune.plots, "draw", lambda *_: [])
    advance = training.Training.advance

    def advance_and_die(running):
        if running.pruner and running.step == 9:
            raise KeyboardInterrupt
        return advance(running)

    fit = loop.fit
    monkeypatch.setattr("smart_train.run.stages.fit", lambda *args, **kwargs: fit(*args, every=4, **kwargs))
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "advance", advance_and_die)
        assert main(["prune", *CHANNELS, "--out", str(out)]) == 130
    assert main(["prune", *CHANNELS, "--out", str(out), "--resume"]) == 0
    whole, resumed = (load_file(path / "model.safetensors") for path in (run, out))
    assert whole.keys() == resumed.keys() and all(whole[name].equal(resumed[name]) for name in whole)
    again = json.loads((out / "report.json").read_text())
    assert again["accuracy"] == report["accuracy"] and again["budget"] == report["budget"]


def test_the_width_of_a_vit(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prune, "PATIENCE", 0.0)
    monkeypatch.setattr(prune.plots, "draw", lambda *_: [])
    task = ["--model", "vit-tiny", "--pattern", "channel:width", "--sparsity", "0.5", "--batch", "32"]
    steps = ["--dense-steps", "4", "--search-steps", "4", "--finetune-steps", "2"]
    assert main(["prune", *task, *steps, "--out", str(tmp_path / "out")]) == 0
    slimmed = json.loads((tmp_path / "out/config.json").read_text())["slimmed"]
    (width,) = slimmed["norm.weight"]
    assert width < 64 and slimmed["position"][-1] == slimmed["patches.weight"][0] == slimmed["head.weight"][1] == width
    assert main(["run", str(tmp_path / "out")]) == 0
