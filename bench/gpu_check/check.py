"""A Check is one thing that must hold; results are held to float64."""

import contextlib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import triton
from torch import Tensor
from triton.runtime.autotuner import Autotuner

from smart_kernels import kernels
from smart_kernels.kernels.common import on_this_device
from smart_kernels.ops.common import forget

from ..case import DTYPES, TOLERANCE
from ..floor import Limits


def tuned_kernels() -> list[Autotuner]:
    """Return every autotuned kernel of the package, found in its modules."""
    found: dict[int, Autotuner] = {}
    for module in pkgutil.walk_packages(kernels.__path__, f"{kernels.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Autotuner):
                found[id(value)] = value
    return list(found.values())


TUNED = tuned_kernels()
INTERPRETED = triton.knobs.runtime.interpret
REPEATS = 3


@dataclass(frozen=True)
class Setting:
    """How one kernel is checked: where, on small shapes or large, in which dtype, with which launch configuration."""

    device: str
    small: bool
    dtype_name: str
    config: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the inputs."""
        return DTYPES[self.dtype_name]

    def __str__(self) -> str:
        return f"{self.dtype_name} config {self.config}"

    def randn(self, *size: int) -> Tensor:
        """Return random numbers of the dtype on the device."""
        return torch.randn(*size, device=self.device, dtype=self.dtype)


@dataclass(frozen=True)
class Context:
    """Where to check. ``small``: shapes for the interpreter and compute-sanitizer; ``dry``: and nothing timed."""

    device: str
    small: bool
    dry: bool
    limits: Mapping[str, Limits] = field(default_factory=dict)  # by the name of a dtype, as far as they are known

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """The dtypes to check; Triton's interpreter computes bfloat16 on bit patterns, silently wrong."""
        return {name: dtype for name, dtype in DTYPES.items() if not (INTERPRETED and name == "bf16")}

    def settings(self, *kernels: str, dtypes: Iterable[str] | None = None) -> list[Setting]:
        """Return every dtype (of these) with every launch configuration that one of the kernels, or any, has."""
        counts = [len(tuned.configs) for tuned in TUNED if not kernels or tuned.base_fn.__name__ in kernels]
        count = 1 if self.device == "cpu" else max(counts)
        names = [name for name in self.dtypes if dtypes is None or name in dtypes]
        return [Setting(self.device, self.small, name, config) for name in names for config in range(count)]


@dataclass(frozen=True)
class Check:
    """``run`` returns what it measured, ``ok`` included; it may raise.

    Attributes:
        kind: when it has its turn, see ``stages``.
        family: checks of a kind take turns by family, so that time that runs out takes from all of them.
        covers: the first check of each value has its turn before the others: one per dtype and configuration, say.
            "" is first of nothing.
    """

    name: str
    run: Callable[[], dict]
    kind: str = "correct"
    family: str = ""
    covers: str = ""


@contextlib.contextmanager
def configuration(index: int) -> Iterator[None]:
    """Launch every tuned kernel with its ``index``-th configuration (its last where it has fewer)."""
    with contextlib.ExitStack() as stack:
        for tuned in TUNED:
            stack.enter_context(forced(tuned, tuned.configs[min(index, len(tuned.configs) - 1)]))
        yield


@contextlib.contextmanager
def forced(kernel: Autotuner, config: triton.Config) -> Iterator[None]:
    """Launch a kernel with one of its configurations; launches that were kept with another one are forgotten."""
    before = kernel.configs
    kernel.configs = [on_this_device(config) if torch.cuda.is_available() else config]
    forget()
    try:
        yield
    finally:
        kernel.configs = before
        forget()


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Let ``torch.empty`` return NaN, so that an output which a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def compare(function: Callable, definition: Callable, inputs: Sequence[Tensor], config: int = 0) -> dict:
    """Hold outputs and all gradients of ``function`` to ``definition`` in float64, and to themselves when repeated."""
    try:
        with poisoned(), configuration(config):
            runs = [outputs(function, inputs) for _ in range(REPEATS)]
    except triton.runtime.errors.OutOfResources as error:
        return {"ok": True, "skipped": str(error)}  # the tuner would drop this configuration here
    exact = outputs(definition, [t.double() if t.is_floating_point() else t for t in inputs])
    errors = [relative_error(got, want) for got, want in zip(runs[0], exact, strict=True)]
    repeatable = all(torch.equal(a, b) for again in runs[1:] for a, b in zip(runs[0], again, strict=True))
    tolerance = TOLERANCE[inputs[0].dtype]
    return {"ok": repeatable and all(e <= tolerance for e in errors), "errors": errors, "repeatable": repeatable}


def outputs(function: Callable, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return y and the gradient of every floating input, for a fixed random dy."""
    leaves = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in inputs]
    y = function(*leaves)
    generator = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, generator=generator).to(y)
    return [y.detach(), *torch.autograd.grad(y, [t for t in leaves if t.requires_grad], dy.to(inputs[0].dtype).to(y))]


def relative_error(got: Tensor, exact: Tensor) -> float:
    """Return ||got - exact|| / ||exact||; NaN where anything is."""
    return ((got.double() - exact).norm() / exact.norm().clamp_min(1e-12)).item()
