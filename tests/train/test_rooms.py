"""``smart_train`` is short files and short functions, and asks neither which pattern nor which method it has."""

import ast
from pathlib import Path

import pytest

import smart_train
from smart_train import PRUNERS

FILES = sorted(Path(smart_train.__file__).parent.rglob("*.py"))


def functions(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield node


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_files_and_functions_are_short(file):
    assert len(file.read_text().splitlines()) <= 200
    long = [node.name for node in functions(file) if node.end_lineno - node.lineno >= 25]
    assert not long


def test_nobody_asks_which_method_it_is():
    """Names of methods are literals in the table, as the default and as the baseline only."""
    found = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and node.value in PRUNERS:
                found.append((file.stem, node.value))
    allowed = {("recipe", "smart"), ("cli", "smart"), ("demo", "smart"), ("stages", "oneshot")}
    assert {place for place in found if place[0] != "__init__"} == allowed


def test_nobody_asks_which_pattern_it_is():
    patterns = {"Block", "Channel", "NM", "VNM"}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "type"):
                names = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
                assert not names & patterns, f"{file}:{node.lineno}"
