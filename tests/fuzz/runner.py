"""Running numbered inputs in a process of their own, so that a crash has a number, too."""

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE = 120  # seconds after which an input hangs
MEMORY = 2**30  # bytes that inputs may add to the address space of the process
GROWTH = 2**18  # kilobytes that they may add to what it has had in memory

Case = Callable[[random.Random], str]  # a random input; returns a word for what became of it, raises where it must not


@dataclass
class Outcome:
    """Count how the inputs of a run ended.

    Attributes:
        words: how many inputs ended in which way.
        failures: a line for each input that failed, with the command that repeats it.
    """

    words: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def generator(seed: int, number: int) -> random.Random:
    """Return the random numbers of one input."""
    return random.Random(f"{seed}:{number}")


def run(case: Case, what: str, seed: int, numbers: range, note: Callable[[int], None] = lambda number: None) -> Outcome:
    """Try inputs in this process."""
    found = Outcome()
    for number in numbers:
        note(number)
        try:
            with _patience():
                word = case(generator(seed, number))
        except Exception as error:
            found.failures.append(_line(what, seed, number, f"{type(error).__name__}: {error}"))
            word = "failed"
        found.words[word] += 1
    return found


def run_apart(what: str, seed: int, first: int, count: int) -> Outcome:
    """Try inputs in other processes: one, and a new one after each crash."""
    found = Outcome()
    done, end = first, first + count
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder) / "at"
        while done < end:
            at.unlink(missing_ok=True)
            arguments = [what, "--seed", seed, "--first", done, "--count", end - done, "--inside", at]
            command = [sys.executable, "-m", "tests.fuzz", *map(str, arguments)]
            process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            _gather(found, process.stdout)
            if process.returncode in (0, 1):
                return found
            number = int(at.read_text()) if at.exists() else done
            found.failures.append(_line(what, seed, number, f"the process ended with {process.returncode}"))
            found.words["crashed"] += 1
            done = number + 1
    return found


def run_inside(case: Case, what: str, seed: int, numbers: range, at: Path) -> int:
    """Try inputs with a bound on memory and print what ``run_apart`` gathers."""
    if bounded := what == "files":  # compilers take what they need
        _bound_memory()
    before = None
    found = Outcome()
    for start in range(numbers.start, numbers.stop, 100):  # what is done is told, should the next one crash
        part = run(case, what, seed, range(start, min(start + 100, numbers.stop)), lambda n: _note(at, n))
        print(*[f"word {word} {count}" for word, count in part.words.items()], *part.failures, sep="\n", flush=True)
        found.failures += part.failures
        if before is None:  # with all that torch imports at first use; the bound on addresses holds from the start
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if bounded and growth > GROWTH:
        print(f"FAILED {what}: {growth} kB more in memory, at most {GROWTH} are allowed", flush=True)
    return int(bool(found.failures) or (bounded and growth > GROWTH))


def _note(at: Path, number: int) -> None:
    at.write_text(str(number))


def _gather(found: Outcome, text: str) -> None:
    for line in text.splitlines():
        if line.startswith("word "):
            _, word, count = line.split()
            found.words[word] += int(count)
        elif line.startswith("FAILED"):
            found.failures.append(line)


def _line(what: str, seed: int, number: int, problem: str) -> str:
    flat = " ".join(problem.split())[:600]
    return f"FAILED python -m tests.fuzz {what} --seed {seed} --first {number} --count 1  # {flat}"


def _bound_memory() -> None:
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


@contextlib.contextmanager
def _patience():
    def ring(*_):
        raise TimeoutError(f"no end after {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
