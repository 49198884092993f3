"""The benchmark program: what it refuses, what it writes, and that every case still runs."""

import importlib
import json
import math
import pkgutil
import re
import struct
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import triton

from bench import choice, floor, gpu_check, l2, on_gpu, peers, report, rows, run, timing
from bench.__main__ import main
from bench.case import Case, Problem, Shape, wrong
from bench.codegen import budget, resident, sass, table, traffic
from bench.first_run import cases
from bench.gpu_check import check, listing, models, pool, sanitizer, stages, tuning
from bench.report import answers, census, pages, plots, tables
from bench.rows import Row
from smart_kernels import kernels
from smart_kernels.ops.common.plan import Planned

SHAPE = Shape("tiny", 2, 3, 4, "for tests")
SLOW_WHEN_INTERPRETED = pytest.mark.skipif(triton.knobs.runtime.interpret, reason="minutes in the interpreter")
ENV = {"device": "Some GPU", "threads": 1, "load": 0.1, "torch": "2", "triton": "3", "python": "3.11"}
ENV |= {"commit": "abc", "date": "2026-01-01", "command": "python -m bench ops"}


def case(provider="ours", baseline=False, out=1.0, sparsity=0.5):
    one = torch.ones(2, 3)
    problem = Problem("op", SHAPE, "1x1", sparsity, torch.float32, "fwd")
    exact = {"run": lambda: (out * one,), "exact": lambda: (one.double(),)}
    return Case(problem, provider, baseline, **exact, flops=4e9, bytes=2e6)


def some_rows():
    limits = floor.Limits(peak=1e12, bandwidth=1e11)
    found = []
    for sparsity in (0.5, 0.9):
        cases = [case("dense", baseline=True, sparsity=sparsity), case(sparsity=sparsity)]
        times = [timing.Timing(8.0, 9.0, 10.0, 11.0, 30, "rounds"), timing.Timing(3.0, 4.0, 5.0, 6.0, 30, "rounds")]
        found += run.rows(cases, times, limits, ENV)
    return found


@SLOW_WHEN_INTERPRETED
@pytest.mark.parametrize("what", ["ops", "layers", "choice"])
def test_dry_run_checks_every_case_and_writes_nothing(what, capsys, tmp_path):
    assert main([what, "--dry-run", "--out", str(tmp_path / "rows.jsonl")]) == 0
    assert "nothing timed" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@SLOW_WHEN_INTERPRETED
def test_gpu_check_dry_run_is_green_and_resumes(capsys, tmp_path):
    command = ["gpu-check", "--dry-run", "--topk", "--masked", "--out", str(tmp_path / "check.json")]
    assert main(command) == 0
    summary = json.loads((tmp_path / "check.json").read_text())
    assert summary["wrong"] == [] and summary["device"] and summary["torch"]
    lines = (tmp_path / "check.jsonl").read_text().splitlines()
    assert main(command) == 0
    assert (tmp_path / "check.jsonl").read_text().splitlines() == lines, "checks that held are not repeated"


@pytest.mark.parametrize("part", gpu_check.PARTS)
def test_every_part_of_gpu_check_has_its_list(part):
    """A part that cannot even be listed would be found on the GPU only."""
    names = [check.name for check in listing.listed(part, gpu_check.Context("cpu", small=True, dry=True))]
    assert names and not [name for name in names if "list of checks" in name]


@SLOW_WHEN_INTERPRETED
def test_gpu_check_prunes_the_convolutions_of_its_resnet():
    net = models.MODELS[1].make()
    assert max(models.zeros(net).values()) < 1e-5
    choice.prune(net, models.BLOCKS[0], 0.8)
    assert all(abs(share - 0.8) <= models.SHORT for share in models.zeros(net).values())


@pytest.mark.parametrize("model, by_hand", [*zip(models.SMALL_MODELS, (models.joined, models.fused), strict=True)])
def test_gpu_check_fuses_dense_models_by_hand_without_changing_them(model, by_hand):
    net, x = model.make().eval(), torch.randn(model.inputs)
    with torch.no_grad():
        torch.testing.assert_close(by_hand(net)(x), net(x), atol=1e-4, rtol=1e-4)


