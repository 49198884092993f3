"""``bench tasks``: exact truth, metrics by their definitions, fair runs, a page from the rows alone."""

from dataclasses import replace

import pytest
import torch

from bench import tasks
from bench.__main__ import main
from bench.tasks import cells, page, record, trial
from bench.tasks.data import TASKS, data_of, squares
from bench.tasks.detection import Detection, boxes_of, parts
from bench.tasks.precision import Found, average_precision, mean_average_precision, overlap
from bench.tasks.scenes import INK, MOST, compose
from bench.tasks.segmentation import Segmentation, mean_iou
from bench.tasks.superresolution import signal_to_noise, small
from smart_train.tasks import Task

ROW = record.Run(
    **{"cell": "detect-channel-50", "method": "smart", "seed": 0, "metric": "AP", "passes": 120, "prepared": 0},
    **{"dense": 80.0, "quality": 70.0, "kept": 9, "asked": 9, "step_ms": 3.0, "dense_step_ms": 2.0, "device": "CPU"},
    **{"threads": 1, "load": 1.0, "torch": "2", "triton": "3", "python": "3.11", "commit": "abc", "date": "2026-01-01"},
    command="python",
)


def test_the_truth_of_a_scene_is_exact():
    (items, labels), _, _ = squares()
    items = items.clone()
    items[:, :, :3] = 0  # what is dark belongs to nothing, nor is it in the box
    found = compose(items, labels, 30, 7)
    for picture, classes, boxes in zip(found.pictures[:, 0], found.classes, found.boxes, strict=True):
        covered = torch.zeros_like(classes)
        for left, top, right, bottom, label in boxes[boxes[:, 4] >= 0].int().tolist():
            there = classes[top:bottom, left:right]
            assert (bottom - top, right - left) in ((13, 16), (7, 8), (6, 8)) and there.eq(label + 1).all()
            assert picture[top:bottom, left:right].ge(INK).all()
            covered[top:bottom, left:right] += 1
        assert covered.equal(classes.gt(0).to(covered))
    assert found.boxes.shape == (30, MOST, 5) and len(found.boxes[..., 4].ge(0).sum(1).unique()) == 3
    again, other = compose(items, labels, 30, 7), compose(items, labels, 30, 8)
    assert again.pictures.equal(found.pictures) and not other.pictures.equal(found.pictures)


def test_mean_intersection_over_union():
    confusion = torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]])  # true in rows; nothing is of the last
    assert mean_iou(confusion) == pytest.approx((3 / 6 + 4 / 7) / 2)
    outputs = torch.tensor([[[[2.0, 0.0]], [[1.0, 3.0]]]])  # pixels of class 0 and 1
    assert Segmentation().judge(outputs, torch.tensor([[[0, 0]]], dtype=torch.uint8)).tolist() == [[1, 1], [0, 0]]


def found(*boxes):
    """Boxes of (left, top, right, bottom, sure, class)."""
    each = torch.tensor(boxes, dtype=torch.float32).view(-1, 6)
    return Found(each[:, :4], each[:, 4], each[:, 5].long())


TRUTH = torch.tensor([[0.0, 0, 10, 10, 1], [20, 20, 30, 30, 1]])


def test_average_precision_by_hand():
    ranked = found((0, 0, 10, 10, 0.9, 1), (40, 40, 50, 50, 0.8, 1), (20, 20, 30, 30, 0.7, 1))
    assert average_precision([(ranked, TRUTH)], 1) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    twice = found((0, 0, 10, 10, 0.9, 1), (0, 0, 10, 9, 0.8, 1))  # the second repeats the first
    assert average_precision([(twice, TRUTH)], 1) == pytest.approx(0.5)
    late = found(
        (40, 40, 50, 50, 0.9, 1), (0, 0, 10, 10, 0.5, 1)
    )  # precision 0, 1/2: the better counts for less recall
    assert average_precision([(late, TRUTH)], 1) == pytest.approx(0.25)
    assert average_precision([(found(), TRUTH)], 1) == 0
    half, less = found((0, 0, 10, 5, 0.9, 1)), found((0, 0, 10, 4.9, 0.9, 1))
    assert average_precision([(half, TRUTH[:1])], 1) == 1 and average_precision([(less, TRUTH[:1])], 1) == 0


def test_average_precision_ranks_over_all_pictures_and_means_over_classes():
    pictures = [(found((0, 0, 10, 10, 0.5, 1)), TRUTH[:1]), (found((0, 0, 1, 1, 0.9, 1)), TRUTH[:0])]
    assert average_precision(pictures, 1) == pytest.approx(0.5)
    other = torch.tensor([[0.0, 0, 10, 10, 3]])
    assert mean_average_precision([*pictures, (found((0, 0, 10, 10, 0.2, 3)), other)]) == pytest.approx(0.75)
    assert overlap(TRUTH, TRUTH).equal(torch.eye(2))


