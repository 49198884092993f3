"""The families of timm and torchvision, and how many parameters their members have."""

import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from .stand_in import define

LARGEST = 30_000_000  # parameters; a larger model is left out
LARGE = re.compile("large|huge|giant|gigantic|enormous|base|so[0-9]+m|[0-9]b_|xxl|_xl|_l2")  # hardly the smallest


class Family(NamedTuple):
    """A module of a library that builds models.

    Attributes:
        library: "timm" or "torchvision".
        name: of the module.
    """

    library: str
    name: str

    def __str__(self) -> str:
        return f"{self.library} {self.name}"


def families() -> list[Family]:
    """Return all families.

    Raises:
        ImportError: a library is not installed.
    """
    define()
    import timm
    from torchvision import models

    builders = {_module(models.get_model_builder(name)) for name in models.list_models(module=models)}
    return [Family("timm", name) for name in timm.list_modules()] + [Family("torchvision", n) for n in sorted(builders)]


def smallest(family: Family) -> tuple[str, int, str]:
    """Return the smallest member, its number of parameters, and why it is not known, or an empty text."""
    names = members(family)
    sizes: dict[str, int] = {}
    error = "no members"
    for name in [name for name in names if not LARGE.search(name)] or names:
        try:
            sizes[name] = count(family, name)
        except Exception as failed:  # a builder may raise anything
            error = f"{name} is not built: {type(failed).__name__}: {failed}"
    if not sizes:
        return "", 0, error
    name = min(sizes, key=sizes.__getitem__)
    return name, sizes[name], ""


def members(family: Family) -> list[str]:
    """Return the names of the models of a family."""
    define()
    if family.library == "timm":
        import timm

        return timm.list_models(module=family.name)
    from torchvision import models

    names = models.list_models(module=models)
    return [name for name in names if _module(models.get_model_builder(name)) == family.name]


def build(family: Family, name: str) -> nn.Module:
    """Build a model with random weights."""
    define()
    if family.library == "timm":
        import timm

        return timm.create_model(name, pretrained=False)
    from torchvision import models

    return models.get_model(name, weights=None)


def count(family: Family, name: str) -> int:
    """Return the number of parameters of a model, without memory for them where it can be built so."""
    try:
        with torch.device("meta"):
            model = build(family, name)
    except Exception:  # some builders look at values
        model = build(family, name)
    return sum(parameter.numel() for parameter in model.parameters())


def _module(builder: Callable) -> str:
    return builder.__module__.rpartition(".")[2]