def test_gpu_check_checks_in_processes_and_none_ends_the_others():
    """A process that dies is one wrong check; the next one runs in another process."""
    context = gpu_check.Context("cpu", small=True, dry=True)
    known = next(iter(listing.listed("topk", context)))
    unknown = replace(known, name="a check that no process knows")
    tasks = [stages.Task("topk", unknown), stages.Task("topk", known)]
    processes = pool.Pool(1)
    try:
        found = list(processes.outcomes(tasks, context, count=1, deadline=math.inf))
        assert [outcome["ok"] for _, outcome in found] == [False, True]
        assert "its process died" in found[0][1]["exception"]
        assert list(processes.outcomes(tasks, context, count=1, deadline=time.monotonic())) == [], "the time is up"
    finally:
        processes.end()


def test_gpu_check_says_what_the_time_did_not_suffice_for(capsys):
    assert main(["gpu-check", "--dry-run", "--topk", "--minutes", "1e-9"]) == 1
    assert "0 checks, 0 wrong, 24 not done in time {'first': 5, 'correct': 19}" in capsys.readouterr().out


def tasks_named(*names):
    """Tasks whose family is the first word and which cover the first two."""
    checks = [gpu_check.Check(name, dict, family=name[0], covers=name[:2]) for name in names]
    return [stages.Task("part", check) for check in checks]


def test_one_check_of_everything_comes_before_the_rest_and_families_take_turns():
    planned = stages.plan(tasks_named("a1 x", "a1 y", "a2 x", "b1 x", "b1 y", "b1 z"))
    names = {kind: [task.check.name for task in tasks] for kind, tasks in planned.items()}
    assert names["first"] == ["a1 x", "b1 x", "a2 x"] and names["correct"] == ["a1 y", "b1 y", "b1 z"]
    assert list(planned) == [stage.kind for stage in stages.STAGES]
    ends = [stage.until for stage in stages.STAGES]
    assert ends == sorted(ends) and ends[-1] == 1.0


def test_every_kernel_has_a_first_check_and_one_under_the_sanitizer():
    """On a GPU: each op, dtype and configuration once within the first two minutes."""
    context = gpu_check.Context("cuda", small=False, dry=False)
    tasks = [stages.Task(part, check) for part in gpu_check.PARTS for check in listing.listed(part, context)]
    assert len({task.check.name for task in tasks}) == len(tasks), "a check is found by its name"
    assert {task.check.kind for task in tasks} <= {stage.kind for stage in stages.STAGES}
    first = {task.check.covers for task in stages.plan(tasks)["first"]}
    last = max(len(tuned.configs) for tuned in check.TUNED) - 1
    for op in ("masked_linear", "smart_linear", "matmul"):
        assert {f"{op} {dtype} config {last}" for dtype in ("bf16", "fp16", "fp32")} <= first
    small = replace(context, small=True)
    for name, part, pattern in sanitizer.KERNELS:
        assert any(re.search(pattern, found.name) for found in listing.listed(part, small)), name


class Config(str):
    """A launch configuration, by its name."""

    maxnreg = None


class Kernel:
    """A kernel with a choice: its second configuration is the fastest, its last cannot run."""

    configs = (Config("slow"), Config("fast"), Config("huge"))

    def run(self):
        if self.configs == ["huge"]:
            raise RuntimeError("out of shared memory")
        return self.configs[0]


def test_tuning_times_every_configuration_and_names_the_winner_and_its_margin():
    kernel = Kernel()
    other = Kernel()
    assert tuning.launched(lambda: kernel.run(), [kernel, other]) == [(kernel, (), {})]
    times = tuning.times(lambda: kernel.run(), kernel, clock=lambda run: {"slow": 3.0, "fast": 2.0}[run()])
    assert times == {"slow": 3.0, "fast": 2.0, "huge": None}
    assert tuning.winner(times) == ("fast", 1.5)
    assert tuning.winner({"only": 2.0, "huge": None}) == ("only", None)
    assert kernel.configs == ("slow", "fast", "huge") and "run" not in vars(kernel)


def test_what_raises_does_not_end_its_group(monkeypatch):
    def clock(function):
        if function is bad.run:
            raise RuntimeError("cannot be captured")
        return timing.summarise([0.25], "graph")

    good, bad = case("good"), case("bad")
    monkeypatch.setattr(on_gpu, "replayed", clock)
    refused = []
    assert [found.provider for found, _ in run.timed([bad, good], "graph", refused)] == ["good"]
    assert len(refused) == 1 and "cannot be captured" in refused[0]
    times = on_gpu.each({"bad": bad.run, "good": good.run}, "graph")
    assert times == {"bad": "RuntimeError: cannot be captured", "good": 250.0}


