"""A sample of what ``python -m tests.fuzz`` tries by the thousand. ``docs/reliability.md`` has the numbers."""

import resource
import sys
from random import Random

import pytest

from tests.fuzz import report
from tests.fuzz.__main__ import main
from tests.fuzz.runner import GROWTH, Outcome, bound_memory, run, run_apart


@pytest.mark.parametrize("what, count", [("files", 500), ("formats", 200)])
def test_sample(what, count):
    found = run_apart(what, 0, 0, count)
    assert not found.failures, "\n".join(found.failures)
    assert sum(found.words.values()) == count


@pytest.mark.skipif(sys.platform == "win32", reason="kills and forks")
def test_killed_runs_go_on():
    found = run_apart("kill", 0, 0, 3)
    assert not found.failures and found.words == {"equal": 3}, "\n".join(found.failures)


def test_every_failure_has_a_command():
    def case(rng: Random) -> str:
        raise KeyError("lost")

    found = run(case, "files", 7, range(3, 5))
    lines = [f"FAILED python -m tests.fuzz files --seed 7 --first {number} --count 1" for number in (3, 4)]
    assert [line.split("  #")[0] for line in found.failures] == lines and found.words == {"failed": 2}


@pytest.mark.skipif(sys.platform != "linux", reason="addresses have a bound there")
def test_what_takes_memory_has_a_number():
    at, bound = [], bound_memory(2**60)

    def begin(number: int) -> None:
        at.append(number)
        bound(number)

    def case(rng: Random) -> str:
        return str(len(bytes({3: 2**10, 4: 2 * GROWTH, 5: GROWTH // 2}[at[-1]])))

    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        found = run(case, "files", 7, range(3, 6), begin)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert found.words == {"1024": 1, "failed": 1, str(GROWTH // 2): 1}
    assert "--first 4 --count 1  # MemoryError" in found.failures[0]


def test_the_page_comes_from_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "ROWS", tmp_path / "rows.jsonl")
    monkeypatch.setattr(report, "PAGE", tmp_path / "reliability.md")
    for count in (3, 1000):
        report.record("files", count, 5, Outcome({"refused": count - 1, "failed": 1}, ["one"]))
    assert main(["report"]) == 0
    (line,) = [line for line in (tmp_path / "reliability.md").read_text().splitlines() if line.startswith("| files")]
    assert "| 1,000 | 1 | 1 failed, 999 refused | `python -m tests.fuzz files --count 1000 --seed 5`" in line


def test_the_committed_page_is_that_of_the_committed_rows(tmp_path, monkeypatch):
    page = report.PAGE.read_text()
    monkeypatch.setattr(report, "PAGE", tmp_path / "reliability.md")
    report.write()
    assert (tmp_path / "reliability.md").read_text() == page
