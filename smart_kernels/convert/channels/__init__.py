"""Channels across layers: which live and die together, and removing the dead ones."""

from .couple import Group
from .norms import settle_norms_, watch_norms_
from .numbers import fit_numbers_, noted_numbers
from .rehearse import rehearsed
from .resize import fit_, noted
from .slim import Slimmed, slim_

__all__ = [
    "Group",
    "Slimmed",
    "fit_",
    "fit_numbers_",
    "noted",
    "noted_numbers",
    "rehearsed",
    "settle_norms_",
    "slim_",
    "watch_norms_",
]
