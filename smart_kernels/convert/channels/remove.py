"""Cutting the channels out of a model that nothing reads."""

from typing import NamedTuple

import torch
from torch import nn

from smart_kernels.convert.modules import Outputs, whole_or_not_at_all

from .follow import Follower
from .places import Place
from .resize import resize_, select_
from .ties import STAYS

LEFT = "slim_ left the model as it was"
PASSES = 10  # removing rows may leave columns unread, and so on up the model


class Removed(NamedTuple):
    """The end of a removal.

    Attributes:
        held: places that need their channels in full number.
        notes: why channels stay, a line each.
    """

    held: frozenset[Place]
    notes: dict[str, None]


class Stopped(Exception):
    """The forward of a model that was cut ended with an error, at a place."""

    def __init__(self, place: Place):
        self.place = place


def remove_(model: nn.Module, example_input, held: frozenset[Place] = frozenset()) -> Removed:
    """Cut every channel that nothing reads, in place.

    Where the model does not run then, the channels that reach the place of the error stay, and it begins anew. Where
    that is not enough, those that enter the module stay, too: it may have taken a size from there.

    Args:
        model: plain.
        example_input: see ``slim_``.
        held: places that are known to need their channels in full number.

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
                notes = _cut_all(model, example_input, held)
                if difference := expected.changed(model):
                    raise ValueError(f"{LEFT}: the output must agree to rounding, got {difference}")
            return Removed(held, notes)
        except Stopped as stopped:
            more = {stopped.place, Place(stopped.place.module)} if stopped.place in held else {stopped.place}
            if more <= held:
                why = f"with fewer channels it does not run {stopped.place}: {stopped.__cause__}"
                raise ValueError(f"{LEFT}: {why}") from stopped.__cause__
            held |= more


def _cut_all(model: nn.Module, example_input, held: frozenset[Place]) -> dict[str, None]:
    """Follow and cut until there is nothing left to cut; return the notes of all passes."""
    notes: dict[str, None] = {}
    for _ in range(PASSES):
        found = Follower(model, held)
        try:
            found.run(example_input)
        except Exception as error:  # the user's forward may raise anything
            raise Stopped(found.trouble) from error
        notes |= found.notes
        if not _cut(model, found):
            break
    return notes


def _cut(model: nn.Module, found: Follower) -> bool:
    """Remove every channel that nothing reads; return whether there were any."""
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
    return cut