def test_pruning_a_model_for_speed_takes_its_convolutions_too():
    """A mask is drawn on the CPU; blocks lie at single taps; what is smaller than a block stays."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 7), torch.nn.Conv2d(64, 64, 3), torch.nn.Linear(128, 64))
    assert choice.prune(net, (32, 32), 0.8) == 3
    first, conv, linear = (layer.weight for layer in net)
    assert (conv == 0).double().mean() == 1 - round(0.2 * 18) / 18
    assert (linear == 0).double().mean() == 0.75
    tiles = conv.detach().view(2, 32, 2, 32, 9).abs().amax((1, 3)) > 0
    assert tiles.sum((1, 2)).tolist() == [4, 4], "as many live blocks in every row of blocks"
    assert (first == 0).double().mean() == pytest.approx(1 - round(0.2 * 49) / 49)


TUNED = re.compile(r"^@autotune\(.*?^def (\w+)\(", re.M | re.S)


def test_gpu_check_forces_the_configurations_of_every_tuned_kernel():
    """Nobody has to enter a new kernel anywhere: what the text of the kernels tunes is found."""
    files = Path(kernels.__file__).parent.rglob("*.py")
    tuned = {name for file in files for name in TUNED.findall(file.read_text())}
    assert {kernel.base_fn.__name__ for kernel in check.TUNED} == {*tuned}
    assert len(tuned) == len(check.TUNED) > 10
    before = [kernel.configs for kernel in check.TUNED]
    with check.configuration(1):
        assert all(len(kernel.configs) == 1 for kernel in check.TUNED)
    assert [kernel.configs for kernel in check.TUNED] == before


def test_a_forced_configuration_is_not_passed_by_with_kept_launches():
    """Launches are kept with the configuration that they were first made with."""
    planned = Planned(lambda tensor: lambda tensor: check.TUNED[0].configs)
    one = torch.ones(1)
    before = planned((one,), ())
    with check.configuration(1):
        assert planned((one,), ()) == [before[1]]
    assert planned((one,), ()) == before and len(before) > 1


def test_gpu_check_records_an_exception_and_goes_on(monkeypatch, capsys):
    from bench.gpu_check import Check, topk

    def fail():
        raise RuntimeError("no luck")

    monkeypatch.setattr(topk, "cases", lambda context: [Check("bad", fail), Check("good", lambda: {"ok": True})])
    assert main(["gpu-check", "--dry-run", "--topk"]) == 1
    out = capsys.readouterr().out
    assert "WRONG bad" in out and "no luck" in out and "ok    good" in out


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["nothing"],
        ["ops", "--dtype", "int3"],
        ["ops", "--threads", "0"],
        ["gpu-check", "--minutes", "-1"],
        ["layers", "--seconds", "long"],
        ["choice", "--filter", "("],
        ["codegen", "--target", "sm_33"],
        ["report", "--out", f"{__file__}/plots"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_refuses_bad_usage(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err


COMMANDS = (["ops"], ["ops", "--dry-run"], ["choice", "--dry-run"], ["codegen"], ["gpu-check", "--dry-run", "--topk"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_filter_that_matches_nothing_is_an_error(command, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "TABLE", tmp_path / "codegen.csv")
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.setattr("bench.__main__.shapes", lambda device, dry_run: [SHAPE])
    assert main([*command, "--filter", "no such case"]) == 2
    assert "--filter must match a c" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_part_of_the_census_leaves_the_table_alone(monkeypatch, tmp_path, capsys):
    row = {"case": "some case", "target": "sm_90", "kernel": "some_kernel", "error": "none here"}
    monkeypatch.setattr(table, "TABLE", tmp_path / "codegen.csv")
    monkeypatch.setattr(table, "census", lambda target, names: [row])
    for part in (["--filter", "soft_topk"], ["--target", "sm_90"]):
        assert main(["codegen", *part]) == 1 and not table.TABLE.exists()
        assert main(["codegen", *part, "--out", str(tmp_path / "part.csv")]) == 1
        assert "some_kernel" in (tmp_path / "part.csv").read_text()
    assert main(["codegen"]) == 1 and "some_kernel" in table.TABLE.read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_refuses_a_gpu_that_is_not_there(capsys):
    with pytest.raises(SystemExit):
        main(["ops", "--device", "cuda"])
    assert "needs a GPU" in capsys.readouterr().err


def test_a_wrong_result_is_refused():
    assert wrong(case()) is None
    assert "relative error" in wrong(case(out=1.1))
    assert wrong(case(out=float("nan"))) is not None
    refused = []
    assert list(run.measure([case(out=1.1)], "cpu", 0.01, refused)) == []
    assert "op/ours tiny" in refused[0]


def test_floor_is_the_slower_of_arithmetic_and_traffic():
    ceilings = timing.Ceilings(peak=1e12, bandwidth=1e11)
    assert timing.floor_ms(2e9, 1e6, ceilings) == pytest.approx(2.0)
    assert timing.floor_ms(2e9, 1e9, ceilings) == pytest.approx(10.0)


def test_low_blocks_are_held_to_the_cache_from_which_they_read():
    """A block row that is h high reads all of x that it needs: h multiplications for each element."""
    problem = Problem("op", Shape("square", 1000, 1000, 1000, ""), "16x16", 0.0, torch.bfloat16, "fwd")
    assert floor.from_l2(problem, (16, 16), 1.0) == 2 * 1000**3 / 16
    assert floor.from_l2(problem, (16, 16), 0.25) == 2 * 1000**3 / 16 / 4
    assert floor.from_l2(problem, (512, 16), 1.0) == 2 * 1000**3 / 256, "one program is not higher"
    step = floor.from_l2(replace(problem, pass_="step"), (16, 64), 1.0)
    assert step == 2 * 1000**3 * (1 / 16 + 1 / 64 + 1 / 16 + 1 / 64), "x; dy; both for the gradient of W"


@pytest.mark.parametrize(
    ("flops", "bytes", "l2_bytes", "term"), [(9, 1, 1, "FLOPs"), (1, 9, 1, "memory"), (1, 1, 9, "L2"), (0, 0, 0, "-")]
)
def test_a_row_names_the_term_that_binds(flops, bytes, l2_bytes, term):
    limits = floor.Limits(peak=1e12, bandwidth=1e12, l2=1e12)
    needs = {"flops": 1e9 * flops, "bytes": 1e9 * bytes, "l2_bytes": 1e9 * l2_bytes}
    timing_ = timing.summarise([0.01], "graph")
    (row,) = run.rows([replace(case(), **needs)], [timing_], limits, ENV)
    assert floor.binds(row) == term and row.floor_ms == (9.0 if term != "-" else 0.0)
    unmeasured = replace(row, l2_gbps=None)
    assert floor.binds(unmeasured) == ("FLOPs" if term == "L2" else term)


def test_the_reading_of_the_cache_reads_what_it_says():
    source = l2.values("cpu", blocks=7, size=64)
    sums = l2.expected(source, programs=3, steps=5)
    blocks = [[(program * l2.APART + step) % 7 for step in range(5)] for program in range(3)]
    assert sums.tolist() == [source[taken].sum().item() for taken in blocks]
    if triton.knobs.runtime.interpret:
        assert torch.equal(l2.read(source, 3, 5), sums)


def test_the_first_run_has_floors_from_one_pair_of_limits():
    found = [r for r in rows.read(rows.RESULTS / "nvidia-h200.jsonl") if r.commit == "25cb45a"]
    assert {(r.peak_tflops, r.bandwidth_gbps, r.l2_gbps) for r in found} == {(789.0, 4231.0, None)}
    for r in found:
        assert r.floor_ms == pytest.approx(1e3 * max(r.flops / 789e12, r.bytes / 4231e9), abs=1e-6)
        assert r.device == "NVIDIA H200" and r.torch == "2.11.0+cu130" and r.command.startswith("first run")
    assert {r.timer for r in found} == {"graph", "events", "host"}


def test_the_first_run_is_converted_by_what_the_problem_needs():
    r = {"op": "block_sparse_linear", "provider": "block_sparse_linear", "shape": "llama-up/prefill", "M": 4096}
    r |= {"N": 14336, "K": 4096, "block": "64x64", "sparsity": 0.9, "pass_": "fwd", "timer": "events", "speedup": 5.05}
    r |= {"p20_ms": 0.1, "p50_ms": 0.1, "p80_ms": 0.2, "how": "replay of a CUDA graph", "floor_ms": 0.0, "of_floor": 0}
    row = cases.row(r)
    live = 6 / 64  # of 64 blocks in a block row
    assert row.flops == 2 * 4096 * 14336 * 4096 * live and row.timer == "graph"
    assert row.l2_bytes == 2 * 4096 * 14336 * 4096 * live / 64
    assert row.of_floor == pytest.approx(row.floor_ms / 0.1, abs=1e-4)


def test_rounds_are_interleaved_and_summarised():
    calls = []
    fast, slow = timing.interleaved([lambda: calls.append("a"), lambda: calls.append("b")], seconds=0.01)
    assert fast.runs == slow.runs >= 5
    assert fast.best_ms <= fast.p20_ms <= fast.p50_ms <= fast.p80_ms
    assert {"a", "b"} == set(calls)


def test_a_single_sample_is_its_own_percentiles():
    timing_ = timing.summarise([0.25], "events")
    assert (timing_.p20_ms, timing_.p50_ms, timing_.p80_ms, timing_.runs) == (250.0, 250.0, 250.0, 1)


def test_a_peer_that_cannot_is_left_out_whatever_it_raises(monkeypatch):
    class CompilationError(Exception):
        """As Triton's, which is none of Python's usual errors."""

    def fail(weight, block):
        raise CompilationError("no such block")

    monkeypatch.setattr(peers, "MAKERS", {"bad": fail, "torch-csr": peers.torch_csr})
    found = peers.peers(torch.eye(4), (2, 2), torch.randn(3, 4))
    assert [provider.name for provider in found] == ["torch-csr"]


def test_ratios_are_of_pairs_and_a_slower_choice_is_named():
    times = [timing.summarise(seconds, "rounds") for seconds in ([1.0, 2.0, 4.0, 8.0], [1.1, 2.2, 4.4, 8.8])]
    cases = [case("best dense", baseline=True), case("compress_")]
    dense, chosen = run.rows(cases, times, floor.Limits(1e12, 1e11), ENV)
    assert (dense.ratio, chosen.ratio, chosen.spread) == (1.0, 1.1, 0.0)
    assert choice.slower([dense, chosen]) == [f"slower than dense: {choice.line(chosen)}"]
    assert "at most 1.100" in "".join(choice.verdict([replace(chosen, op="choice")]))


def test_rows_round_trip_and_the_last_measurement_counts(tmp_path):
    path = tmp_path / "some-gpu.jsonl"
    first = some_rows()
    again = [replace(row, p50_ms=1.0) for row in first]
    rows.append(first, path)
    rows.append(again, path)
    assert rows.read(path) == again
    assert Row(**asdict(first[0])) == first[0]


def test_speedup_is_against_the_best_baseline_and_of_floor_against_the_ceilings():
    dense, ours = some_rows()[:2]
    assert (dense.speedup, ours.speedup) == (1.0, 2.0)
    assert ours.floor_ms == pytest.approx(4.0) and ours.of_floor == pytest.approx(0.8)
    assert ours.tflops == pytest.approx(0.8)


def test_report_comes_from_the_rows_alone(tmp_path):
    pytest.importorskip("matplotlib")
    results, docs = tmp_path / "results", tmp_path / "docs"
    rows.append(some_rows(), results / "some-gpu.jsonl")
    assert report.write(docs, results) == 0
    front = (docs / "results.md").read_text()
    for expected in ("Some GPU", "torch 2, triton 3", "abc", "| 90 % |", "2.00", "(results/some-gpu-op.md)"):
        assert expected in front
    behind = (docs / "results" / "some-gpu-op.md").read_text()
    for expected in ("python -m bench ops", "| tiny | 2 x 3 x 4 | 1x1 | 50% | ours | 5 |", "2.00"):
        assert expected in behind
    pictures = {p.name for p in (docs / "plots").iterdir()}
    assert pictures == {f"some-gpu-op-{kind}.png" for kind in ("speedup", "roofline", "latency")}
    assert all(f"../plots/{name}" in behind for name in pictures)


def test_the_committed_pages_are_what_the_committed_rows_give():
    """Run ``python -m bench report`` after the rows have changed."""
    devices = {path.stem: rows.read(path) for path in sorted(rows.RESULTS.glob("*.jsonl"))}
    for path, text in report.texts_of(devices, table.TABLE).items():
        assert (report.DOCS / path).read_text().strip() == text.strip(), path
    drawn = {f"{name}-{picture}.png" for name, found in devices.items() for picture in plots.pictures(found)}
    assert {path.name for path in (report.DOCS / "plots").iterdir()} == drawn


def test_every_picture_can_be_read_without_zoom():
    for path in (report.DOCS / "plots").glob("*.png"):
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        assert width <= 1600 and height <= 1600, f"{path.name} has {width} x {height} pixels"


def gpu_rows():
    """One shape of ours at two sparsities beside dense: in a graph, called, and the host's time of the call."""
    dense, ours = some_rows()[:2]
    speedups = {(0.5, "graph"): 0.9, (0.8, "graph"): 3.0, (0.9, "graph"): 4.0, (0.8, "events"): 0.25}
    for (sparsity, timer), speedup in speedups.items():
        for row in (replace(dense, speedup=1.0), replace(ours, speedup=speedup)):
            yield replace(row, sparsity=sparsity, timer=timer, device="NVIDIA H200", dtype="bf16")
    for row, ms in ((dense, 0.027), (ours, 0.64)):
        yield replace(row, timer="host", p50_ms=ms, speedup=None, device="NVIDIA H200", dtype="bf16")


