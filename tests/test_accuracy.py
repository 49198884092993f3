"""``bench accuracy``: fair runs, right intervals, a page from the rows alone."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from bench import accuracy
from bench.__main__ import main
from bench.accuracy import cells, cost, page, record, search, trial, tuning, variants
from bench.accuracy.compare import Comparison, outcome
from bench.accuracy.paired import holm, interval, paired, t_below, t_quantile
from smart_kernels import parse
from smart_train import PRUNERS
from smart_train.data import Data

MADE = {
    **{"device": "CPU", "threads": 1, "load": 1.0, "torch": "2", "triton": "3", "python": "3.11", "commit": "abc"},
    **{"date": "2026-01-01", "command": "python"},
}
ROW = record.Run(
    **{"cell": "vit-2:4", "method": "smart", "seed": 0, "passes": 234, "prepared": 0, "dense": 80.0, "accuracy": 70.0},
    **{"kept": 9, "asked": 9, "step_ms": 3.0, "dense_step_ms": 2.0},
    **{"settings": {}, "tested": "test"},
    **MADE,
)


@pytest.mark.parametrize(
    "freedom, t975, t995", [(1, 12.7062, 63.6567), (2, 4.3027, 9.9248), (4, 2.7764, 4.6041), (9, 2.2622, 3.2498)]
)
def test_quantiles_of_t(freedom, t975, t995):
    """From printed tables."""
    assert t_quantile(0.975, freedom) == pytest.approx(t975, abs=1e-4)
    assert t_quantile(0.995, freedom) == pytest.approx(t995, abs=1e-3)
    assert t_below(0, freedom) == 0.5


def test_paired_differences():
    found = paired({0: 3.0, 1: 5.0, 2: 4.0, 7: 0.0}, {0: 1.0, 1: 2.0, 2: 3.0, 9: 0.0})
    assert (found.mean, found.pairs) == (2, 3)
    assert found.half == interval([2, 3, 1]) == pytest.approx(4.3027 / 3**0.5, abs=1e-3)
    assert found.p == pytest.approx(0.0742, abs=1e-3)  # t = 3.4641 at 2 degrees of freedom
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert outcome(paired({0: 9.0}, {0: 1.0})) == "one pair" and outcome(None) == "not run"
    assert outcome(found) == "tied" and outcome(replace(found, mean=-9.0)) == "behind"


def test_holm_stops_at_the_first_that_fails():
    assert holm([0.01, 0.04, 0.03]) == [True, False, False]
    assert holm([0.001, 0.012, 0.04]) == [True, True, True]


def test_every_method_has_runs_for_every_pattern_that_it_takes():
    tasks = accuracy.wanted(cells.CORE, cells.METHODS, range(2), {})
    assert {task.method for task in tasks} == cells.METHODS.keys() >= PRUNERS.keys()
    assert [task.seed for task in tasks] == sorted(task.seed for task in tasks)
    catro = {task.cell for task in tasks if task.method == "catro"}
    assert catro == {"cnn-channel-50", "mobilenet-channel-50"}


def test_every_method_has_the_same_search_on_cells_and_seeds_of_its_own():
    tasks = search.searches(search.WHERE, cells.METHODS)
    assert {search.kind(cell) for cell in cells.CELLS.values()} >= search.WHERE.keys() and search.SEED > 99
    assert {search.kind(cells.CELLS[cell]): cell for cell in search.WHERE.values()} == search.WHERE
    assert not {task.cell for task in tasks} & cells.CORE.keys() and search.OWN.keys() <= cells.METHODS.keys()
    tried = Counter((task.cell, task.method) for task in tasks)
    assert set(tried.values()) == {6} and len({task.key for task in tasks}) == len(tasks)
    for task in tasks:  # raises where a method has no such setting
        recipe = cells.CELLS[task.cell].recipe(0, task.method, task.settings)
        model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 256))
        PRUNERS[recipe.pruner](model, parse(recipe.pattern), recipe.sparsity, **recipe.pruner_settings)


def test_the_best_settings_of_a_search_are_taken():
    tasks = search.searches(["N:M, AdamW"], ["pdp"])
    known = {task.key: replace(ROW, **vars(task)) for task in tasks}
    known[tasks[3].key] = replace(known[tasks[3].key], accuracy=71.0)
    (task,) = accuracy.wanted(["vit-2:4"], ["pdp"], [7], known)
    assert task == record.Task("vit-2:4", "pdp", tasks[3].settings, 7) and "rate" in task.settings
    recipe = cells.CELLS["vit-2:4"].recipe(7, "pdp", task.settings)
    assert recipe.lr_pruned == recipe.lr * task.settings["rate"] and recipe.options["softness"] == 0.1
    assert search.chosen("channels, SGD", "pdp", known) == {}
    scored = cells.CELLS["vit-2:4"].recipe(0, "smart", {"score_rate": 3, "warmup": 0.2})
    assert scored.lr_scores == pytest.approx(0.09) and scored.warmup == 0.2 and not scored.options


def test_cells_differ_in_nothing_but_pruner_and_options():
    for cell in cells.CELLS.values():
        recipes = [cell.recipe(3, method).to_dict() for method in cells.METHODS]
        assert len({str({**recipe, "pruner": 0, "options": 0}) for recipe in recipes}) == 1
    assert len(cells.CORE) in range(6, 9)


def test_changes_of_smart_have_cells_and_seeds_of_their_own():
    tasks = variants.tasks({})
    assert not {task.cell for task in tasks} & cells.CORE.keys() and not {task.seed for task in tasks} & set(range(101))
    assert len({task.key for task in tasks}) == len(tasks)
    for task in tasks:
        cells.CELLS[task.cell].recipe(task.seed, task.method, task.settings)  # raises for a setting that is none
    cool = [variants.varied("vit-2:8", "cool", {}, seed, {}) for seed in range(3)]
    runs = [replace(ROW, **vars(task), accuracy=70.0 + task.seed) for task in cool]
    runs += [replace(ROW, cell="vit-2:8", seed=seed, accuracy=69.0) for seed in range(2)]
    assert variants.difference(runs, "vit-2:8", "cool") == paired({0: 70.0, 1: 71.0}, {0: 69.0, 1: 69.0})
    assert variants.difference(runs, "vit-2:8", "short") is None
    text = tuning.text(runs)
    assert "| – | – | – | – | not run |" in text and "+1.50 ± 6.35 (2)" in text


def test_pictures_are_drawn_by_the_seed(monkeypatch):
    images = torch.arange(20 * 16, dtype=torch.uint8).view(20, 1, 4, 4)
    data = Data("few", (images, torch.arange(20)), (images[:3], torch.arange(3)), tuple("01"))
    monkeypatch.setattr(trial, "_loaded", lambda name: data)
    cell = cells.Cell("convnet", "channel", 0.5, train=5, shrink=2)
    trial._drawn.cache_clear()
    first, again, other = (trial.pictures(cell, seed) for seed in (0, 0, 1))
    assert first.train[0].equal(again.train[0]) and not first.train[1].equal(other.train[1])
    assert first.train[0].shape == (5, 1, 2, 2) and len(first.test[0]) == 3 and first.test[0].dtype == torch.uint8
    held = trial.pictures(cell, 0, "validation")
    assert held.train[1].equal(first.train[1]) and len(held.test[1]) == 15
    assert not set(held.test[1].tolist()) & set(held.train[1].tolist())  # labels number the images here
    trial._drawn.cache_clear()


def test_a_run_counts_every_pass_and_is_not_repeated(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(trial, "SCRATCH", tmp_path / "scratch")
    small = cells.Cell("convnet", "block:16x16", 0.9, "digits", 256, settings=accuracy.DRY)
    monkeypatch.setitem(accuracy.CELLS, "vit-16x16-90", small)
    monkeypatch.setattr(accuracy, "searches", lambda kinds, methods: [])  # it has a test of its own
    monkeypatch.setattr(accuracy, "SEARCHES", tmp_path / "search")
    out = tmp_path / "rows.jsonl"
    command = [
        "accuracy",
        "--cells",
        "vit-16x16-90",
        "--seeds",
        "1",
        "--out",
        str(out),
        "--pruners",
        "taylor",
        "gradual-erk",
    ]
    assert main([*command, "--search"]) == 0 and not out.exists()
    assert main(command) == 0 and main([*command, "oneshot"]) == 0
    assert "2 runs had a row, 1 done now, 0 left" in capsys.readouterr().out
    rows = list(record.read([out]).values())
    assert [row.method for row in rows] == ["taylor", "gradual-erk", "oneshot"]
    assert [row.prepared for row in rows] == [4, 0, 0] and {row.passes for row in rows} == {14}
    assert len({row.dense for row in rows}) == 1 and all(0 < row.kept <= row.asked for row in rows)


def test_a_dry_run_writes_nothing(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(trial, "SCRATCH", tmp_path / "scratch")
    out = tmp_path / "rows.jsonl"
    assert main(["accuracy", "--dry-run", "--pruners", "smart", "straight", "--out", str(out)]) == 0
    assert not out.exists()


def test_memory_is_what_the_allocator_has_seen():
    weight = torch.ones(1000, requires_grad=True)

    def make():
        squares = weight.square()  # 4,000 bytes
        kept = squares.exp()  # 4,000, which backward needs
        del squares
        (kept.sum() * 2).backward()
        return kept

    left = {"weight": torch.ones(5000)}
    left["itself"] = left
    del left  # goes with the next collection, which is not to be counted
    held, peak = cost.counted(make)
    assert held == 8000, "the gradient and what is returned"
    assert 12_000 <= peak < 21_000


def test_the_page_says_what_was_not_run():
    runs = [replace(ROW, seed=seed, accuracy=70.0 + seed, z2=0.5) for seed in range(3)]
    runs += [replace(ROW, method="oneshot", seed=seed, accuracy=68.0 + 1.1 * seed) for seed in range(3)]
    runs += [replace(ROW, method="taylor", accuracy=75.0)]
    memory = cost.Cost(cell="vit-2:4", method="taylor", held=3, peak=9, dense_held=2, dense_peak=4, **MADE)
    text = page.text(runs, {memory.key: memory})
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "+1.90 ± 0.25 (3)" in lines["one-shot magnitude"] and "1.50x" in lines["one-shot magnitude"]
    assert "-5.00 (1)" in lines["one-shot Taylor"] and lines["DAIS"].count("not run") == 11
    assert lines["one-shot Taylor"].endswith("| 1.50x | 1.50x | 2.25x |")
    assert "–" in lines["CATRO"] and "**71.00** (3)" in lines["**SMART, %**"]
    assert "ahead in 1, tied in 0, behind in 0 of 1 cells" in text
    assert Comparison.of(runs).best("vit-2:4") == "oneshot"  # the only one on all seeds


def test_the_committed_page_is_what_the_committed_rows_give(tmp_path):
    """Run ``python -m bench report`` after the rows have changed."""
    pytest.importorskip("matplotlib")
    page.write(tmp_path)
    pages = list(tmp_path.glob("*.md"))
    assert {path.stem for path in pages} == {"results-accuracy", "results-accuracy-search", "tuning-smart"}
    for path in pages:
        assert path.read_text() == (page.DOCS / path.name).read_text()
    assert {path.name for path in (tmp_path / "accuracy").iterdir()} == {"matrix.png", "sparsity.png"}
