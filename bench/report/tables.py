"""The page of one operator: its pictures, then every row."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from .. import floor
from ..rows import Row
from . import plots
from .pages import commits, threads_of

HEAD = """Times are medians (p50) in milliseconds; a speed-up is against the fastest dense baseline of the
same shape. *of floor* is the floor divided by the time, where floor = max(FLOPs / measured peak, bytes / measured copy
bandwidth, bytes from L2 / measured rate of L2) with only the live weights counted; *binds* names the largest of the
three. {device} `~` marks a speed-up not to be trusted: p20 and p80 lie more than 20 % of the median apart.
"""
ON_CPU = """On a CPU every provider has run before it is timed, so that it finds its own data in the cache, and *of
floor* can exceed 1, because the cache is faster than the memory that was measured."""
ON_GPU = """*From L2* is what the blocks read of x (each block row for itself) divided by the time. Dense products of
weights that are mostly zeros draw less power than random numbers, run faster than the peak, and exceed 1."""
UNMEASURED = """The rate of L2 was not measured in this run, so its term is left out of these floors: low blocks look
further from their floor than they are. The fastest of them read x at {best:.1f} TB/s; that this is about all that L2
gives is inferred, not measured.
"""
NOISY = 0.2
TIMERS = {
    "graph": "replayed from a CUDA graph",
    "events": "called one by one",
    "rounds": "interleaved rounds",
    "host": "time of the call on the host",
}


def operator(name: str, rows: list[Row]) -> str:
    """Return the page of one operator: its pictures, then its rows."""
    gpu = any(r.timer in ("graph", "events") for r in rows)
    parts = [f"# {rows[0].op} on {rows[0].device}\n", "[All results](../results.md)\n"]
    parts.append(HEAD.format(device=ON_GPU if gpu else ON_CPU))
    from_l2 = [r.l2_bytes / r.p50_ms / 1e9 for r in rows if r.timer == "graph" and not r.l2_gbps]
    parts += [UNMEASURED.format(best=max(from_l2))] if any(from_l2) else []
    shown = [p for p in plots.pictures(rows) if p != plots.GAIN]
    parts += [f"![{rows[0].op}, {picture}](../plots/{name}-{picture}.png)\n" for picture in shown]
    return "\n".join([*parts, *tables(rows)])


def tables(rows: list[Row]) -> Iterator[str]:
    """Yield the tables of one operator: one per pass, dtype, timer and set of versions."""
    found: dict[tuple, list[Row]] = defaultdict(list)
    for r in rows:
        threads = f", {threads_of(r.threads)}" if r.timer == "rounds" else ""
        versions = f"torch {r.torch}, triton {r.triton}, Python {r.python}{threads}"
        found[r.pass_, r.dtype, r.timer, versions, r.command].append(r)
    for (pass_, dtype, timer, versions, command), of_table in sorted(found.items()):
        yield f"## {pass_}, {dtype}, {TIMERS.get(timer, timer)}\n"
        yield f"{of_table[0].device}; {versions}{_load(of_table)}."
        yield f"Commit {commits(of_table)}, {max(r.date for r in of_table)}: {_command(command)}\n"
        yield from table(of_table)
        yield ""


def _load(rows: list[Row]) -> str:
    loads = sorted(r.load for r in rows if r.load is not None)
    return f"; load average {loads[0]} to {loads[-1]}" if loads else ""


def _command(command: str) -> str:
    return f"`{command}`" if command.startswith("python") else f"{command}."


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Yield a Markdown table, sorted by shape, block, sparsity, time; columns that no row fills are left out."""
    rows = sorted(rows, key=lambda r: (r.shape, r.block, r.sparsity, r.p50_ms))
    columns = [(title, [cell(r) for r in rows]) for title, cell in COLUMNS.items()]
    columns = [(title, cells) for title, cells in columns if {*cells} != {"-"}]
    yield f"| {' | '.join(title for title, _ in columns)} |"
    yield "|---" * len(columns) + "|"
    for cells in zip(*(cells for _, cells in columns), strict=True):
        yield f"| {' | '.join(cells)} |"


def _provider(r: Row) -> str:
    return r.provider + (f" ({r.choice})" if r.choice else "")


def _range(r: Row) -> str:
    return "-" if r.p20_ms == r.p80_ms else f"{r.p20_ms:.4g} - {r.p80_ms:.4g}"


def _from_l2(r: Row) -> str:
    return f"{r.l2_bytes / r.p50_ms / 1e9:.2g}" if r.l2_bytes and r.timer == "graph" else "-"


def _speedup(r: Row) -> str:
    noise = " ~" if (r.p80_ms - r.p20_ms) > NOISY * r.p50_ms else ""
    return f"{r.speedup:.2f}{noise}" if r.speedup else "-"


COLUMNS: dict[str, Callable[[Row], str]] = {
    "shape": lambda r: r.shape,
    "M x N x K": lambda r: f"{r.M} x {r.N} x {r.K}",
    "block": lambda r: r.block,
    "zeros": lambda r: f"{r.sparsity:.0%}",
    "provider": _provider,
    "p50 ms": lambda r: f"{r.p50_ms:.4g}",
    "p20 - p80": _range,
    "runs": lambda r: str(r.runs) if r.runs > 1 else "-",
    "TFLOP/s": lambda r: f"{r.tflops:.3g}" if r.flops else "-",
    "GB/s": lambda r: f"{r.gbps:.3g}" if r.bytes else "-",
    "from L2, TB/s": _from_l2,
    "of floor": lambda r: f"{r.of_floor:.2f}" if r.floor_ms else "-",
    "binds": lambda r: floor.binds(r) if r.floor_ms else "-",
    "speed-up": _speedup,
}