def test_answers_of_a_gpu_tell_kernel_call_and_host_apart():
    (answer,) = answers.answers(list(gpu_rows()))
    assert (answer.forward[0.8], answer.called[0.8], answer.step) == ([3.0], [0.25], {})
    assert answer.break_even == [0.8]
    screen = "\n".join(pages.device("nvidia-h200", list(gpu_rows())))
    assert "called without a graph, 80 %" in screen and "cpu-jit" not in screen
    assert "| op, fwd, few rows | 640 | 27 |" in screen


def test_a_page_of_a_gpu_says_what_binds_and_where_dense_is_faster():
    found = [replace(r, speedup=0.5) if r.sparsity == 0.8 and r.provider == "ours" else r for r in gpu_rows()]
    assert "Dense is faster at 80 % zeros, on at least one shape:\n`op` 1x1 (0.50)." in "\n".join(
        pages.device("some-gpu", found)
    )
    (low,) = (replace(r, l2_bytes=8e9) for r in found if (r.timer, r.sparsity, r.provider) == ("graph", 0.8, "ours"))
    page = tables.operator("some-gpu", [low])
    assert "not measured in this run" in page and "| 1.6 |" in page
    measured = replace(low, l2_gbps=1000.0)
    page = tables.operator("some-gpu", [measured])
    assert "not measured in this run" not in page and "| L2 |" in page


