"""The sample of mutants: the same each time, of whole files, none of them in a type."""

import pytest

from tests.mutate import rows
from tests.mutate.areas import AREAS, ROOT
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


def test_the_sample_is_the_same_each_time():
    pytest.importorskip("cosmic_ray.operators.operator")
    from tests.mutate.mutants import sample

    found = sample(AREAS["budget"], 3, 10)
    assert found == sample(AREAS["budget"], 3, 10) and len(found) == 10
    for mutant in found:
        assert mutant.source != (ROOT / mutant.file).read_text() and mutant.was != mutant.now
        assert not any(f"{sign} None" in mutant.now and "| None" in mutant.was for sign in "+-*/%&^@")
