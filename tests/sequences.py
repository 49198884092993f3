"""Random lives of stored weights: moved, converted, copied, loaded, changed in place, called with whatever comes.

After every step the product must be that of the plain formula, or both must refuse the input. The input lies among NaN,
so that what is read beside it shows.

    python -m tests.sequences --count 10000        writes docs/reliability.md
    python -m tests.sequences --seed 4711 --count 1     one life again
"""

import argparse
import copy
import importlib.util
import pickle
import platform
import random
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from smart_kernels.formats import (
    BSR,
    CSR,
    ELL,
    JIT,
    Compact,
    Conv,
    Dense,
    Format,
    Groups,
    Packed,
    SemiStructured,
    Zeros,
)
from smart_kernels.formats.views import kernel
from tests.fuzz import report
from tests.util import relative_error

PAGE = Path(__file__).parent / "fuzz/lives.md"  # a part of docs/reliability.md
DTYPES = (torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)
LIMITS = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
SHAPES = ((64, 48), (50, 35), (16, 16))
CONVS = (Conv((1, 1)), Conv((1, 1), (2, 2)), Conv((3, 3), (1, 1), (1, 1)), Conv((3, 3), (1, 1), (2, 2), (2, 2)))
STEPS = 6
KINDS = (
    (Dense, {}),
    (Packed, {}),
    (Compact, {}),
    (CSR, {}),
    (BSR, {}),
    (BSR, {"union": 2}),
    (ELL, {"engine": "onednn", "buckets": 2}),
    (ELL, {"engine": "bmm", "buckets": 2}),
    (SemiStructured, {}),
    *(((JIT, {}),) if importlib.util.find_spec("llvmlite") else ()),
)
ERRORS = (ValueError, RuntimeError, IndexError, NotImplementedError)


