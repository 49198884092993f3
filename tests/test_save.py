"""save and load: the same outputs from fewer bytes, and clear errors for damaged files."""

import contextlib
import copy
import hashlib
import json
import os
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from smart_kernels import Block, compress_, load, mask_, save, unmask_
from smart_kernels.convert.measure import timing
from smart_kernels.convert.modules.fold import Folded
from smart_kernels.convert.saving import files
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


def test_the_same_device_does_not_choose_again(tmp_path, seconds):
    x, _, report = saved(mlp, (6, 48), tmp_path)
    seconds.update(bsr=0.1)
    fresh = mlp()
    assert load(fresh, tmp_path, example_input=x) == report and fresh[0].format.name == "ell"


def test_chosen_again_in_the_same_way(tmp_path, seconds):
    """All sparse forms lose: only policy="size" keeps one, and only a pattern makes the tile 16 x 8."""
    model, x = mlp().eval(), torch.randn(6, 48)
    seconds.update({"dense": 0.01})
    report = compress_(model, x, Block(16, 8), ("dense", "bsr"), "size")
    save(model, tmp_path, report)
    again = load(mlp(), tmp_path, example_input=x, rechoose=True)
    assert [row.choice for row in again.rows] == ["bsr", "bsr", "dense"]
    assert again.rows[0].tile == (16, 8) and again.settings == report.settings


def test_what_is_not_installed_is_chosen_again(tmp_path, seconds, monkeypatch, caplog):
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
    assert type(fresh[0]) is nn.Linear and "0 stays dense: jit needs llvmlite" in caplog.text


def test_config_says_how_and_where(tmp_path):
    saved(mlp, (6, 48), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    row = config["report"]["rows"][0]
    assert config["layers"]["0"] == {"stored": "bsr", "shared": []}
    assert row["choice"] == "ell" and row["tile"] == [16, 16] and row["shape"] == [64, 1, 48] and row["ms"] == 500
    assert config["versions"]["torch"] == torch.__version__ and config["report"]["device"]
    assert (tmp_path / "config.json").read_text() == json.dumps(config, indent=2) + "\n"


def damage_tensors(change):
    def apply(path):
        tensors = load_file(path / "model.safetensors")
        change(tensors)
        save_file(tensors, path / "model.safetensors")
        seal(path)

    return apply


def seal(path):
    """Give ``config.json`` the digest of the tensors beside it, as one who forges both files can."""
    content = (path / "model.safetensors").read_bytes()
    digest = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    damage_config(lambda config: config.update(tensors=digest))(path)


def damage_config(change):
    def apply(path):
        config = json.loads((path / "config.json").read_text())
        change(config)
        (path / "config.json").write_text(json.dumps(config))

    return apply


def wrapping(col):
    """Row starts whose differences are positive only because they overflow."""
    return torch.tensor([0, 2**62, -(2**63), -(2**62), len(col)])


def flip(name, place):
    def apply(path):
        content = bytearray((path / name).read_bytes())
        content[place] ^= 1
        (path / name).write_bytes(content)

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
        (damage_tensors(lambda t: t.update({"0.bias": torch.ones(64, dtype=torch.int32)})), "0.bias must be like"),
        (damage_tensors(lambda t: t.update({"0.values": t["0.values"].flatten()})), "values must be .blocks, tile_n"),
        (damage_tensors(lambda t: t.update({"0.values": torch.ones(0, 2**20, 2**20)})), "much larger than the weight"),
        (damage_tensors(lambda t: t.update({"0.crow_indices": t["0.crow_indices"].double()})), "int32 or int64"),
        (
            damage_tensors(lambda t: t.update({"0.crow_indices": wrapping(t["0.col_indices"])})),
            "crow_indices must rise",
        ),
        (flip("model.safetensors", -1), "damaged one or that of another save"),
        (lambda path: (path / "config.json").write_text("[" * 10**6), "nested so deeply"),
        (lambda path: (path / "config.json").write_text(" " * 2**24), "at most 1097728 bytes"),
        (lambda path: (path / "config.json").write_text('{"version": 1, "version": 1}'), "'version' twice"),
        (lambda path: os.truncate(path / "model.safetensors", 500), "must hold config.json"),
        (damage_config(lambda c: c.update(more=1)), "got also"),
        (damage_config(lambda c: c.update(tied={"2.bias": "0.bias"})), "2.bias must be tied to a tensor"),
        (damage_config(lambda c: c.update(tied={"2.bias": ["0.bias"]})), "config.json.tied.2.bias must be a text"),
        (damage_config(lambda c: c.update(slimmed={"0.bias": [-4]})), "config.json.slimmed.0.bias must be a whole"),
        (damage_config(lambda c: c.update(split_attention=["1"])), "1 must be an attention"),
        (damage_config(lambda c: c["layers"].update({"../0": c["layers"]["0"]})), "its line in the report"),
        (damage_config(lambda c: c["report"]["rows"][0].update(name="../0")), "needs an entry"),
        (damage_config(lambda c: c["report"]["rows"][0].update(tile=[0, 16])), "rows.tile must be a whole number"),
        (damage_config(lambda c: c["report"]["rows"][0].update(shape=[64, 48])), "rows.shape must be a list of 3"),
        (damage_config(lambda c: c["report"]["rows"][0].update(options={"size": 3})), "with options that it has"),
        (damage_config(lambda c: c["report"]["rows"][0].update(shared=["1"])), "layer 0 needs an entry"),
        (damage_config(lambda c: c["report"]["settings"].update(pattern="block:8")), "must hold a report as save"),
    ],
)
def test_damaged_files_are_refused(damage, message, tmp_path):
    saved(mlp, (6, 48), tmp_path)
    damage(tmp_path)
    fresh = mlp()
    before = {key: tensor.clone() for key, tensor in fresh.state_dict().items()}
    modules = list(fresh.modules())
    with pytest.raises(ValueError, match=message):
        load(fresh, tmp_path)
    assert list(fresh.modules()) == modules
    assert all(torch.equal(tensor, before[key]) for key, tensor in fresh.state_dict().items())