def test_break_even_holds_from_there_on():
    line = answers.Line("tiny", "1x1", "ours", {0.5: 1.2, 0.8: 0.9, 0.9: 1.1, 0.95: 2.0})
    assert line.break_even() == 0.9
    assert answers.Line("tiny", "1x1", "ours", {0.5: 2.0, 0.95: 0.9}).break_even() is None
    assert answers.from_sparsity([0.9, 0.5]) == "50 - 90 %"
    assert answers.from_sparsity([None, 0.5]) == "50 % - never"


def test_the_committed_census_is_within_its_limits():
    found = census.read(table.TABLE)
    assert {row["target"] for row in found} >= set(table.TARGETS)
    assert not [row for row in found if table.faults(row)]
    modules = (importlib.import_module(m.name) for m in pkgutil.walk_packages(kernels.__path__, f"{kernels.__name__}."))
    launched = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
    assert len(launched) > 20 and {row["kernel"] for row in found} >= launched


def test_report_without_rows_says_what_to_run(tmp_path, capsys):
    assert report.write(tmp_path / "docs", tmp_path) == 1
    assert "python -m bench ops" in capsys.readouterr().out


SASS = """
        /*0100*/                   LDGSTS.E.BYPASS.128 [R1], [R2.64] ;  /* 0x0 */
        /*0110*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24 ; /* 0x0 */
        /*0120*/              @P0  BRA 0x100 ; /* 0x0 */
        /*0130*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ; /* 0x0 */
        /*0140*/                   EXIT ; /* 0x0 */
"""


