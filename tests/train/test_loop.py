import json

import pytest
import torch

from smart_kernels.patterns import parse
from smart_train import SmartPruner
from smart_train import data as datasets
from smart_train.models import build
from smart_train.run import training as training_module
from smart_train.run.course import RAMP, Course, lr_factor
from smart_train.run.evaluate import quality
from smart_train.run.loop import fit
from smart_train.run.recipe import Recipe
from smart_train.run.stages import Stages
from smart_train.run.training import Training

TINY = {
    "pattern": "block:8x8",
    "sparsity": 0.75,
    "dense_steps": 10,
    "search_steps": 20,
    "finetune_steps": 10,
    "batch": 32,
}


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def stages(name, digits, out, **settings):
    return Stages(Recipe.for_model(f"{name}-tiny", **TINY | settings), digits, out, "cpu")


def test_learning_rate_rises_stays_and_falls():
    factors = [lr_factor(step, 100, 200) for step in range(200)]
    assert factors[0] == 1 / RAMP and set(factors[RAMP:100]) == {1.0}
    assert factors[100:] == sorted(factors[100:], reverse=True) and factors[-1] < 1e-3


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_three_trainings_share_a_dense_model_and_a_budget(name, digits, tmp_path):
    workshop = stages(name, digits, tmp_path)
    dense = workshop.dense()
    before = {key: value.clone() for key, value in dense.state_dict().items()}
    kept = []
    for train in (workshop.pruned, workshop.baseline):
        model, report = train(dense)
        zeros = sum((model.get_submodule(layer).weight == 0).sum().item() for layer in report["layers"])
        weights = sum(layer["weights"] for layer in report["layers"].values())
        kept.append(weights - zeros)
        assert type(model) is type(dense) and set(model.state_dict()) == set(before)
        assert zeros >= 0.75 * weights
    assert kept[0] > 0 and kept[1] > 0
    assert all(torch.equal(before[key], value) for key, value in dense.state_dict().items())


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_training_learns(name, digits, tmp_path):
    model = stages(name, digits, tmp_path, dense_steps=60).dense()
    assert quality(model, digits) > 20  # chance is 10


def test_history(digits, tmp_path):
    workshop = stages("cnn", digits, tmp_path)
    workshop.pruned(workshop.dense())
    rows = [json.loads(line) for line in (tmp_path / "training/smart/history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(5, 31, 5))
    assert [row["stage"] for row in rows] == ["search"] * 4 + ["finetune"] * 2
    assert rows[0]["temperature"] > rows[3]["temperature"] == pytest.approx(1e-3)
    assert rows[3]["gap"] < 0.05 and rows[3]["live"] < rows[0]["live"] <= 1
    assert "accuracy" in rows[-1]


def test_scores_of_small_groups_learn_slower_unless_asked():
    assert Recipe.for_model("vit", pattern="nm:1:4").lr_scores < Recipe.for_model("vit").lr_scores
    assert Recipe.for_model("vit", pattern="nm:1:4", lr_scores=0.2).lr_scores == 0.2


def test_a_loss_that_is_not_finite_stops_the_training(digits, tmp_path):
    recipe = Recipe.for_model("cnn-tiny", **TINY)
    model = build("cnn-tiny", 1, 8, 10)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="loss must be finite, got nan at step 5"):
        fit(Training(model, digits, recipe, Course(10)), tmp_path)


def pruned(digits, cold, **options):
    """A training whose kernels are still to be compiled, or are not."""
    torch.manual_seed(0)
    recipe = Recipe.for_model("cnn-tiny", **TINY)
    model = build("cnn-tiny", 1, 8, 10)
    pruner = SmartPruner(model, parse(recipe.pattern), 0.75, **{"search_steps": 6, **options})
    training = Training(model, digits, recipe, Course(6), pruner=pruner)
    training.cold = cold
    return training


def test_kernels_are_compiled_before_the_first_forward(digits, tmp_path, monkeypatch, capsys):
    """After the pruner's first step, without which a masked layer runs no kernel of ours; the progress bar says so."""
    training, seen = pruned(digits, cold=True), []

    def warm(model, shapes):
        seen.append((model, shapes, training.pruner.steps, training.step))

    monkeypatch.setattr(training_module, "warmup", warm)
    fit(training, tmp_path)
    assert [(model is training.model, shapes, steps) for model, shapes, _, steps in seen] == [
        (True, [(32, 1, 8, 8)], 0)
    ]
    assert seen[0][2] == 1 and not training.cold and "compiling kernels" in capsys.readouterr().err


def test_the_progress_bar_says_that_it_compiles_when_it_does(digits, monkeypatch):
    """With dense steps first, that is long after the bar began."""
    training, said = pruned(digits, cold=True, dense_steps=2, search_steps=4), []
    training.before_compiling = lambda: said.append(training.step)
    monkeypatch.setattr(training_module, "warmup", lambda model, shapes: said.append("warm"))
    for _ in range(4):
        training.advance()
    assert said == [2, "warm"]


def test_compiling_changes_nothing_of_the_training(digits, tmp_path):
    """It runs forward and backward of the masked model once more: no statistics, gradients or random numbers differ."""
    states = []
    for cold in (True, False):
        training = pruned(digits, cold)
        fit(training, tmp_path / str(cold))
        states.append(training.model.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_nothing_is_compiled_on_a_cpu_or_without_a_pruner(digits):
    recipe = Recipe.for_model("cnn-tiny", **TINY)
    model = build("cnn-tiny", 1, 8, 10)
    assert not Training(model, digits, recipe, Course(6)).cold
    pruner = SmartPruner(model, parse(recipe.pattern), 0.75, search_steps=6)
    assert not Training(model, digits, recipe, Course(6), pruner=pruner).cold


def test_accuracy_leaves_the_mode_of_the_model_alone(digits):
    model = build("cnn-tiny", 1, 8, 10)
    for mode in (True, False):
        assert 0 <= quality(model.train(mode), digits, limit=50) <= 100
        assert model.training is mode


@pytest.mark.parametrize("name", ["cnn", "vit"])
@pytest.mark.parametrize("size", [8, 28, 32])
def test_models_take_every_image_size(name, size):
    assert build(f"{name}-tiny", 3, size, 7)(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_the_same_seed_builds_the_same_model():
    first, second, other = (build("vit-tiny", 1, 8, 10, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_unknown_model():
    with pytest.raises(ValueError, match=r"model must be one of cnn, vit, .*, got 'resnet'"):
        build("resnet", 1, 8, 10)