class Life:
    """One stored weight from its making on; every choice follows from the seed."""

    def __init__(self, seed: int):
        self.pick = random.Random(seed)
        torch.manual_seed(seed)
        self.kind, options = self.pick.choice(KINDS)
        self.shape = self.pick.choice(SHAPES)
        pointwise = options.get("engine") == "bmm"
        self.conv = self.pick.choice((None, *CONVS[: 2 if pointwise else None]))
        self.taps = 1 if self.conv is None else self.conv.kernel[0] * self.conv.kernel[1]
        self.stored = self._store(options)
        if self.conv is not None:
            self.stored.expect(self.conv)
        self.bias = torch.randn(self.shape[0]) if self.pick.random() < 0.7 else None
        self.log = [f"{self.kind.name} {options} {self.shape} {self.conv}"]

    def _store(self, options: dict) -> Format:
        N, K = self.shape
        weight = torch.randn(N, self.taps * K)
        if self.kind is SemiStructured:
            keep = torch.rand(N, self.taps, -(-K // 4), 4).argsort(-1) < 2
            weight = weight * keep.flatten(2)[..., :K].flatten(1)
            return self.kind.from_zeros(Zeros(weight, self.taps, None, Groups(2, 4)), **options)
        live = torch.rand(-(-N // 16), self.taps, -(-K // 16)) < self.pick.choice((0.0, 0.3, 0.6))
        weight *= live.repeat_interleave(16, 0).repeat_interleave(16, 2)[:N, :, :K].flatten(1)
        return self.kind.from_dense(weight, (16, 16), taps=self.taps, **options)

    def step(self) -> None:
        """Do one thing to the weight, and call it."""
        change = self.pick.choice((self.convert, self.copy, self.load, self.write, self.replace, self.away, self.turn))
        self.log.append(change.__name__)
        change()
        self.call()

    def convert(self) -> None:
        dtype = self.pick.choice(DTYPES)
        self.stored = self.stored.to(dtype)
        if self.bias is not None and self.pick.random() < 0.8:
            self.bias = self.bias.to(dtype)
        self.log.append(str(dtype))

    def copy(self) -> None:
        old = self.stored
        self.stored = self.pick.choice((copy.deepcopy, lambda form: pickle.loads(pickle.dumps(form))))(old)
        old.values.data.fill_(float("nan"))

    def load(self) -> None:
        state = {key: t.clone() for key, t in self.stored.state_dict().items()}
        state["values"] = state["values"] * 0.5
        self.stored.load_state_dict(state, assign=self.pick.random() < 0.5)

    def write(self) -> None:
        with torch.no_grad():
            self.stored.values.mul_(self.pick.choice((-1.0, 0.5)))

    def replace(self) -> None:
        self.stored.values.data = self.stored.values.data * 0.5

    def away(self) -> None:
        """To a device without memory and back, as a checkpoint is loaded."""
        state = {key: t.clone() for key, t in self.stored.state_dict().items()}
        self.stored = self.stored.to("meta").to_empty(device="cpu")
        self.stored.load_state_dict(state)

    def turn(self) -> None:
        """Learn or not; and use another geometry of as many taps."""
        self.stored.requires_grad_(self.pick.random() < 0.5)
        if self.conv is not None:
            self.conv = self.pick.choice([conv for conv in CONVS if conv.kernel == self.conv.kernel])

    def call(self) -> None:
        """Compare what comes out, with and without gradients, with the plain formula."""
        x = self.input()
        run = self.stored.linear if self.conv is None else lambda x, bias: self.stored.conv2d(x, bias, self.conv)
        mode = self.pick.choice((torch.no_grad, torch.inference_mode, torch.enable_grad))
        self.log.append(f"{tuple(x.shape)} {x.stride()} {x.dtype} {mode.__name__}")
        with mode():
            got = outcome(lambda: run(x, self.bias))
            dense = outcome(lambda: self.dense(x))
        with torch.enable_grad():
            formula = outcome(lambda: run(x.clone().requires_grad_(), self.bias))
        wrong = [difference(got, want) for want in (formula, dense)]
        if all(wrong):  # of a bias of another dtype, torch takes with gradients what it refuses without, or the reverse
            raise AssertionError(f"{wrong[0]}, {wrong[1]}")

    def dense(self, x: torch.Tensor) -> torch.Tensor:
        """Return the product with the weight as it is."""
        weight = self.stored.to_dense()
        if self.conv is None:
            return F.linear(x, weight, self.bias)
        return F.conv2d(x, kernel(weight, self.conv), self.bias, *self.conv[1:])

    def input(self) -> torch.Tensor:
        """Return an input of some shape, strides and dtype, among NaN."""
        columns = self.pick.choice((self.shape[1],) * 8 + (self.shape[1] - 1, self.shape[1] + 16, 1))
        dtype = self.stored.values.dtype if self.pick.random() < 0.7 else self.pick.choice(DTYPES)
        if self.conv is None:
            shape = (*self.pick.choice(((5,), (1,), (8,), (), (2, 3), (0,), (33,))), columns)
        else:
            shape = (self.pick.choice((1, 2)), columns, self.pick.choice((5, 6)), 7)
        around = torch.full([size + 2 for size in shape], float("nan"), dtype=dtype)
        x = around[tuple(slice(1, -1) for _ in shape)].copy_(torch.randn(shape))
        layout = self.pick.choice(("inside", "inside", "own", "turned", "expanded"))
        if layout == "turned" and x.dim() > 1:
            x = x.transpose(-1, -2).contiguous().transpose(-1, -2)
        if layout == "expanded" and x.dim() > 1 and x.shape[0]:
            x = x[:1].expand(shape)
        if layout == "own":
            x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()
        return x


def difference(got, want) -> str | None:
    """Return how two outcomes differ, or None."""
    if isinstance(got, Exception) or isinstance(want, Exception):
        both = isinstance(got, Exception) and isinstance(want, Exception)
        return None if both else f"{type(got).__name__} instead of {type(want).__name__}"
    if got.shape != want.shape or got.dtype != want.dtype or not got.isfinite().all():
        return f"{tuple(got.shape)} {got.dtype} instead of {tuple(want.shape)} {want.dtype}, or NaN"
    error = relative_error(got, want)
    return f"relative error {error:.1e}" if got.numel() and error > LIMITS[got.dtype] else None


def outcome(call):
    """What comes out: a tensor, or the error."""
    try:
        return call()
    except ERRORS as error:
        return error


def live(seed: int) -> int:
    """Go through one life, and return how many inputs were compared; a failure names the seed and every step."""
    life = Life(seed)
    try:
        life.call()
        for _ in range(STEPS):
            life.step()
    except Exception as error:
        raise AssertionError(f"seed {seed}: {' | '.join(life.log)}: {error}") from error
    return STEPS + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="how many lives")
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin, inputs, failures = time.perf_counter(), 0, []
    for seed in range(options.seed, options.seed + options.count):
        try:
            inputs += live(seed)
        except AssertionError as error:
            failures.append(str(error))
            print(error, flush=True)
    seconds = time.perf_counter() - begin
    line = f"{options.count} lives, {inputs} inputs, {len(failures)} failures, {seconds:.0f} s"
    print(line)
    if options.count >= 1000:
        PAGE.write_text(page(line, options))
        report.write()
    return bool(failures)


def page(line: str, options) -> str:
    kinds = "\n".join(f"- {kind.name}{f' {settings}' if settings else ''}" for kind, settings in KINDS)
    return f"""## Stored weights in random lives

`python -m tests.sequences --count {options.count} --seed {options.seed}`: {line}.
{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}.

A life is {STEPS} steps out of: another dtype, a deep copy or pickle, a state dict (copied or assigned), writing into
the values, other memory, the meta device and back, another geometry, learning or not. After each step one input of
random dtype, shape and strides, with NaN around it, must give what the plain formula gives, or both refuse it. Formats:

{kinds}
"""


if __name__ == "__main__":
    sys.exit(main())