MOVED = """
        /*0100*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R1 ; /* 0x0 */
        /*0110*/             @!P0  BRA 0x180 ; /* 0x0 */
        /*0120*/                   HGMMA.SP.64x128x32.F32.BF16 R24, R8, gdesc[UR4], R24, R4, 0x0 ; /* 0x0 */
        /*0130*/              @P1  BRA 0x100 ; /* 0x0 */
        /*0140*/                   EXIT ; /* 0x0 */
        /*0150*/                   UTMALDG.2D [UR12], [UR6] ; /* 0x0 */
        /*0160*/                   BRA.U UP0, 0x150 ; /* 0x0 */
        /*0170*/                   EXIT ; /* 0x0 */
        /*0180*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R1 ; /* 0x0 */
        /*0190*/             @!P0  BRA 0x180 ; /* 0x0 */
        /*01a0*/                   BRA 0x120 ; /* 0x0 */
"""


SPILLED = """
        /*0100*/                   STL [R1], R4 ; /* 0x0 */
        /*0110*/                   FFMA R5, R6, R7, R5 ; /* 0x0 */
        /*0120*/              @P0  BRA 0x110 ; /* 0x0 */
        /*0130*/                   LDL.LU R4, [R1] ; /* 0x0 */
        /*0140*/                   EXIT ; /* 0x0 */
"""


