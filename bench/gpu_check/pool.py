"""Checks in processes: several at a time, each compiling into the cache that all share, and none that ends the others.

A process that dies, or whose GPU context is broken, is replaced; one that is not done in time is ended.
"""

import contextlib
import gc
import math
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait

import torch

from .check import Context
from .listing import execute, listed
from .stages import Task

GRACE = 5.0  # seconds that a check may go on after the end of its turn
BROKEN = ("CUDA error", "AcceleratorError", "device-side assert")  # after which a process can do nothing more


class Process:
    """A process that runs checks which it gets by their names, and the check that it has now."""

    def __init__(self):
        spawn = multiprocessing.get_context("spawn")
        self.connection, other = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(other,))
        self.process.start()
        other.close()  # so that reading ends when the process does
        self.task: Task | None = None

    def give(self, task: Task, context: Context) -> None:
        """Let it run a check."""
        self.task = task
        with contextlib.suppress(OSError):  # it died while it was idle, which ``take`` finds out
            self.connection.send((task.part, task.check.name, context))

    def take(self) -> tuple[Task, dict, bool]:
        """Return the check, what came out, and whether the process can go on."""
        task = self.task
        self.task = None
        try:
            outcome = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return task, {"ok": False, "exception": f"its process died with {self.process.exitcode}"}, False
        return task, outcome, not any(word in str(outcome) for word in BROKEN)

    def end(self) -> None:
        """End the process, whatever it does, and what it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.connection.close()


class Pool:
    """Processes that start at once, so that they import side by side, and stay until the end."""

    def __init__(self, count: int):
        self.count = count
        self.idle = [Process() for _ in range(count)]

    def outcomes(
        self, tasks: Iterable[Task], context: Context, count: int, deadline: float
    ) -> Iterator[tuple[Task, dict]]:
        """Yield each check that was done before the deadline (of ``time.monotonic``), and what came out.

        At most ``count`` checks run at a time.
        """
        waiting = deque(tasks)
        busy: list[Process] = []
        try:
            while (waiting and time.monotonic() < deadline) or busy:
                while waiting and len(busy) < count and time.monotonic() < deadline:
                    busy.append(self.idle.pop() if self.idle else Process())
                    busy[-1].give(waiting.popleft(), context)
                for process in _ready(busy, deadline):
                    busy.remove(process)
                    task, outcome, alive = process.take()
                    self.idle.append(process) if alive else process.end()
                    yield task, outcome
                if time.monotonic() > deadline + GRACE:
                    return
        finally:
            for process in busy:
                process.end()

    def end(self) -> None:
        """End all processes."""
        while self.idle:
            self.idle.pop().end()


def _ready(busy: list[Process], deadline: float) -> list[Process]:
    """Return the processes with an outcome, waited for until the deadline and a little longer."""
    left = max(0.0, deadline + GRACE - time.monotonic())
    ready = wait([process.connection for process in busy], None if math.isinf(left) else left)
    return [process for process in busy if process.connection in ready]


def in_this_process(tasks: Iterable[Task], deadline: float) -> Iterator[tuple[Task, dict]]:
    """Yield the same, one after the other."""
    for task in tasks:
        if time.monotonic() > deadline:
            return
        yield task, execute(task.check)


def _serve(connection: Connection) -> None:
    os.setsid()  # a group of its own, which ``end`` ends with it
    torch.set_num_threads(1)
    while True:
        try:
            part, name, context = connection.recv()
        except EOFError:
            return
        check = next(check for check in listed(part, context) if check.name == name)
        connection.send(execute(check))
        del check
        if context.device == "cuda":
            gc.collect()
            torch.cuda.empty_cache()  # the memory is for all processes
