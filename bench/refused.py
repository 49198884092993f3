"""What a method refuses is known before anything is trained."""

from torch import nn

from smart_kernels import parse
from smart_train import PRUNERS
from smart_train.run.recipe import Recipe


def refused(recipe: Recipe) -> str:
    """Return why the method of a recipe does not prune what the recipe has, or nothing."""
    model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 256))
    try:
        PRUNERS[recipe.pruner](model, parse(recipe.pattern), recipe.sparsity, **recipe.pruner_settings)
    except ValueError as error:
        return str(error)
    return ""
