"""Which tests run a line, and how long each of them takes: found once for each area, by the contexts of coverage."""

import ast
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SLOWER = 20  # times as long as without a mutant


@dataclass(frozen=True)
class Covered:
    """Hold what a run of all tests of an area has shown.

    Attributes:
        seconds: how long each test takes, by its pytest id.
        tests: file -> line -> the tests that run it.
        modules: what they have imported, in the order of import.
    """

    seconds: dict[str, float]
    tests: dict[str, dict[int, list[str]]]
    modules: list[str] = field(default_factory=list)

    def of(self, file: str, line: int, source: str) -> list[str]:
        """Return the tests that run the statement at a line, the quickest first; all where the import runs it."""
        lines = statement(source, line)
        found = set(self.seconds)
        if lines is not None:
            by_line = self.tests.get(file, {})
            found = {test for each in lines for test in by_line.get(each, ())} & found
        return sorted(found, key=lambda test: (self.seconds[test], test))

    def patience(self, tests: Sequence[str]) -> float:
        """Return after how many seconds these tests hang, which counts as noticed."""
        return 60 + SLOWER * sum(self.seconds[test] for test in tests)


def statement(source: str, line: int) -> range | None:
    """Return the lines of the statement at a line, of a compound one its head; None where the import runs it."""
    found = None
    nodes: list[tuple[ast.AST, bool]] = [(ast.parse(source), False)]
    while nodes:
        node, called = nodes.pop()
        for child in ast.iter_child_nodes(node):
            inside = called or (isinstance(node, ast.FunctionDef) and child in node.body)
            nodes.append((child, inside))
            if isinstance(child, ast.stmt | ast.ExceptHandler) and child.lineno <= line <= child.end_lineno:
                body = getattr(child, "body", None)
                end = body[0].lineno - 1 if body and body[0].lineno > child.lineno else child.end_lineno
                if line <= end or not body:
                    found = range(child.lineno, end + 1) if inside else None
    return found


def watched(run: Callable[[list], int], copy: Path, files: list[str], notes: Path) -> int:
    """Run tests under coverage, and write what it finds: ``run`` gets the plugins of pytest, and returns its status."""
    import coverage

    cover = coverage.Coverage(data_file=None, include=[str(copy / file) for file in files])
    seconds: dict[str, float] = defaultdict(float)

    class Plugin:
        def pytest_runtest_logstart(self, nodeid):
            cover.switch_context(nodeid)

        def pytest_runtest_logreport(self, report):
            seconds[report.nodeid] += report.duration

    cover.start()
    ended = run([Plugin()])
    cover.stop()
    data = cover.get_data()
    tests = {file: data.contexts_by_lineno(str(copy / file)) for file in files}
    notes.write_text(json.dumps([seconds, tests, list(sys.modules)]))
    return ended


def read(notes: Path) -> Covered:
    """Read what ``watched`` has written."""
    seconds, tests, modules = json.loads(notes.read_text())
    tests = {file: {int(line): ids for line, ids in by.items()} for file, by in tests.items()}
    return Covered(seconds, tests, modules)
