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

PATIENCE = 120  # seconds of processor time after which an input hangs; ten times as long, where it waits
GROWTH = 2**27  # bytes that an input may add to the address space of the process
MEMORY = 2**30  # and all of them together
ALONE = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}  # what threads reserve at first use has no place in that

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


def run(
    case: Case, what: str, seed: int, numbers: range, begin: Callable[[int], None] = lambda number: None
) -> Outcome:
    """Try inputs in this process; ``begin`` is called with the number of each first."""
    found = Outcome()
    for number in numbers:
        begin(number)
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
            process = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=_environment(what, seed))
            _gather(found, process.stdout)
            if process.returncode in (0, 1):
                return found
            number = int(at.read_text()) if at.exists() else done
            found.failures.append(_line(what, seed, number, f"the process ended with {process.returncode}"))
            found.words["crashed"] += 1
            done = number + 1
    return found


def _environment(what: str, seed: int) -> dict[str, str]:
    """Return the environment in which a seed repeats: sets have an order, too."""
    return os.environ | {"PYTHONHASHSEED": str(seed)} | (ALONE if what == "files" else {})


def run_inside(case: Case, what: str, seed: int, numbers: range, at: Path) -> int:
    """Try inputs, those of files with a bound on memory, and print what ``run_apart`` gathers."""
    begin = [lambda number: at.write_text(str(number))]
    if what == "files":  # compilers take what they need
        begin.append(bound_memory(_addresses() + MEMORY))
    failed = False
    for start in range(numbers.start, numbers.stop, 100):  # what is done is told, should the next one crash
        part = run(case, what, seed, range(start, min(start + 100, numbers.stop)), lambda n: [do(n) for do in begin])
        print(*[f"word {word} {count}" for word, count in part.words.items()], *part.failures, sep="\n", flush=True)
        failed = failed or bool(part.failures)
    return int(failed)


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


def bound_memory(most: int) -> Callable[[int], None]:
    """Return what lets the next input add ``GROWTH`` bytes of addresses to those of this process, up to ``most``.

    Addresses are counted exactly and refused at once, where the input asks for them; memory in use is an estimate.
    """

    def bound(number: int) -> None:
        if sys.platform == "linux":
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            resource.setrlimit(resource.RLIMIT_AS, (min(_addresses() + GROWTH, most), hard))

    return bound


def _addresses() -> int:
    pages = Path("/proc/self/statm").read_text().split()[0] if sys.platform == "linux" else 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def _patience():
    def ring(*_):
        raise TimeoutError(f"no end after {PATIENCE} s")

    timers = {signal.ITIMER_PROF: PATIENCE, signal.ITIMER_REAL: 10 * PATIENCE}  # other people's work may slow it down
    before = [signal.signal(number, ring) for number in (signal.SIGPROF, signal.SIGALRM)]
    for timer, seconds in timers.items():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)
