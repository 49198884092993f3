"""Every launch configuration of every kernel, timed out of a CUDA graph: which one wins, and by how much.

What Triton's own tuning measures is single launches, whose host time exceeds the kernel's for small problems. The rules
that choose configurations are made from the lines written here, ``bench/results/tuning/<device>.jsonl``.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from triton.runtime.autotuner import Autotuner

from smart_kernels.kernels.common import Compiler, on_this_device
from smart_kernels.ops.common import forget

from .. import on_gpu, rows, semi_structured_linear, soft_topk
from ..case import NAMES, Case, shapes
from ..conv2d import GPU_LAYERS, cases_of
from . import speed
from .check import TUNED, Check, Context, forced

SPARSITY = 0.8  # near which blocks are worth it; n:m has its own
THEIRS = ("dense", "torch", "cusparselt", "stk", "mask-then-dense")


def cases(context: Context) -> Iterator[Check]:
    """Yield the operators by shape and block, as they are timed."""
    everything = shapes(context.device, context.small)
    where = context.device, speed.dtype(context)
    found = list(speed.products(context))
    found += [(f"nm {s.name}", partial(semi_structured_linear.cases, *where, (s,))) for s in everything]
    for layer in GPU_LAYERS[:1] if context.small else GPU_LAYERS:
        small = layer.shrunk() if context.small else layer
        found.append((f"conv2d {layer.name}", partial(cases_of, small, 8, *where, ("fwd", "step"))))
    found.append(("soft_topk", partial(soft_topk.cases, *where, everything)))
    for name, make in found:
        yield Check(f"tuning {name}", partial(tune, make, context), "tune", name.partition(" ")[0])


def tune(make: speed.Cases, context: Context) -> dict:
    """Time every configuration of the kernels that our cases launch; a dry run launches none."""
    chosen: dict[tuple[str, str, str], Case] = {}
    for case in make():
        p = case.problem
        if p.pass_ != "bwd" and not case.provider.startswith(THEIRS) and p.sparsity in (SPARSITY, 0.5):
            chosen[case.provider, p.block, p.pass_] = case  # the last: of two sparsities that of blocks
    winners: list[str] = []
    wrong: list[str] = []
    for case in chosen.values():
        try:
            for kernel, args, kwargs in launched(case.run, TUNED):
                compile_all(kernel, args, kwargs)
                line = _line(case, kernel, times(case.run, kernel), context)
                winners.append(f"{line['kernel']}: {line['winner']}")
        except Exception as error:  # what raises must not end its group
            wrong.append(f"{case}: {type(error).__name__}: {error}"[:300])
    return {"ok": not wrong, "cases": len(chosen), "winners": winners, "wrong": wrong}


def launched(run: Callable[[], object], kernels: Sequence[Autotuner]) -> list[tuple[Autotuner, tuple, dict]]:
    """Return the kernels with a choice that a call launches, and with what."""
    seen: dict[int, tuple[Autotuner, tuple, dict]] = {}
    forget()  # launches that are kept pass the tuner by
    with contextlib.ExitStack() as stack:
        for kernel in kernels:
            if len(kernel.configs) > 1:
                stack.enter_context(_noted(kernel, seen))
        run()
    return list(seen.values())


@contextlib.contextmanager
def _noted(kernel: Autotuner, seen: dict) -> Iterator[None]:
    launch = kernel.run

    def noting(*args, **kwargs):
        seen.setdefault(id(kernel), (kernel, args, kwargs))
        return launch(*args, **kwargs)

    kernel.run = noting
    try:
        yield
    finally:
        del kernel.run  # the method shows again


def compile_all(kernel: Autotuner, args: tuple, kwargs: dict) -> None:
    """Compile all configurations of a launch side by side."""
    compiler = Compiler()
    compiler.submit(kernel.fn, args, kwargs, [on_this_device(config) for config in kernel.configs])
    compiler.finish()


def times(
    run: Callable[[], object], kernel: Autotuner, clock: Callable[[Callable], float] | None = None
) -> dict[str, float | None]:
    """Return the milliseconds of a call by the configuration of one of its kernels; None where it cannot run."""
    clock = clock or (lambda run: on_gpu.replayed(run).p50_ms)
    found: dict[str, float | None] = {}
    for config in kernel.configs:
        with forced(kernel, config):
            try:
                found[str(config)] = clock(run)
            except Exception as error:  # too large for the device, or not for this problem
                if "CUDA error" in str(error):
                    raise
                found[str(config)] = None
    return found


def winner(found: dict[str, float | None]) -> tuple[str, float | None]:
    """Return the fastest configuration, and the time of the next one divided by its own; None without a next one."""
    ran = sorted((ms, name) for name, ms in found.items() if ms is not None)
    if not ran:
        return "none", None
    return ran[0][1], round(ran[1][0] / ran[0][0], 4) if len(ran) > 1 else None


def _line(case: Case, kernel: Autotuner, found: dict[str, float | None], context: Context) -> dict:
    """Append one line to the results of tuning, and return it."""
    p = case.problem
    best, margin = winner(found)
    line = {"kernel": kernel.base_fn.__name__, "op": p.op, "provider": case.provider, "shape": p.shape.name}
    line |= {"M": p.shape.M, "N": p.shape.N, "K": p.shape.K, "block": p.block, "sparsity": p.sparsity}
    line |= {"dtype": NAMES[p.dtype], "pass_": p.pass_, "winner": best, "margin": margin, "times_ms": found}
    path = rows.RESULTS / "tuning" / rows.default_path(context.device).name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(line | rows.environment(context.device)) + "\n")
    return line
