"""``docs/reliability.md``, from the rows of runs that were asked to leave one."""

import json
import platform
import subprocess
from collections import Counter
from pathlib import Path

import torch

from tests.mutate import rows as mutants

from .runner import Outcome

HERE = Path(__file__).parent
ROWS = HERE / "rows.jsonl"
PAGE = HERE.parents[1] / "docs" / "reliability.md"
MEANING = {
    "files": "saved models and checkpoints, damaged or hostile: refused, or harmless; the model as it was",
    "formats": "sequences of changes to a stored weight, each followed by products: those of the plain formula",
    "kill": "`kill -9` of a pruning run at a random moment: what is resumed equals, bit for bit, what nobody killed",
}
HEAD = """# Reliability

What was tried with random inputs. Of each kind the runs of the last commit count, other seeds are added up. Written by
`python -m tests.fuzz report`, from `tests/fuzz/rows.jsonl`; `--record` adds a row. `make test` runs 500 files, 200
sequences of formats and 3 kills.

| what | inputs | failures | outcomes | command | where |
|---|---|---|---|---|---|
"""


def record(what: str, count: int, seed: int, found: Outcome) -> None:
    """Add the row of a run."""
    row = {
        "what": what,
        "count": count,
        "seed": seed,
        "failures": len(found.failures),
        "outcomes": dict(sorted(found.words.items())),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "commit": commit(),
    }
    with ROWS.open("a") as file:
        print(json.dumps(row), file=file)


def write() -> None:
    """Write the page."""
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    kinds = (_of_the_last_commit([row for row in rows if row["what"] == what]) for what in MEANING)
    PAGE.write_text(HEAD + "".join(map(_line, filter(None, kinds))) + _meanings() + mutants.section())


def commit() -> str:
    """Return the commit, with a mark where the code differs from it."""
    head = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", "smart_kernels", "smart_train", "tests/fuzz/*.py")
    return f"{head} and changes" if changed else head


def _git(*arguments: str) -> str:
    return subprocess.run(("git", *arguments), cwd=HERE, stdout=subprocess.PIPE, text=True).stdout.strip()


def _of_the_last_commit(rows: list[dict]) -> list[dict]:
    """Return the rows of one kind that are of the commit of the last one, the last of each seed."""
    return list({row["seed"]: row for row in rows if row["commit"] == rows[-1]["commit"]}.values())


def _line(rows: list[dict]) -> str:
    row, words = rows[-1], Counter()
    for each in rows:
        words.update(each["outcomes"])
    count, failures = (sum(each[key] for each in rows) for key in ("count", "failures"))
    outcomes = ", ".join(f"{count:,} {word}" for word, count in sorted(words.items()))
    command = "<br>".join(f"`python -m tests.fuzz {r['what']} --count {r['count']} --seed {r['seed']}`" for r in rows)
    where = f"torch {row['torch']}, Python {row['python']}, {row['machine']}, {row['commit']}"
    cells = row["what"], f"{count:,}", f"{failures}", outcomes, command, where
    return f"| {' | '.join(cells)} |\n"


def _meanings() -> str:
    return "\n" + "".join(f"- *{what}*: {meaning}.\n" for what, meaning in MEANING.items())
