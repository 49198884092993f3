"""The sample of mutants: the same each time, of whole files, none of them in a type."""

import pytest

from tests.mutate import rows
from tests.mutate.areas import AREAS, ROOT
from tests.mutate.covered import Covered, statement
from tests.mutate.equivalent import EQUIVALENT


def test_areas_name_files_and_tests_that_exist():
    for area in AREAS.values():
        assert area.paths() and all((ROOT / path).is_file() for path in area.tests)
    for file, _, _ in EQUIVALENT:
        assert any(file in area.paths() for area in AREAS.values())


def test_a_row_counts_once_and_the_last_one(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "ROWS", tmp_path / "rows.jsonl")
    assert rows.section() == ""
    for now, outcome in (("a", "survived"), ("b", "killed"), ("a", "killed"), ("c", "survived")):
        rows.add({"area": "save", "outcome": outcome, "file": "f.py", "was": "x", "now": now})
    monkeypatch.setitem(EQUIVALENT, ("f.py", "x", "c"), "why")
    assert "| save | 2 | 2 | 1 | 0 |" in rows.section()


SOURCE = """LEAST = 3


def one(x, y=LEAST):
    if (x and
            y):
        return two(x,
                   y)
    for z in x:
        yield z
"""


def test_the_lines_of_a_statement_and_the_tests_that_run_it():
    found = [statement(SOURCE, line) for line in (1, 4, 5, 6, 8, 9, 10)]
    assert found == [None, None, range(5, 7), range(5, 7), range(7, 9), range(9, 10), range(10, 11)]
    covered = Covered({"slow": 2.0, "quick": 1.0, "other": 0.5}, {"f.py": {5: ["slow"], 6: ["slow", "quick"]}})
    tests = [covered.of("f.py", line, SOURCE) for line in (1, 6, 9)]
    assert tests == [["other", "quick", "slow"], ["quick", "slow"], []]


def test_the_sample_is_the_same_each_time():
    pytest.importorskip("cosmic_ray.operators.operator")
    from tests.mutate.mutants import sample

    found = sample(AREAS["budget"], 3, 10)
    assert found == sample(AREAS["budget"], 3, 10) and len(found) == 10
    for mutant in found:
        assert mutant.source != (ROOT / mutant.file).read_text() and mutant.was != mutant.now
        assert not any(f"{sign} None" in mutant.now and "| None" in mutant.was for sign in "+-*/%&^@")
