"""Whether a model returns what it returned before, for the same input and the same random numbers."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .agree import agrees
from .graph import call, evaluating
from .outputs import tensors_in


class Outputs:
    """Keep a model's outputs for an example, to be held against its later ones.

    Args:
        model: run twice in eval mode, without gradients, every random number drawn from the same seed.
        example_input: tensor, tuple of positional or dict of keyword arguments.

    Attributes:
        example_input: a copy, into which nobody has written.
        tensors: copies of what was returned.
        unknown: why nothing can be compared, or None.
    """

    def __init__(self, model: nn.Module, example_input):
        self.example_input = _copied(example_input)
        self.tensors = _run(model, self.example_input)
        self.unknown = None if self.tensors else "the output holds no tensor"
        if difference := _difference(_run(model, self.example_input), self.tensors):
            self.unknown = f"the output changes from run to run: {difference}"

    def changed(self, model: nn.Module) -> str | None:
        """Return how the output of the model differs now by more than rounding, or None."""
        return None if self.unknown else _difference(_run(model, self.example_input), self.tensors)

    def check(self, model: nn.Module, verb: str) -> None:
        """Raise ``ValueError`` if the output differs; ``verb`` is what changes the model."""
        if difference := self.changed(model):
            raise ValueError(f"{verb} must not change the output, so the model stays as it was: {difference}")


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Seed torch and ``random``; afterwards their states are as before."""
    state = random.getstate()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(0)
        random.seed(0)
        try:
            yield
        finally:
            random.setstate(state)


@torch.no_grad()
def _run(model: nn.Module, example_input) -> list[Tensor]:
    with evaluating(model), same_random_numbers():
        return [part.detach().clone() for y in tensors_in(call(model, _copied(example_input))) for part in _dense(y)]


def _dense(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor.unbind() if tensor.is_nested else (tensor,)


def _copied(example_input):
    """Copy the tensors of an input, into which a model may write; what was one tensor stays one."""
    copies: dict[int, Tensor] = {}

    def copied(value):
        if not isinstance(value, Tensor):
            return value
        if id(value) not in copies:
            copies[id(value)] = value.detach().clone()
        return copies[id(value)]

    return tree_map(copied, example_input)


def _difference(got: list[Tensor], exact: list[Tensor]) -> str | None:
    if len(got) != len(exact):
        return f"{len(exact)} tensors were returned, and now {len(got)}"
    for pair in zip(got, exact, strict=True):
        one, other = (torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in pair)
        if one.shape != other.shape or one.dtype != other.dtype:
            return f"{other.dtype} {tuple(other.shape)} became {one.dtype} {tuple(one.shape)}"
        alike = ((one == other) | (one.isnan() & other.isnan())) & ~other.isfinite()  # the -inf of a mask is no error
        one, other = one.masked_fill(alike, 0), other.masked_fill(alike, 0)
        if not agrees(one, other):
            return f"a relative difference of {(one.double() - other.double()).norm() / other.double().norm():.1e}"
    return None
