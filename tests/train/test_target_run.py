"""``prune --speedup`` and ``--latency``, by the imagined clock of the latency table."""

import json

import pytest
import torch
from torch import nn

from smart_kernels import Block
from smart_train import OneShotPruner, Plan, Speedup, correct_, plan
from smart_train.cli import main
from smart_train.run import prune
from tests.test_latency_table import clock  # noqa: F401  a fixture that every test here uses

TINY = ["--model", "vit-tiny", "--batch", "32", "--pattern", "block:16x16"]
TINY += ["--dense-steps", "6", "--search-steps", "8", "--finetune-steps", "5"]


@pytest.fixture(autouse=True)
def away(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(prune, "PATIENCE", 0.0)


def run(out, *arguments):
    assert main(["prune", *TINY, *arguments, "--out", str(out)]) == 0
    return json.loads((out / "report.json").read_text())


def test_a_run_for_a_speedup(tmp_path, capsys):
    report = run(tmp_path / "run", "--speedup", "1.5")
    found = Plan.from_dict(report["plan"])
    assert found == Plan.from_dict(json.loads((tmp_path / "run" / "plan.json").read_text()))
    assert found.met and found.target == "speed-up 1.5" and set(found.pruned.values()) <= set(found.layers)
    assert {row["name"] for row in report["layers"]} == found.pruned.keys()
    latency = report["latency"]
    assert latency["dense_ms"] / latency["sparse_ms"] == pytest.approx(found.dense_ms / found.ms, rel=0.05)
    assert latency["sparse_ms"] <= found.limit * latency["dense_ms"] / found.dense_ms * 1.02
    correction = json.loads((tmp_path / "run" / "training" / "smart" / "correction.json").read_text())
    assert report["correction"] == correction and correction["measured_ms"] == pytest.approx(found.ms, rel=0.05)
    text = (tmp_path / "run" / "report.md").read_text()
    assert text.startswith("# vit-tiny on digits, speed-up 1.5, block:16x16\n")
    assert "Asked for speed-up 1.5 (at most " in text and "it was corrected once: " in text
    said = capsys.readouterr().err
    assert "saves" in said and "speed-up 1.5: " in said, "the plan says why before anything is pruned"
    assert main(["run", str(tmp_path / "run")]) == 0
    again = run(tmp_path / "run", "--speedup", "1.5", "--resume")
    assert again["plan"] == report["plan"] and again["correction"] == correction


def test_out_of_reach_ends_with_the_nearest(tmp_path, capsys):
    report = run(tmp_path / "run", "--latency", "1us", "--pruner", "gradual")
    assert not report["plan"]["met"] and report["plan"]["note"].startswith("at best it has ")
    assert ", out of reach: predicted" in (tmp_path / "run" / "report.md").read_text()
    assert "not reachable, this is the nearest" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--speedup", "2", "--sparsity", "0.5"], "only one of --sparsity, --speedup and --latency can be given, got"),
        (["--speedup", "0.5"], "speed-up must be above 1, got 0.5"),
        (["--latency", "4"], "latency must be a number and s, ms or us, such as 4ms, got '4'"),
        (["--latency", "9s"], "must prune a layer, got one that leaves all dense: the dense model meets it"),
        (["--speedup", "2", "--pattern", "blok"], "pattern must be block:ROWSxCOLS"),
    ],
)
def test_clear_errors(arguments, message, tmp_path, capsys):
    assert main(["prune", *TINY, *arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_projections_of_attention_are_planned_and_pruned(tmp_path):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 2, 128, dropout=0.0, batch_first=True)
    model = nn.Sequential(layer, nn.Linear(64, 3)).eval()
    x = torch.randn(2, 5, 64)
    found = plan(model, x, Speedup(3), patterns=[Block(16, 16)], cache=tmp_path, progress=False)
    assert isinstance(layer.self_attn, nn.MultiheadAttention) and type(layer.self_attn) is nn.MultiheadAttention
    assert found.met and "0.self_attn.q_proj" in found.pruned
    pruner = OneShotPruner(model, found, search_steps=1)
    assert pruner.layers.keys() == found.pruned.keys()
    pruner.harden()
    correction = correct_(pruner, found, x)
    assert correction.measured_ms == pytest.approx(found.ms, rel=0.1) and correction.goal_ms == found.limit
    pruner.finalize()
    assert all(model.get_submodule(name).weight.eq(0).any() for name in found.pruned)
