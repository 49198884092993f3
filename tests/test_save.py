"""save and load: the same outputs from fewer bytes, and clear errors for damaged files."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from smart_kernels import Block, compress_, load, mask_, save, unmask_
from smart_kernels.convert.measure import timing
from smart_kernels.convert.modules.fold import Folded
from smart_kernels.formats import simd
from smart_kernels.nn import SplitAttention
from tests.test_compress import CNN, encoder, mlp, prune

MODELS = [
    pytest.param(mlp, (6, 48), id="mlp"),
    pytest.param(CNN, (2, 3, 8, 8), id="cnn"),
    pytest.param(encoder, (2, 7, 32), id="encoder"),
]


@pytest.fixture(autouse=True)
def seconds(monkeypatch):
    """Injected timings by candidate name; what is not listed takes 1 s."""
    table = {"ell onednn 1": 0.5}

    def fake(candidates, *_):
        return {name: [table.get(name, 1.0)] * 4 for name in candidates}

    monkeypatch.setattr(timing, "time_in_turns", fake)
    return table


def saved(make, shape, directory):
    model, x = make().eval(), torch.randn(shape)
    report = compress_(model, x)
    save(model, directory, report)
    with torch.no_grad():
        return x, model(x), report


@pytest.mark.parametrize("make, shape", MODELS)
@pytest.mark.parametrize("backend", ["dense", "packed", "compact", "ell onednn 1", "bsr"])
def test_loaded_outputs_are_equal(make, shape, backend, tmp_path, seconds):
    seconds.update({backend: 0.1})
    x, expected, report = saved(make, shape, tmp_path)
    fresh = make().eval()
    assert load(fresh, tmp_path) == report
    with torch.no_grad():
        assert torch.equal(fresh(x), expected)


def test_a_layer_that_runs_dense_is_sparse_on_disk(tmp_path, seconds):
    seconds.update(dense=0.1)
    saved(mlp, (6, 48), tmp_path)
    assert {"0.values", "0.crow_indices", "0.col_indices"} <= load_file(tmp_path / "model.safetensors").keys()
    fresh = mlp()
    load(fresh, tmp_path)
    assert type(fresh[0]) is nn.Linear


def test_dead_channels_are_saved_compact(tmp_path):
    def make():
        model = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
        model[0].weight.data[::2] = 0
        return model

    x, expected, _ = saved(make, (3, 16), tmp_path)
    assert {"0.values", "0.rows", "0.cols", "0.bias"} == load_file(tmp_path / "model.safetensors").keys()
    fresh = make()
    load(fresh, tmp_path)
    with torch.no_grad():
        assert torch.equal(fresh(x), expected)


def test_tying_survives(tmp_path):
    def make():
        model = nn.Sequential(prune(nn.Linear(48, 48)), nn.ReLU(), nn.Linear(48, 48), nn.LayerNorm(48))
        model[2].weight, model[2].bias = model[0].weight, model[0].bias
        return model

    x, expected, _ = saved(make, (3, 48), tmp_path)
    fresh = make()
    load(fresh, tmp_path)
    assert fresh[0].format is fresh[2].format and fresh[0].bias is fresh[2].bias
    with torch.no_grad():
        assert torch.equal(fresh(x), expected)


def test_split_attention_is_split_again(tmp_path):
    def pruned():
        model = encoder()
        mask_(model, Block(16, 16))
        return unmask_(model)

    x, expected, _ = saved(pruned, (2, 7, 32), tmp_path)
    fresh = encoder().eval()
    load(fresh, tmp_path)
    assert type(fresh.layers[0].self_attn) is SplitAttention
    with torch.no_grad():
        assert torch.equal(fresh(x), expected)


def test_folded_batchnorms_are_folded_again(tmp_path):
    def make():
        layers = prune(nn.Conv2d(32, 64, 1, bias=False)), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 3, 1)
        return nn.Sequential(*layers, nn.BatchNorm2d(3, affine=False)).eval()

    def trained():
        model = make()
        model[1].running_mean.normal_(), model[1].weight.data.uniform_(0.5, 2), model[4].running_var.uniform_(0.5, 2)
        return model

    x, expected, report = saved(trained, (2, 32, 5, 5), tmp_path)
    fresh, again = make(), make()
    assert load(fresh, tmp_path) == report and type(fresh[1]) is type(fresh[4]) is Folded
    load(again, tmp_path, example_input=x, rechoose=True)
    save(again, tmp_path / "again", compress_(again, x))
    last = make()
    load(last, tmp_path / "again")
    with torch.no_grad():
        for model in (fresh, again, last):
            assert torch.allclose(model(x), expected, atol=1e-5)
    with pytest.raises(ValueError, match="must have a BatchNorm 1"):
        load(nn.Sequential(*make()[:1], nn.ReLU()), tmp_path)


def test_another_device_chooses_again(tmp_path, seconds, caplog):
    x, expected, report = saved(mlp, (6, 48), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["report"]["device"] = "another machine"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load(mlp(), tmp_path).rows == report.rows
    assert "chosen on another machine" in caplog.text
    seconds.update(bsr=0.1)
    fresh = mlp()
    again = load(fresh, tmp_path, example_input=x)
    assert again.rows[0].choice == "bsr"
    assert torch.allclose(fresh(x), expected, atol=1e-6)
    assert load(mlp(), tmp_path, example_input=x, rechoose=False).rows == report.rows


def test_chosen_again_in_the_same_way(tmp_path, seconds):
    """All sparse forms lose: only policy="size" keeps one, and only a pattern makes the tile 16 x 8."""
    model, x = mlp().eval(), torch.randn(6, 48)
    seconds.update({"dense": 0.01})
    report = compress_(model, x, Block(16, 8), ("dense", "bsr"), "size")
    save(model, tmp_path, report)
    again = load(mlp(), tmp_path, example_input=x, rechoose=True)
    assert [row.choice for row in again.rows] == ["bsr", "bsr", "dense"]
    assert again.rows[0].tile == (16, 8) and again.settings == report.settings


def test_what_is_not_installed_is_chosen_again(tmp_path, seconds, monkeypatch):
    seconds.update(jit=0.1)
    model, x = mlp().eval(), torch.randn(6, 48)
    report = compress_(model, x)
    first, *others = report.rows
    save(model, tmp_path, replace(report, rows=(replace(first, choice="jit", options={}), *others)))

    def missing():
        raise ValueError("jit needs llvmlite")

    monkeypatch.setattr(simd, "machine", missing)
    assert load(mlp(), tmp_path, example_input=x).rows[0].choice == "ell"
    fresh = mlp()
    load(fresh, tmp_path)
    assert type(fresh[0]) is nn.Linear


def test_config_says_how_and_where(tmp_path):
    saved(mlp, (6, 48), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    row = config["report"]["rows"][0]
    assert config["layers"]["0"] == {"stored": "bsr", "shared": []}
    assert row["choice"] == "ell" and row["tile"] == [16, 16] and row["shape"] == [64, 1, 48] and row["ms"] == 500
    assert config["versions"]["torch"] == torch.__version__ and config["report"]["device"]


def damage_tensors(change):
    def apply(path):
        tensors = load_file(path / "model.safetensors")
        change(tensors)
        save_file(tensors, path / "model.safetensors")

    return apply


def damage_config(change):
    def apply(path):
        config = json.loads((path / "config.json").read_text())
        change(config)
        (path / "config.json").write_text(json.dumps(config))

    return apply


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: (path / "config.json").unlink(), "must hold config.json"),
        (lambda path: (path / "config.json").write_text("{"), "must hold config.json"),
        (lambda path: (path / "model.safetensors").write_bytes(b"x" * 20), "must hold config.json"),
        (damage_config(lambda c: c.update(version=9)), "version 1, got 9"),
        (damage_config(lambda c: c.pop("version")), "version 1, got None"),
        (lambda path: (path / "config.json").write_text("[1]"), r"version 1, got \[1\]"),
        (lambda path: (path / "config.json").write_bytes(b"\xff\xfe"), "must hold config.json"),
        (damage_config(lambda c: c.pop("layers")), "missing {'layers'}"),
        (damage_config(lambda c: c["report"].pop("device")), "must hold a report as save.. writes it"),
        (damage_config(lambda c: c["report"]["rows"][0].update(speed=2)), "must hold a report as save.. writes it"),
        (damage_config(lambda c: c["report"]["rows"][0].update(choice="zip")), r"must run as one of .* got \['zip'\]"),
        (damage_config(lambda c: c["layers"].pop("0")), "layer 0 needs an entry"),
        (damage_config(lambda c: c["layers"]["0"].update(stored="zip")), "layer 0 needs an entry"),
        (damage_config(lambda c: c["report"]["rows"][0].update(name="7")), "needs an entry"),
        (damage_config(lambda c: c["report"]["rows"][0].update(shape=[64, 1, 32])), r"must be a plain one of"),
        (damage_tensors(lambda t: t.pop("0.crow_indices")), r"needs \['0.crow_indices'\]"),
        (damage_tensors(lambda t: t["0.crow_indices"].fill_(3)), "layer 0 is damaged: crow_indices"),
        (damage_tensors(lambda t: t["0.col_indices"].fill_(99)), "layer 0 is damaged: col_indices"),
        (damage_tensors(lambda t: t.pop("4.bias")), "4.bias"),
        (damage_tensors(lambda t: t.update(extra=torch.ones(1))), "extra"),
    ],
)
def test_damaged_files_are_refused(damage, message, tmp_path):
    saved(mlp, (6, 48), tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        load(mlp(), tmp_path)


def test_the_report_of_another_model_is_refused(tmp_path):
    model, report = mlp(), compress_(mlp(), torch.randn(6, 48))
    model[2] = nn.Linear(8, 8)
    with pytest.raises(ValueError, match=r"layer 2 must be a plain one of"):
        save(model, tmp_path, report)
    with pytest.raises(ValueError, match="the model has no layer 4, which the report names"):
        save(mlp()[:3], tmp_path, report)


def test_another_architecture_is_refused(tmp_path):
    saved(mlp, (6, 48), tmp_path)
    with pytest.raises(ValueError, match="the model has no layer 4"):
        load(mlp()[:3], tmp_path)
    with pytest.raises(ValueError, match="needs example_input"):
        load(mlp(), tmp_path, rechoose=True)
