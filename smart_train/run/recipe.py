"""Every setting of a run in one JSON-able place."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from smart_kernels import parse
from smart_train.planning import parse_target
from smart_train.pruners import PRUNERS

OPTIMIZERS = ("sgd", "adamw")

PER_MODEL = {  # by what a name has before "-"; a user's own choice overrides it
    "cnn": {"optimizer": "sgd", "lr": 0.1, "lr_pruned": 0.02, "lr_scores": 0.3, "weight_decay": 5e-4},
    "convnet": {"optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4},
    "mobilenet": {"optimizer": "sgd", "lr": 0.1, "lr_pruned": 0.05, "weight_decay": 5e-4},
    "vit": {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05},
    "mobilenet_v2": {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-4, "batch": 32, "distill": True},
}
ANY = "any"  # pattern: whatever suits a target
OTHERS = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01, "lr_scores": 0.1}  # models that are not ours
TINY = {"pattern": "block:16x16", "sparsity": 0.75}  # they have no 32x32 blocks to spare
N_OF_M = {"lr_scores": 0.03}  # with 0.1 it lost more accuracy: decision 0030


@dataclass(frozen=True)
class Recipe:
    """Train dense, search for the mask with a pruner, finetune what is left.

    Args:
        model, data, data_dir, image_size, split: see ``models.build`` and ``data.load``.
        pruner: the method, by its name in ``PRUNERS``.
        options: further arguments of that method, those that it names in its ``options``.
        target: what to plan for, as ``planning.parse_target`` reads it: pattern and sparsity of each layer follow.
        pattern: as ``smart_kernels.patterns.parse`` reads it; with a target the only one to plan with, or "any".
        sparsity: fraction of the prunable weights to remove; patterns that imply it (N:M) take no other. None with a
            target.
        scope: ``global``, one budget over all layers, or ``layer``, the same sparsity in each.
        dense_steps, search_steps, finetune_steps: optimizer steps of each stage. The learning rate falls to zero
            over the dense stage, is constant during the search and falls to zero over finetuning.
        optimizer, lr, weight_decay, batch: for the weights.
        lr_pruned: learning rate of the weights after the dense stage; None for ``lr``.
        lr_scores: Adam's learning rate for the scores; they have no weight decay.
        temperature: (first, last) of the search with SMART.
        warmup: fraction of that search over which the budget shrinks from everything to the target.
        distill: after the dense stage, learn the probabilities that the dense model gives instead of the labels.
        teacher: learn the probabilities of this model instead, named as ``model`` is; it has to know the classes.
        amp: bfloat16 where autocast allows it; None: on a GPU.
        seed: of the initial weights and of the order of the data.

    Raises:
        ValueError: for a setting out of its range.
    """

    model: str = "cnn"
    data: str = "digits"
    data_dir: str | None = None
    image_size: int = 32
    split: str | None = None
    pattern: str = "block:32x32"
    sparsity: float | None = 0.9
    scope: str = "global"
    dense_steps: int = 300
    search_steps: int = 150
    finetune_steps: int = 150
    optimizer: str = "sgd"
    lr: float = 0.1
    lr_pruned: float | None = None
    weight_decay: float = 5e-4
    batch: int = 64
    lr_scores: float = 0.1
    temperature: tuple[float, float] = (0.2, 1e-3)
    warmup: float = 0.5
    distill: bool = False
    teacher: str | None = None
    amp: bool | None = None
    seed: int = 0
    pruner: str = "smart"
    options: dict[str, Any] = field(default_factory=dict)
    target: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "temperature", tuple(self.temperature))  # JSON knows lists only
        if self.target is None:
            self._check_sparsity()
        else:
            self._check_target()
        self._check(self.pruner in PRUNERS, "pruner", "one of " + ", ".join(PRUNERS))
        known = self.own_options(self.pruner)
        self._check(set(self.options) <= set(known), "options", f"among {', '.join(known) or 'none'} of {self.pruner}")
        self._check(self.scope in ("global", "layer"), "scope", "global or layer")
        self._check(self.optimizer in OPTIMIZERS, "optimizer", " or ".join(OPTIMIZERS))
        for name in ("batch", "search_steps", "finetune_steps", "image_size"):
            self._check(getattr(self, name) >= 1, name, "at least 1")
        for name in ("dense_steps", "weight_decay", "seed"):
            self._check(getattr(self, name) >= 0, name, "at least 0")
        for name in ("lr", "lr_scores"):
            self._check(getattr(self, name) > 0, name, "above 0")
        self._check(self.lr_pruned is None or self.lr_pruned > 0, "lr_pruned", "above 0")
        self._check(0 <= self.warmup < 1, "warmup", "at least 0 and below 1")
        first, last = self.temperature
        self._check(first >= last > 0, "temperature", "two falling values above 0")

    def _check_target(self) -> None:
        parse_target(self.target)
        if self.pattern != ANY:
            parse(self.pattern)
        self._check(self.sparsity is None, "sparsity", f"None with {self.target}, which says how much")

    def _check_sparsity(self) -> None:
        implied = parse(self.pattern).sparsity
        if implied is not None:
            self._check(self.sparsity == implied, "sparsity", f"{implied} for {self.pattern}")
            return
        hint = f"; for {self.sparsity:g} % write {self.sparsity / 100:g}" if 1 < self.sparsity < 100 else ""
        self._check(0 < self.sparsity < 1, "sparsity", "between 0 and 1" + hint)

    def _check(self, holds: bool, name: str, wanted: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)}")

    @property
    def pruned_steps(self) -> int:
        """Steps after the dense stage; the one-shot baseline gets as many."""
        return self.search_steps + self.finetune_steps

    @property
    def pruner_settings(self) -> dict[str, Any]:
        """Keyword arguments for the pruner, beside model, pattern and sparsity."""
        own = {name: getattr(self, name) for name in PRUNERS[self.pruner].options if hasattr(self, name)}
        return {"scope": self.scope, "search_steps": self.search_steps, **own, **self.options}

    @classmethod
    def own_options(cls, pruner: str) -> list[str]:
        """Return the arguments of a method that go into ``options``, having no place of their own in a recipe."""
        return [name for name in PRUNERS[pruner].options if name not in cls.__dataclass_fields__]

    @classmethod
    def for_model(cls, model: str, **settings) -> "Recipe":
        """Return a recipe with the defaults that suit ``model`` and pattern; None keeps a default."""
        given = {name: value for name, value in settings.items() if value is not None}
        suited = OTHERS if ":" in model else PER_MODEL.get(model.partition("-")[0], {})
        suited = suited | (TINY if model.endswith("-tiny") else {})
        if "target" in given:
            implied = {"pattern": ANY, "sparsity": None}
        else:
            sparsity = parse(given.get("pattern", suited.get("pattern", cls.pattern))).sparsity
            implied = {} if sparsity is None else {"sparsity": sparsity, **N_OF_M}
        return cls(**{"model": model, **suited, **implied, **given})

    @property
    def wanted(self) -> str:
        """Return in a few words what the model is to become."""
        if self.target is None:
            return f"{self.pattern}, sparsity {self.sparsity}"
        return str(parse_target(self.target)) + ("" if self.pattern == ANY else f", {self.pattern}")

    def to_dict(self) -> dict:
        """Return every setting, as JSON can hold them."""
        return asdict(self)

    def differences(self, other: "Recipe") -> list[str]:
        """Return ``name: ours, theirs`` for every setting in which the two differ."""
        pairs = [(field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return [f"{name}: {ours}, {theirs}" for name, ours, theirs in pairs if ours != theirs]
