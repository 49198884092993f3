"""The page of the table, as its tests say it."""

from pathlib import Path

from .columns import COLUMNS, TARGETS
from .refused import OWN, REFUSED
from .rows import ROWS, WIDTH

PAGE = Path(__file__).parents[2] / "docs" / "support.md"
HEAD = """# What works with what

Written by `make support` from the outcomes of `tests/support`, which tries every cell; nothing here is written by hand,
and the page is written only if all of them come out so. Columns are tried on a CPU, with a layer of {width} channels,
in float32 where no dtype is named. *backward*: gradients of input and weights equal the dense ones. *compile*: both
in one graph. *export*: with a batch that changes. *ONNX*: run in onnxruntime. *DDP*, *FSDP2*: two processes
train a step. *Hugging Face*: a masked layer is pruned in a Trainer, a sparse one saved and loaded. *GPU*: the kernels
of the layer have been compiled for {nvidia} and {amd} (`python -m bench codegen`), not run: what has run on a GPU
is on the [pages of results](results.md). A number is a note below.
"""


def render(versions: str) -> str:
    """Return the page; ``versions`` is the line that says on what the tests ran."""
    notes = list(dict.fromkeys(each.why for each in REFUSED.values()))
    head = HEAD.format(width=WIDTH, nvidia=", ".join(TARGETS["NVIDIA"]), amd=TARGETS["AMD"][0])
    lines = ["| layer | " + " | ".join(COLUMNS) + " |", "|---|" + ":-:|" * len(COLUMNS)]
    for row in ROWS:
        lines.append(f"| {row} | " + " | ".join(_cell(str(row), column, notes) for column in COLUMNS) + " |")
    numbered = [f"{number}. {why}." for number, why in enumerate(notes, 1)]
    return "\n".join([head, versions, "", *lines, "", *numbered, ""])


def _cell(row: str, column: str, notes: list[str]) -> str:
    refused = REFUSED.get((row, column))
    if refused:
        return f"{'PyTorch' if refused is OWN else 'no'} ({notes.index(refused.why) + 1})"
    return "compiled" if column.endswith("GPU") else "yes"
