"""Running tests on a mutant: those that run its line, in a copy of the repository, in a fork that has imported them.

the command          makes the copy
  inside()           has the tests of an area, and all that they import
    look()           which lines does each of them run?
    outcome()        the functions of a file get the code of the mutant; a survivor's are imported anew
"""

import compileall
import contextlib
import importlib
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from .areas import ROOT, Area
from .covered import Covered, read, statement, watched
from .mutants import Mutant
from .swap import swap

NOTES = ".covered.json"
PATIENCE = 1800  # seconds for all tests of an area
OURS = ("bench", "smart_kernels", "smart_train", "tests")


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


def inside(copy: Path, area: Area, work: Callable[[], bool]) -> bool:
    """Do ``work`` in a fork that has imported the tests of an area; return what it does, False where it cannot."""
    _import_torch()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    ended = 1
    try:
        _forget(copy)
        with _logged(copy):
            collected = _pytest("--collect-only", *area.tests)
        ended = 0 if collected == 0 and work() else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(ended)


def _import_torch() -> None:
    """Import torch, and the parts of it, ten seconds of them, that the settings of every test ask for."""
    import torch

    torch.use_deterministic_algorithms(True)
    torch.use_deterministic_algorithms(False)


def look(copy: Path, area: Area) -> Covered | None:
    """Run all tests of an area, and return which lines each of them runs; None where they do not pass."""
    notes = copy / NOTES
    passed = passes(copy, area.tests, PATIENCE, within=lambda run: watched(run, copy, area.paths(), notes))
    return seen(copy) if passed else None


def seen(copy: Path) -> Covered:
    """Return what ``look`` has found, and import what its tests need of others."""
    found = read(copy / NOTES)
    for name in found.modules:
        if name.split(".")[0] not in OURS:
            with contextlib.suppress(Exception):  # some are none that can be imported
                importlib.import_module(name)
    return found


def notices(copy: Path, mutant: Mutant, covered: Covered) -> bool:
    """Return whether the tests notice a mutant of a function, inside; False where nobody can say without importing."""
    path = copy / mutant.file
    whole = path.read_text()
    if statement(whole, mutant.line) is None:
        return False
    tests = covered.of(mutant.file, mutant.line, whole)
    return bool(tests) and not passes(copy, tests, covered.patience(tests), partial(swap, path, mutant.source))


def notices_anew(copy: Path, mutant: Mutant, covered: Covered) -> bool:
    """Return whether the tests notice a mutant that they import."""
    path = copy / mutant.file
    whole = path.read_text()
    tests = covered.of(mutant.file, mutant.line, whole)
    path.write_text(mutant.source)
    try:
        return bool(tests) and not passes(copy, tests, covered.patience(tests), partial(_forget, copy))
    finally:
        path.write_text(whole)


def passes(
    copy: Path,
    tests: Sequence[str],
    patience: float,
    begin: Callable[[], bool] = lambda: True,
    within: Callable = lambda run: run([]),
) -> bool:
    """Return whether all of these tests pass in the copy, in time.

    Args:
        begin: called before the tests; they pass where it returns False.
        within: calls what runs them, with plugins.
    """
    child = os.fork()
    if child == 0:
        _test(copy, tests, begin, within)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _test(copy: Path, tests: Sequence[str], begin: Callable[[], bool], within: Callable) -> None:
    """Run the tests and end this process."""
    ended = 1
    try:
        os.setpgid(0, 0)
        with _logged(copy):
            ended = int(within(lambda plugins: _pytest("-x", *tests, plugins=plugins))) if begin() else 0
    finally:
        os._exit(ended)


def _pytest(*arguments: str, plugins: Sequence = ()) -> int:
    import pytest

    return pytest.main(["-q", "-p", "no:cacheprovider", "-m", "not gpu and not slow", *arguments], list(plugins))


def _forget(copy: Path) -> bool:
    """Have nothing of the repository imported; from here on it is imported from the copy."""
    os.chdir(copy)
    sys.path[:] = [str(copy), *(entry for entry in sys.path if Path(entry).resolve() not in (ROOT, copy.resolve()))]
    sys.dont_write_bytecode = True
    for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
        del sys.modules[name]
    return True


@contextlib.contextmanager
def _logged(copy: Path) -> Iterator[None]:
    """Write what is printed into a file beside the copy."""
    kept = os.dup(1), os.dup(2)
    log = os.open(copy.parent / f"{copy.name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    try:
        yield
    finally:
        for number, before in enumerate(kept, 1):
            os.dup2(before, number)
