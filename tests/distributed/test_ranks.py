"""Two and four processes that train one model: masks are the same everywhere, and those of one process alone."""

import pytest
import torch

from smart_kernels import NM, Channel
from smart_train import PRUNERS

from . import loops
from .processes import run

WRAPPED = ("pruner", "wrapper", "inner", "shards", "shards of weights")


def check_alike(found, alone, tolerance):
    """Bit for bit the same on all ranks; to a tolerance what one process finds; hard masks exactly."""
    first = found[0]
    for other in found[1:]:
        for mine, theirs in zip(first["masks"], other["masks"], strict=True):
            assert all(mine[name].equal(theirs[name]) for name in mine)
        assert all(first["state"][name].equal(other["state"][name]) for name in first["state"])
    for mine, theirs in zip(first["masks"], alone["masks"], strict=True):
        for name in theirs:
            torch.testing.assert_close(mine[name], theirs[name], rtol=0, atol=tolerance)
    assert all(first["masks"][-1][name].equal(mask) for name, mask in alone["masks"][-1].items())
    for name, value in alone["state"].items():
        torch.testing.assert_close(first["state"][name], value, rtol=0, atol=tolerance)
    assert first["report"] == alone["report"]


@pytest.mark.parametrize("how", WRAPPED)
def test_two_processes_find_the_masks_of_one(tmp_path, how):
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        (folder := tmp_path / str(dtype)).mkdir()
        check_alike(run(folder, 2, loops.train, how, dtype), loops.train("alone", dtype), tolerance)


@pytest.mark.parametrize("how", ["wrapper", "shards"])
@pytest.mark.parametrize("pattern", [Channel(), NM(2, 4)], ids=str)
def test_accumulated_gradients_of_every_kind_of_pattern(tmp_path, how, pattern):
    settings = {"micro": 2, "pattern": pattern}
    alone = loops.train("alone", torch.float64, **settings)
    check_alike(run(tmp_path, 2, loops.train, how, torch.float64, 2, pattern), alone, 1e-10)


def test_a_run_goes_on_in_another_number_of_processes(tmp_path):
    whole = loops.train("alone", torch.float64)
    search = loops.DENSE + 3
    for first, then, steps in (("shards", "alone", search), ("alone", "shards", search), ("shards", "pruner", 9)):
        folders = [tmp_path / first / then, tmp_path / first / then / "on"]
        for folder in folders:
            folder.mkdir(parents=True)
        taken = loops.begin(first, steps) if first == "alone" else run(folders[0], 2, loops.begin, first, steps)[0]
        found = [loops.go_on(then, taken)] if then == "alone" else run(folders[1], 2, loops.go_on, then, taken)
        check_alike(found, whole | {"masks": whole["masks"][steps:]}, 1e-10)


def test_what_cannot_be_is_refused_in_one_line(tmp_path):
    for found in run(tmp_path, 2, loops.refusals):
        assert "made before fully_shard" in found["shards first"]
        assert "unmask_ needs whole parameters, got shards of fully_shard in 0.weight" in found["finalize"]
        assert "slim_ needs whole parameters" in found["slim_"]
        assert "mask_ needs whole parameters" in found["mask_"]
        assert "made before DistributedDataParallel where attention is split" in found["attention"]
        assert "made before DistributedDataParallel where attention is split" in found["attention inside"]
        assert "find_unused_parameters=True" in found["in a bigger wrapper"]
        assert "must reach the layers as float32, got param_dtype torch.bfloat16" in found["rounded"]
        assert found["still plain"]
        assert "scores must be the same on all 2 processes, got" in found["unlike"]
        assert not any("\n" in text for text in found.values() if isinstance(text, str))


def test_every_method_has_the_same_masks_in_all_processes(tmp_path):
    first, second = run(tmp_path, 2, loops.methods)
    assert len(first) == 2 * len(PRUNERS)
    for name, masks in first.items():
        assert all(mask.equal(second[name][layer]) for layer, mask in masks.items()), name


def test_every_option_of_the_wrapper(tmp_path):
    first, second = run(tmp_path, 2, loops.options)
    assert len(first) == 5
    for name, found in first.items():
        assert found["norms"] == second[name]["norms"], name
        for part in ("masks", "state"):
            assert all(value.equal(second[name][part][each]) for each, value in found[part].items()), name


def test_a_process_may_train_alone_beside_others(tmp_path):
    first, second = run(tmp_path, 2, loops.alone_in_company)
    assert not first["0.weight"].equal(second["0.weight"])


def test_a_model_is_finalized_in_its_wrapper_and_trains_on(tmp_path):
    first, second = run(tmp_path, 2, loops.finalized_in_a_wrapper)
    assert first["zeros"] == round(first["kept"] * 384) > 0
    assert "0.scores" not in first["names"]
    assert all(mine.equal(theirs) for mine, theirs in zip(first["gradients"], second["gradients"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("how", [*WRAPPED, "shards in two copies"])
def test_four_processes_find_the_masks_of_one(tmp_path, how):
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        (folder := tmp_path / str(dtype)).mkdir()
        check_alike(run(folder, 4, loops.train, how, dtype), loops.train("alone", dtype), tolerance)