def test_spills_are_looked_for_inside_of_loops():
    code = sass.parse(SPILLED)
    assert [[code[i][1] for i in sorted(body)] for body in sass.inner_loops(code)] == [["FFMA", "BRA"]]


def test_a_branch_back_from_moved_code_is_no_loop():
    loop = sass.matrix_loop(sass.parse(MOVED))
    assert [op.split(".")[0] for op, _ in loop] == ["SYNCS", "BRA", "HGMMA", "BRA"]


def test_the_matrix_loop_is_found_in_machine_code():
    loop = sass.matrix_loop(sass.parse(SASS))
    assert [op for op, _ in loop] == ["LDGSTS.E.BYPASS.128", "HGMMA.64x128x16.F32.BF16", "BRA"]
    assert sass.macs_per_warp("HGMMA.64x128x16.F32.BF16") == 64 * 128 * 16 / 4
    assert sass.macs_per_warp("HMMA.16816.F32.BF16") == 16 * 8 * 16
    assert sass.macs_per_warp("LDSM.16.M88.4") == 0


GOOD = {"case": "masked_linear 64x64 bf16", "target": "sm_90", "kernel": "block_matmul_kernel", "spill": 0}
GOOD |= {"config": "BLOCK_M=128 BLOCK_N=128 BLOCK_K=64 w4 s3", "shared": 98304, "serialised": False, "loop": 105}
GOOD |= {"asynchronous": 16, "tensor_core": 8, "instruction": "HGMMA.64x128x16.F32.BF16", "wide_loads": 16, "error": ""}


