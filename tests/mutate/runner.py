"""Running tests on a mutant: those that run its line, in a copy of the repository, in a fork that has torch already."""

import compileall
import contextlib
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .areas import ROOT, Area
from .covered import Covered, read, watched
from .mutants import Mutant

PATIENCE = 1800  # seconds for all tests of an area
SLOWER = 20  # a mutant hangs, which is noticed, where its tests take as many times as long as without it, and a minute
KILLED, SURVIVED = "killed", "survived"


@contextlib.contextmanager
def repository() -> Iterator[Path]:
    """Make a copy of the repository, compiled; a changed file is compiled anew, whatever its time."""
    files = subprocess.run(
        ("git", "ls-files", "-co", "--exclude-standard"), cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.splitlines()
    with tempfile.TemporaryDirectory(prefix="mutants") as folder:
        for file in files:
            if (ROOT / file).is_file():
                (Path(folder) / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, Path(folder) / file)
        compileall.compile_dir(folder, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
        yield Path(folder)


def look(copy: Path, area: Area) -> Covered | None:
    """Run all tests of an area, and return which lines each of them runs; None where they do not pass."""
    notes = copy.parent / f"{copy.name}.json"
    if not passes(copy, area.tests, PATIENCE, lambda run: watched(run, copy, area.paths(), notes)):
        return None
    try:
        return read(notes)
    finally:
        notes.unlink()


def outcome(copy: Path, mutant: Mutant, covered: Covered) -> str:
    """Return whether the tests notice a mutant."""
    path = copy / mutant.file
    whole = path.read_text()
    tests = covered.of(mutant.file, mutant.line, whole)
    if not tests:
        return SURVIVED
    path.write_text(mutant.source)
    try:
        patience = 60 + SLOWER * sum(covered.seconds[test] for test in tests)
        return SURVIVED if passes(copy, tests, patience) else KILLED
    finally:
        path.write_text(whole)


def passes(copy: Path, tests: Sequence[str], patience: float, within: Callable = lambda run: run([])) -> bool:
    """Return whether all of these tests pass in the copy, in time; ``within`` calls what runs them, with plugins."""
    import pytest  # noqa: F401 -- both for the forks, which have them then
    import torch  # noqa: F401

    child = os.fork()
    if child == 0:
        _test(copy, tests, within)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _test(copy: Path, tests: Sequence[str], within: Callable) -> None:
    """Run the tests and end this process."""
    ended = 1
    try:
        os.setpgid(0, 0)
        os.chdir(copy)
        sys.path[:] = [str(copy), *(entry for entry in sys.path if Path(entry).resolve() != ROOT)]
        sys.dont_write_bytecode = True
        for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "smart_kernels", "smart_train")]:
            del sys.modules[name]
        os.dup2(os.open(copy.parent / f"{copy.name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        import pytest

        arguments = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not gpu and not slow", *tests]
        ended = int(within(lambda plugins: pytest.main(arguments, plugins)))
    finally:
        os._exit(ended)