def test_half_of_another_save_is_refused(tmp_path):
    saved(mlp, (6, 48), tmp_path / "a")
    saved(mlp, (6, 48), tmp_path / "b")
    os.replace(tmp_path / "a/model.safetensors", tmp_path / "b/model.safetensors")
    with pytest.raises(ValueError, match="damaged one or that of another save"):
        load(mlp(), tmp_path / "b")


@pytest.mark.parametrize("calls", range(5), ids="after {} calls".format)
def test_a_kill_while_saving_leaves_one_of_both_models(calls, tmp_path, monkeypatch):
    """``fsync`` and ``replace`` are the moments at which something changes on the disk."""
    old, _, _ = saved(mlp, (6, 48), tmp_path)
    first = mlp()
    load(first, tmp_path)
    second, x = mlp().eval(), old
    report = compress_(second, x)
    left = [calls]

    def dying(function):
        def call(*args):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return function(*args)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(files.os, name, dying(getattr(os, name)))
    with contextlib.suppress(Killed):
        save(second, tmp_path, report)
    monkeypatch.undo()
    assert not (tmp_path / files.HALF).exists()
    fresh = mlp()
    load(fresh, tmp_path)
    with torch.no_grad():
        assert torch.equal(fresh(x), (first if calls < 3 else second)(x))
    save(second, tmp_path, report)  # what a kill left is no obstacle
    load(mlp(), tmp_path)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("name, content", [("config.json", b'{"model_type": "bert"}'), ("model.safetensors", None)])
def test_files_of_others_are_not_replaced(name, content, tmp_path):
    if content is None:
        save_file({"weight": torch.ones(2)}, tmp_path / name, {"format": "pt"})
    else:
        (tmp_path / name).write_bytes(content)
    before = (tmp_path / name).read_bytes()
    model, x = mlp().eval(), torch.randn(6, 48)
    with pytest.raises(ValueError, match=f"must not replace a file that it did not write, got .*{name}"):
        save(model, tmp_path, compress_(model, x))
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_bytes() == before


def test_loading_that_fails_at_the_end_leaves_the_model_alone(tmp_path, monkeypatch):
    saved(mlp, (6, 48), tmp_path)
    fresh = mlp()
    before, modules = copy.deepcopy(fresh.state_dict()), list(fresh.modules())
    monkeypatch.setattr(sys.modules["smart_kernels.convert.saving.load"], "swap_", lambda *args: exec("raise OSError"))
    with pytest.raises(OSError):
        load(fresh, tmp_path)
    assert list(fresh.modules()) == modules
    assert all(torch.equal(tensor, before[key]) for key, tensor in fresh.state_dict().items())


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
