"""Channels across layers: which live and die together, and removing the dead ones."""

from .couple import Group
from .rehearse import rehearsed
from .resize import fit_, noted
from .slim import Slimmed, slim_

__all__ = ["Group", "Slimmed", "fit_", "noted", "rehearsed", "slim_"]
