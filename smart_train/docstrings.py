"""Texts at hand: what the standard library says of itself."""

import ast
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

TRAIN, TEST = 4000, 300
SHORTEST = 40  # characters
LEFT_OUT = {"site-packages", "test", "tests"}


def texts(train: int = TRAIN, test: int = TEST) -> tuple[list[str], list[str]]:
    """Return first paragraphs of the standard library's docstrings; those for the test come from other files."""
    parts: tuple[list[str], list[str]] = ([], [])
    for file in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if not LEFT_OUT.isdisjoint(file.parts):
            continue
        chosen = parts[zlib.crc32(file.name.encode()) % 5 == 0]
        chosen += [text for text in _docstrings(file) if len(text) > SHORTEST]
    return tuple([*dict.fromkeys(part)][:count] for part, count in zip(parts, (train, test), strict=True))


def _docstrings(file: Path) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_text())
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield " ".join(text.partition("\n\n")[0].split())
