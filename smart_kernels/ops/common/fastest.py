"""Which of several ways to compute the same is the fastest here: measured once, kept in Triton's cache."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping

from triton.compiler.compiler import make_backend
from triton.runtime import driver
from triton.runtime.cache import get_cache_manager, triton_key

from smart_kernels.kernels.common.side_by_side import HERE
from smart_kernels.kernels.common.tuner import TUNING, time_launches

from .capture import capturing
from .plan import forget

QUANTILES = (0.5, 0.2, 0.8)
FILE = "fastest.json"
WANTED: list[str] = []  # see ``only_way``
_found: dict[str, str] = {}  # key -> name of the way


@contextlib.contextmanager
def only_way(name: str) -> Iterator[None]:
    """Let every product that has a way of this name take it."""
    forget()
    WANTED.append(name)
    try:
        yield
    finally:
        WANTED.remove(name)
        forget()


class Fastest:
    """Ways to launch the same product, of which a call takes the fastest.

    The first call with this key on this kind of GPU makes all of them, which tunes each, and times them side by side as
    a tuner times its configurations. While kernels are only compiled all are, and nothing is decided.

    Args:
        ways: by name; each takes the tensors of a call, the result among them. The first is right everywhere.
        key: what the choice depends on, the source of the kernels included.
    """

    def __init__(self, ways: Mapping[str, Callable[..., None]], key: tuple):
        self.ways = ways
        self.key = key
        self.best: Callable[..., None] | None = None

    def __call__(self, *tensors) -> None:
        best = self.best or self._choose(tensors)
        best(*tensors)

    def _choose(self, tensors: tuple) -> Callable[..., None]:
        first = next(iter(self.ways.values()))
        if HERE.compiler is not None:
            for way in self.ways.values():
                way(*tensors)
            return first
        if WANTED and WANTED[-1] in self.ways:
            self.best = self.ways[WANTED[-1]]
            return self.best
        key = _hashed(self.key)
        name = _found.get(key) or _stored(key)
        if name not in self.ways:
            if capturing():
                return first  # a graph cannot hold what times them
            name = self._measured(tensors)
            get_cache_manager(key).put(json.dumps({"key": str(self.key), "fastest": name}), FILE, binary=False)
        _found[key] = name
        self.best = self.ways[name]
        return self.best

    def _measured(self, tensors: tuple) -> str:
        """Return the name of the fastest; of equals the first."""
        with TUNING:
            for way in self.ways.values():
                way(*tensors)
            calls = {name: functools.partial(way, *tensors) for name, way in self.ways.items()}
            times = {name: time_launches(call, QUANTILES)[0] for name, call in calls.items()}
        return min(times, key=times.__getitem__)


def _hashed(key: tuple) -> str:
    parts = triton_key(), make_backend(driver.active.get_current_target()).hash(), *map(str, key)
    return hashlib.sha256("-".join(parts).encode()).hexdigest()


def _stored(key: str) -> str | None:
    path = get_cache_manager(key).get_file(FILE)
    if path is None:
        return None
    try:
        with open(path) as file:
            return json.load(file)["fastest"]
    except (OSError, ValueError, KeyError, TypeError):  # cut off or of another version: measured again and replaced
        return None
