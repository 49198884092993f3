"""The sample of mutants: the same each time, of whole files, none of them in a type."""

import importlib
import sys

import pytest

from tests.mutate import rows
from tests.mutate.areas import AREAS, ROOT
from tests.mutate.covered import Covered, statement
from tests.mutate.equivalent import EQUIVALENT
from tests.mutate.swap import swap


def test_areas_name_files_and_tests_that_exist():
    for area in AREAS.values():
        assert area.paths() and all((ROOT / test.partition("::")[0]).is_file() for test in area.tests)
    for file, _, _ in EQUIVALENT:
        assert any(file in area.paths() for area in AREAS.values())


def test_a_row_counts_once_and_the_last_one(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "ROWS", tmp_path / "rows.jsonl")
    assert rows.section() == ""
    for now, outcome in (("a", "survived"), ("b", "killed"), ("a", "killed"), ("c", "survived")):
        rows.add({"area": "save", "outcome": outcome, "file": "f.py", "was": "x", "now": now})
    monkeypatch.setitem(EQUIVALENT, ("f.py", "x", "c"), "why")
    assert "| save | 2 | 2 | 1 | 0 |" in rows.section() and not rows.survivors("save")
    rows.add({"area": "save", "outcome": "survived", "file": "f.py", "was": "x", "now": "d"})
    assert [row["now"] for row in rows.survivors("save")] == ["d"] and not rows.survivors("budget")


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


LOADED = """
import functools

def scaled(by):
    return lambda x: by * x

@functools.cache
def one():
    return 1

class Point:
    size = one()

    def norm(self):
        return [x + 2 for x in (0, one())]

twice, thrice = scaled(2), scaled(3)
add, sub = lambda x, y: x + y, lambda x, y: x - y
"""


@pytest.mark.parametrize(
    "was, now, expected",
    [
        ("by * x", "by + x", [7, 8, 1, [2, 3], 6, 4]),
        ("return 1", "return 9", [10, 15, 1, [2, 3], 6, 4]),  # what it has returned while it was imported is kept
        ("x + 2", "x * 2", [10, 15, 1, [0, 2], 6, 4]),
        ("x - y", "y - x", [10, 15, 1, [2, 3], 6, -4]),
        ("return [x + 2 for x in (0, one())]", "return 8", [10, 15, 1, 8, 6, 4]),
        ("return lambda x: by * x", "pass\n    return None", None),
        ("by * x", "x", None),
    ],
)
def test_functions_that_are_loaded_get_the_code_of_another_version(was, now, expected, tmp_path, monkeypatch):
    path = tmp_path / "loaded_for_a_test.py"
    path.write_text(LOADED)
    monkeypatch.syspath_prepend(tmp_path)
    loaded = importlib.import_module(path.stem)
    del sys.modules[path.stem]
    assert swap(path, LOADED.replace(was, now)) == (expected is not None)
    if expected:
        point = loaded.Point()
        found = [loaded.twice(5), loaded.thrice(5), point.size, point.norm(), loaded.add(5, 1), loaded.sub(5, 1)]
        assert found == expected


def test_the_sample_is_the_same_each_time():
    pytest.importorskip("cosmic_ray.operators.operator")
    from tests.mutate.mutants import sample, those

    found = sample(AREAS["budget"], 3, 10)
    assert found == sample(AREAS["budget"], 3, 10) and len(found) == 10
    for mutant in found:
        assert mutant.source != (ROOT / mutant.file).read_text() and mutant.was != mutant.now
        assert not any(f"{sign} None" in mutant.now and "| None" in mutant.was for sign in "+-*/%&^@")
    moved = [vars(mutant) | {"line": 1} for mutant in found[:3]]
    assert those([*moved, vars(found[0]) | {"was": "gone"}]) == found[:3]
