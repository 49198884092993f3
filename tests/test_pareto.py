"""``bench pareto``: what runs in which order, rivals at equal speed, a page from the rows alone."""

import pytest

from bench import lines, pareto
from bench.__main__ import main
from bench.pareto import page, record, trial
from bench.pareto.choices import GRID, PLANS, Choice
from bench.pareto.compare import Front, near

ENVIRONMENT = {
    **{"device": "CPU", "threads": 1, "load": 1.0, "torch": "2", "triton": "3", "python": "3.11"},
    **{"commit": "abc", "date": "2026-01-01", "command": "python"},
}
PLAN = str(PLANS[0])


def point(choice, seed=0, speedup=2.0, accuracy=80.0, predicted=None, model="cnn"):
    right = {"dense": 85.0, "accuracy": accuracy, "asked": predicted, "predicted": predicted, "plan": {}}
    fast = {"speedup": speedup, "spread": 0.02, "dense_ms": 2 * speedup, "sparse_ms": 2.0, "sparsity": 0.8}
    return record.Point(model=model, choice=str(choice), seed=seed, **right, **fast, **ENVIRONMENT)


def known(*points):
    return {each.key: each for each in points}


def test_a_rival_is_as_fast_and_the_most_accurate_of_these():
    slow, close, fast, faster = GRID[:4]
    points = [
        point(PLAN, speedup=2.0, accuracy=81.0),
        point(slow, speedup=1.8, accuracy=84.0),
        point(close, speedup=1.91, accuracy=79.0),
        point(fast, speedup=3.0, accuracy=80.0),
        point(faster, speedup=4.0, accuracy=70.0),
        point(GRID[4], speedup=9.0, accuracy=99.0, model="vit"),
    ]
    front = Front.of(points, "cnn")
    assert front.rivals(PLAN) == [str(fast), str(close)]
    assert front.rivals(str(PLANS[1])) == [], "has not run"


def test_the_whole_grid_comes_before_other_seeds_and_these_only_of_what_is_compared():
    seen, found = {}, []
    while task := pareto.following(["cnn"], 2, seen):
        _, choice, seed = task
        found.append((str(choice), seed))
        speed = choice.speedup or 4 * choice.sparsity - 0.5
        seen |= known(point(choice, seed, speed, accuracy=90 - 10 * choice.sparsity))
    first = [str(choice) for choice in (*PLANS, *GRID)]
    assert found[: len(first)] == [(name, 0) for name in first]
    later = [name for name, seed in found[len(first) :] if seed == 1]
    assert later[:2] == [str(plan) for plan in PLANS] and len(later) == 2 + 4 and len(found) == len(first) + 6
    assert not [name for name in later if name.endswith(" 50 %")], "slower than the plans"


def test_predictions_are_of_times():
    held = point(PLAN, predicted=2.15, speedup=2.0)
    slower = point(PLAN, seed=1, predicted=2.3, speedup=2.0)
    assert held.off == pytest.approx(0.075) and slower.off == pytest.approx(0.15)
    assert near([held, slower, point(GRID[0])]) == (1, 2)


def test_the_page_says_where_a_plan_is_not_more_accurate(tmp_path):
    rival = GRID[2]
    points = [point(rival, seed, 2.1, 80.0 + seed) for seed in range(3)]
    better = [point(PLAN, seed, 2.0, 82.0 + 1.1 * seed, 2.1) for seed in range(3)]
    tied = [point(PLAN, seed, 2.0, 80.0 + seed + (-1) ** seed, 2.3) for seed in range(3)]
    for plans, verdict in ((better, "| more accurate |"), (tied, "| not more accurate, not less |")):
        text = page.text([*points, *plans])
        assert verdict in text and f"| {rival} | 2.10 | 81.00 (3) |" in text
    assert "Of 3 plans 0 took within 10 % of the predicted time (0 %); the worst +15 %." in text
    assert "| vit | plan 3x | not run |" in text
    for each in points:
        lines.add(each, tmp_path / "rows" / "cpu.jsonl")
    page.write(tmp_path, tmp_path / "rows")
    assert (tmp_path / "results-pareto.md").exists() and (tmp_path / "pareto" / "speedup.png").exists()


def test_a_run_is_measured_and_not_repeated(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(trial, "SCRATCH", tmp_path / "scratch")
    monkeypatch.setattr(pareto, "PLANS", [])
    monkeypatch.setattr(pareto, "GRID", [GRID[0]])
    monkeypatch.setattr(
        pareto, "run", lambda m, c, r, d: trial.run(m, c, c.recipe(m, 0, pareto.FEW, "digits"), d, tmp_path)
    )
    command = ["pareto", "--models", "cnn", "--seeds", "1", "--out", str(tmp_path / "rows.jsonl")]
    assert main(command) == 0 and main(command) == 0
    assert "1 runs done now, none left" in capsys.readouterr().out
    (found,) = record.read([tmp_path / "rows.jsonl"]).values()
    assert found.choice == "block:16x16:all 50 %" and found.predicted is None
    assert found.sparsity == pytest.approx(0.5, abs=0.01) and found.speedup > 0


def test_a_choice_is_a_recipe():
    planned, plain = Choice(2.0).recipe("vit", 3), GRID[1].recipe("cnn", 0)
    assert planned.target == "speedup:2" and planned.sparsity is None and planned.seed == 3
    assert (plain.pattern, plain.sparsity, plain.target) == ("block:16x16:all", 0.7, None)