def perfect(boxes, classes=10):
    """(1, 5 + classes, 8, 8): what a perfect detector puts out."""
    outputs = torch.full((1, 5 + classes, 8, 8), -30.0)
    for left, top, right, bottom, label in boxes.tolist():
        x, y = (left + right) / 16, (top + bottom) / 16
        cell = outputs[0, :, int(y), int(x)]
        cell[0], cell[5 + int(label)] = 30, 30
        cell[1:3] = torch.tensor([x % 1, y % 1]).logit(1e-6)
        cell[3:5] = torch.tensor([right - left, bottom - top]).div(16).log()
    return outputs


def test_a_perfect_detector_has_no_loss_and_all_precision():
    targets = torch.full((1, 3, 5), -1.0)
    targets[0, :2] = torch.tensor([[1.0, 2, 29, 30, 1], [40, 33, 52, 51, 7]])
    outputs = perfect(targets[0, :2])
    task = Detection()
    assert task.loss(outputs, targets) < 1e-4 and task.quality([task.judge(outputs, targets)]) == 100
    (got,) = boxes_of(parts(outputs))
    torch.testing.assert_close(got.boxes[:2].sort(0).values, targets[0, :2, :4].sort(0).values, rtol=1e-3, atol=1e-2)
    worse = outputs.clone().requires_grad_()
    task.loss(worse + 1, targets).backward()
    assert worse.grad[0, 3:5].ne(0).any(0).sum() == 2, "only cells with an item learn a size"
    assert task.loss(outputs, targets * 0 - 1).isfinite()


def test_signal_to_noise_by_hand():
    truth = torch.full((2, 1, 4, 4), 100.0)
    assert signal_to_noise(truth + 5, truth).tolist() == pytest.approx([34.1514] * 2, abs=1e-3)  # 10 log10(65025 / 25)
    assert signal_to_noise(truth + 0.4, truth).min() > 100, "bytes know no fractions"
    assert small(torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)).tolist() == [[[[8]]]]


def test_every_task_has_its_claimant_on_a_cell():
    planned = tasks.wanted(cells.CELLS, (), range(2))
    for task, kind in TASKS.items():
        own = [cell for cell, each in cells.CELLS.items() if each.task == task]
        assert {method for cell, method, _ in planned if cell in own} == {*cells.FAIR, kind.claim}
    assert ("detect-16x16-80", "activation", 0) not in planned and len(planned) == len(set(planned))


def test_a_run_counts_every_pass(tmp_path):
    data = data_of("detect", 0, 24, 3, squares)
    runs = [
        trial.run(("detect-channel-50", method, 0), data, tasks.FEW, "cpu", tmp_path)
        for method in ("smart", "activation")
    ]
    assert [run.prepared for run in runs] == [0, 4] and {run.passes for run in runs} == {6}
    assert runs[0].dense == runs[1].dense and all(0 < run.kept <= run.asked for run in runs)


def test_a_dry_run_writes_nothing(tmp_path):
    out = tmp_path / "rows.jsonl"
    assert main(["tasks", "--dry-run", "--cells", "segment-16x16-80", "enlarge-channel-50", "--out", str(out)]) == 0
    assert not out.exists()


def test_a_teacher_needs_a_task_that_imitates():
    with pytest.raises(ValueError, match="a teacher must have a task that defines imitation, got Segmentation"):
        Task.imitation(Segmentation(), torch.zeros(1), torch.zeros(1))


def test_the_page_says_what_was_not_run():
    runs = [replace(ROW, seed=seed, quality=70.0 + seed, step_ms=4.0) for seed in range(3)]
    runs += [replace(ROW, method="oneshot", seed=seed, quality=68.0 + 1.1 * seed) for seed in range(3)]
    lines = {line.split("|")[1].strip(): line for line in page.text(runs).splitlines() if line.startswith("|")}
    assert "+1.90 ± 0.25 (3)" in lines["one-shot magnitude"]
    assert "**71.00** (3)" in lines["**SMART**"] and lines["GDP"].count("–") == 4 and lines["GDP"].count("not run") == 2


def test_the_committed_page_is_what_the_committed_rows_give(tmp_path):
    """Run ``python -m bench report`` after the rows have changed."""
    page.write(tmp_path)
    assert (tmp_path / "results-tasks.md").read_text() == (
        record.rows.RESULTS.parents[1] / "docs" / "results-tasks.md"
    ).read_text()