@pytest.mark.parametrize(
    ("kernel", "config", "expected"),
    [
        ("block_matmul_kernel", "BLOCK_M=128 BLOCK_N=128 BLOCK_K=64 w4 s3", 15.6),
        ("block_matmul_kernel", "BLOCK_M=256 BLOCK_N=128 BLOCK_K=128 TMA=True W_LEFT=True w8 s2", 11.7),
        ("block_grad_kernel", "BLOCK_M=64 BLOCK_N=64 BLOCK_K=64 WIDTH=16 w4 s3", 31.2),
        ("block_grad_kernel", "BLOCK_M=64 BLOCK_N=64 BLOCK_K=64 WIDTH=256 w4 s3", 19.5),
        ("weight_grad_kernel", "BLOCK_M=32 BLOCK_N=64 BLOCK_K=64 WIDTH=256 w8 s4", 19.5),
        ("weight_grad_kernel", "BLOCK_M=32 BLOCK_N=128 BLOCK_K=64 WIDTH=128 w8 s4", 15.6),
        ("weight_grad_kernel", "BLOCK_M=32 BLOCK_N=32 BLOCK_K=32 WIDTH=256 w4 s4", 35.2),
        ("sum_pieces_kernel", "", None),
    ],
)
def test_what_a_step_reads_from_l2(kernel, config, expected):
    found = traffic.bytes_per_kflop(GOOD | {"kernel": kernel, "config": config})
    assert found is None if expected is None else found == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("config", "live", "expected"),
    [
        ("BLOCK_M=64 BLOCK_N=64 BLOCK_K=64 WIDTH=16 w4 s3", 13, 31.2),
        ("BLOCK_M=32 BLOCK_N=64 BLOCK_K=64 WIDTH=256 w8 s4", 13, 20.4),
        ("BLOCK_M=32 BLOCK_N=64 BLOCK_K=64 WIDTH=256 w8 s4", 64, 19.5),
        ("BLOCK_M=32 BLOCK_N=32 BLOCK_K=32 WIDTH=256 w4 s4", 26, 36.1),
    ],
)
def test_what_a_gradient_reads_for_blocks_that_live(config, live, expected):
    row = GOOD | {"kernel": "weight_grad_kernel", "config": config}
    assert traffic.of_live_blocks(row, live) == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("config", "registers", "shared", "wrong"),
    [
        ("BLOCK_M=32 BLOCK_N=64 BLOCK_K=64 WIDTH=256 w8 s4", 128, 81920, False),
        ("BLOCK_M=32 BLOCK_N=64 BLOCK_K=64 WIDTH=256 w8 s4", 129, 81920, True),
        ("BLOCK_M=64 BLOCK_N=64 BLOCK_K=64 WIDTH=256 w8 s3", 128, 122880, True),
        ("BLOCK_M=64 BLOCK_N=64 BLOCK_K=64 WIDTH=16 w8 s3", 255, 122880, False),
    ],
)
def test_two_programs_of_a_masked_gradient_share_a_multiprocessor(config, registers, shared, wrong):
    row = GOOD | {"kernel": "weight_grad_kernel", "config": config, "registers": registers, "shared": shared}
    assert bool(resident.faults(row)) == wrong


def test_budgets_know_edges_and_exact_fp32():
    ragged = GOOD | {"config": "EVEN_K=False " + GOOD["config"]}
    assert 0 < budget.budget(ragged) - budget.budget(GOOD) <= budget.EDGE + 1
    exact = GOOD | {"case": "masked_linear 64x64 fp32", "config": "PRECISION=ieee " + GOOD["config"]}
    assert budget.budget(exact) is None
    assert table.faults(exact | {"budget": None, "tensor_core": 0, "wide_loads": 0}) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"spill": 8}, "8 bytes spilled"),
        ({"spill": 8, "spill_in_loop": 1}, "1 accesses in a loop"),
        ({"serialised": True}, "serialised"),
        ({"shared": 300000}, "shared memory"),
        ({"tensor_core": 0, "loop": 0}, "tensor-core"),
        ({"wide_loads": 0}, "16-byte"),
        ({"asynchronous": 12}, "4 of 16 16-byte loads go through registers"),
        ({"loop": 1 + budget.budget(GOOD)}, f"budget {budget.budget(GOOD)}"),
        ({"error": "the compiler died"}, "died"),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value),
)
def test_census_finds_faults(change, fault):
    row = GOOD | change
    found = table.faults(row | {"budget": budget.budget(row)})
    assert found == [] if fault is None else any(fault in f for f in found)


def test_a_row_says_the_command_and_no_place_of_a_machine():
    given = ["pareto", "--seeds", "2", "--out", "/a b/c.jsonl", "--cache=/d", "--models", "cnn"]
    assert rows.command("bench", given) == "python -m bench pareto --seeds 2 --models cnn"
    assert rows.command("bench", ["ops", "--out=x"]) == "python -m bench ops"


def test_no_committed_row_names_a_place_of_a_machine():
    places = [
        line for path in rows.RESULTS.rglob("*.jsonl") for line in path.open() if re.search(r" --(out|cache)\b", line)
    ]
    assert not places


@pytest.mark.parametrize("given", ["0", "101", "two", "-1", "1.5"])
def test_a_number_that_does_not_fit_is_one_clear_line(given, capsys):
    with pytest.raises(SystemExit):
        main(["pareto", f"--seeds={given}"])
    assert (
        capsys.readouterr().err.splitlines()[-1].endswith(f"--seeds: must be a whole number from 1 to 100, got {given}")
    )
