import copy

import pytest
import torch

from smart_train import demo
from smart_train.run import prune
from smart_train.run.recipe import Recipe

GOOD = {
    "recipe": {"model": "vit", "pruner": "smart"},
    "accuracy": {"dense": 85.0, "oneshot": 83.0, "smart": 83.0},
    "budget": {"asked": 2050, "kept": 2048, "largest_block": 1024},
    "sparse_share": 0.5,
    "latency": {"speedup": 1.2},
}


def test_a_good_report_passes():
    assert demo.check(GOOD) == []


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("accuracy", "smart", 82.99, "at least as accurate as one-shot"),
        ("budget", "kept", 3072, "fill the budget"),
        ("budget", "kept", 1024, "fill the budget"),
        ("latency", "speedup", 1.19, "at least 1.2x faster"),
        (None, "sparse_share", 0.49, "at least half"),
    ],
)
def test_each_demand_can_fail(part, name, value, message, monkeypatch):
    monkeypatch.setattr(demo.torch.cuda, "is_available", lambda: False)
    report = copy.deepcopy(GOOD)
    (report[part] if part else report)[name] = value
    failures = demo.check(report)
    assert len(failures) == 1 and message in failures[0]


def test_the_speed_of_the_cnn_is_no_demand():
    report = copy.deepcopy(GOOD)
    report["recipe"]["model"], report["latency"]["speedup"] = "cnn", 0.9
    assert demo.check(report) == []


def test_the_recipes_are_those_of_the_promise():
    for data in ("fashion", "digits"):
        assert [(recipe.model, recipe.sparsity) for recipe in demo.recipes(data, 3)] == [("cnn", 0.9), ("vit", 0.8)]
        assert all(recipe.seed == 3 and recipe.pattern.startswith("block:") for recipe in demo.recipes(data, 3))


def test_the_demo_takes_another_method():
    assert all(recipe.pruner == "gradual" for recipe in demo.recipes("digits", 0, pruner="gradual"))
    report = copy.deepcopy(GOOD)
    report["recipe"]["pruner"] = "gradual"
    report["accuracy"]["gradual"] = 82.0
    assert "gradual magnitude is at least as accurate as one-shot" in demo.check(report)[0]
    report["recipe"]["pruner"] = "oneshot"
    report["accuracy"] = {"dense": 85.0, "oneshot": 50.0}
    assert demo.check(report) == []  # there is no other method that it could lose to


def test_the_demo_from_end_to_end_at_a_small_size(tmp_path, monkeypatch, capsys):
    def small(data, seed, models, pruner):
        steps = {"dense_steps": 20, "search_steps": 20, "finetune_steps": 10, "batch": 32}
        tiny = {"data": "digits", "seed": seed, "pruner": pruner, "pattern": "block:8x8", "sparsity": 0.75, **steps}
        return [Recipe.for_model(model, **tiny) for model in ("cnn-tiny", "vit-tiny")]

    monkeypatch.setattr(demo, "recipes", small)
    monkeypatch.setattr(prune, "PATIENCE", 0.0)
    code = demo.demo(tmp_path, seed=1)
    text = capsys.readouterr().out
    assert code == (1 if "FAILED" in text else 0)
    assert text.count("| layer") == 2 and text.count("one-shot magnitude") == 2
    assert "fill the budget" not in text
    assert f"smart-train run {tmp_path}" in text


def test_the_size_of_a_model_does_not_depend_on_its_memory_format():
    """Models train in channels_last, which safetensors refuses to write."""
    plain = torch.nn.Conv2d(3, 8, 3)
    size = prune._file_size(plain)
    assert size > plain.weight.nbytes
    assert prune._file_size(plain.to(memory_format=torch.channels_last)) == size
