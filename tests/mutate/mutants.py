"""A seeded sample of the mutants of an area. The mutations are Cosmic Ray's, and one more: a statement is left out."""

import difflib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from random import Random

import parso  # before Cosmic Ray, which cannot import it first

from .areas import ROOT, Area

Place = tuple[str, int, int]  # file, line, column


@dataclass(frozen=True)
class Mutant:
    """A file with one change."""

    file: str
    operator: str
    line: int
    was: str
    now: str
    source: str

    @property
    def key(self) -> tuple[str, str, str]:
        """Return what stays the same when other lines move."""
        return self.file, self.was, self.now


class StatementRemover:
    """Leave out a call whose result nobody takes, or a ``raise``: a check that is not made."""

    def mutation_positions(self, node):
        if node.type == "simple_stmt" and node.children[0].type in ("atom_expr", "raise_stmt"):
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        node.children[0] = parso.parse(f"{node.get_first_leaf().prefix}pass")
        return node


def sample(area: Area, seed: int, count: int) -> list[Mutant]:
    """Return at most ``count`` mutants, each at another place, the same ones whenever the code is the same."""
    rng = Random(seed)
    places = defaultdict(list)
    for file in area.paths():
        for place, mutation in _mutations(file):
            places[place].append(mutation)
    order = sorted(places)
    rng.shuffle(order)
    found: dict[tuple, Mutant] = {}
    for place in order:
        mutant = _mutant(place, *rng.choice(places[place]))
        if mutant is not None:
            found.setdefault(mutant.key, mutant)
        if len(found) == count:
            break
    return list(found.values())


def those(rows: Iterable[dict]) -> list[Mutant]:
    """Return the mutants of rows, wherever in its file the code is now; none where it is gone."""
    found = []
    for row in rows:
        lines = (ROOT / row["file"]).read_text().splitlines()
        same = (
            _mutant(place, name, occurrence)
            for place, (name, occurrence) in _mutations(row["file"])
            if name == row["operator"] and lines[place[1] - 1].strip() in row["was"]
        )
        key = row["file"], row["was"], row["now"]
        found += [mutant for mutant in same if mutant is not None and mutant.key == key][:1]
    return found


@cache
def _operators() -> dict[str, object]:
    """Return the operators that need no arguments, by name."""
    from cosmic_ray.plugins import get_operator, operator_names

    kinds = {name: get_operator(name) for name in operator_names()}
    found = {name.removeprefix("core/"): kind() for name, kind in kinds.items() if not kind.arguments()}
    return found | {"StatementRemover": StatementRemover()}


def _mutations(file: str):
    """Yield (place, (operator, occurrence)) of all mutations of a file that change what it does."""
    from cosmic_ray.ast import ast_nodes, get_ast

    tree = get_ast((ROOT / file).read_text())
    for name, operator in _operators().items():
        places = ((node, start) for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node))
        for occurrence, (node, (line, column)) in enumerate(places):
            if not _annotates(node):
                yield (file, line, column), (name, occurrence)


def _annotates(node) -> bool:
    """Return whether a node is part of a type: in ``x: int | None`` and ``-> int | None``."""
    while node.parent is not None:
        before = node.get_previous_sibling()
        if (node.parent.type in ("annassign", "tfpdef") and before == ":") or before == "->":
            return True
        node = node.parent
    return False


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:  # the star of ``f(*, a)`` is no product
        return False
    return True


def _mutant(place: Place, operator: str, occurrence: int) -> Mutant | None:
    from cosmic_ray.mutating import mutate_code

    file, line, _ = place
    source = (ROOT / file).read_text()
    try:
        changed = mutate_code(source, _operators()[operator], occurrence)
    except AttributeError:  # Cosmic Ray can only replace exceptions whose names have no dot
        return None
    if changed is None or changed == source or not _compiles(changed):
        return None
    lines = list(difflib.ndiff(source.splitlines(), changed.splitlines()))
    was, now = (" ".join(each[2:].strip() for each in lines if each.startswith(sign)) for sign in "-+")
    return Mutant(file, operator, line, was, now, changed)
