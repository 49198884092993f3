"""Cutting the channels out of a model that nothing reads."""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn

from smart_kernels.convert.modules import Outputs, whole_or_not_at_all

from .follow import Follower
from .numbers import Number, set_numbers_
from .places import Place
from .resize import resize_, select_
from .ties import STAYS

LEFT = "slim_ left the model as it was"
PASSES = 10  # removing rows may leave columns unread, and so on up the model


class Removed(NamedTuple):
    """The end of a removal.

    Attributes:
        held: places that need their channels in full number, and numbers of modules that have to stay.
        notes: why channels stay, a line each.
    """

    held: frozenset[Place | Number]
    notes: dict[str, None]


class Stopped(Exception):
    """A model that was cut does not run, or is another one; ``culprits`` are what may be held so that it does."""

    def __init__(self, why: str, culprits: Collection[Place | Number]):
        super().__init__(why)
        self.culprits = culprits


def remove_(model: nn.Module, example_input, held: frozenset[Place | Number] = frozenset()) -> Removed:
    """Cut every channel that nothing reads, in place, and set the numbers that modules keep of these.

    Where the model does not run then, the channels that reach the place of the error stay, and it begins anew; where
    that is of no use, or the output is another, the numbers stay, and at last what enters the module of that place,
    which may have taken a size from there.

    Args:
        model: plain.
        example_input: see ``slim_``.
        held: what is known to have to stay, see ``Removed``.

    Raises:
        ValueError: the output shows no tensor, is another at every run, or changed. The model is as it was then, as
            after any other error.
    """
    expected = Outputs(model, example_input)
    if expected.unknown:
        raise ValueError(f"{LEFT}: its output must show a tensor that can be compared, got none: {expected.unknown}")
    while True:
        try:
            with whole_or_not_at_all(model):
                notes, numbers = _cut_all(model, example_input, held)
                if difference := expected.changed(model):
                    raise Stopped(f"the output must agree to rounding, got {difference}", numbers)
            return Removed(held, notes)
        except Stopped as stopped:
            if not stopped.culprits:
                raise ValueError(f"{LEFT}: {stopped}") from stopped.__cause__
            held = held.union(stopped.culprits)


def _cut_all(model: nn.Module, example_input, held: frozenset[Place | Number]) -> tuple[dict, frozenset[Number]]:
    """Follow and cut until there is nothing left to cut; return the notes of all passes, and the numbers they set."""
    notes: dict[str, None] = {}
    numbers: frozenset[Number] = frozenset()
    for _ in range(PASSES):
        found = Follower(model, held)
        try:
            found.run(example_input)
        except Exception as error:  # the user's forward may raise anything
            place = found.trouble
            why = f"with fewer channels it does not run {place}: {error}"
            raise Stopped(why, {place} - held or numbers or {Place(place.module)} - held) from error
        notes |= found.notes
        cut, changed = _cut(model, found, held)
        numbers |= changed
        if not cut:
            break
    return notes, numbers


def _cut(model: nn.Module, found: Follower, held: Collection) -> tuple[bool, frozenset[Number]]:
    """Remove every channel that nothing reads; return whether there were any, and the numbers that changed."""
    axes = {key: {dim: found.ties.roots(n) for dim, n in dims.items()} for key, dims in found.axes.items()}
    live = found.ties.root_set(found.read) | {STAYS}
    for roots in (roots for dims in axes.values() for roots in dims.values()):
        if live.isdisjoint(roots.tolist()):
            live.add(roots[0].item())  # a tensor without channels is no layer
    alive = torch.tensor(sorted(live))
    cut = False
    for key, dims in axes.items():
        for dim, roots in dims.items():
            keep = torch.isin(roots, alive)
            if not keep.all():
                select_(found.tensors[key], dim, keep.nonzero()[:, 0])
                cut = True
    resize_(model)
    sizes = {n: {_count(found, each, alive) for each in cuts} for n, cuts in found.cut.items() if n not in held}
    return cut, set_numbers_(model, sizes)


def _count(found: Follower, channels: Tensor, alive: Tensor) -> int:
    return int(torch.isin(found.ties.roots(channels), alive).sum())
