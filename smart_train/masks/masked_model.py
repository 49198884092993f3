"""A model while it is pruned: its masked layers, their budgets, and the masks on them."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.distributed import ProcessGroup

from smart_kernels import Masked, Pattern, mask_, unmask_
from smart_kernels.convert import whole_or_not_at_all
from smart_kernels.nn import start_scores_
from smart_train.plans import Plan

from .carried import CarriedMasks, Masks
from .owners import claim, release
from .planned import PlannedPool
from .pools import Budget, make_pools
from .ranks import Ranks
from .shards import joined
from .sharing import sharing, standardised
from .wrappers import unwrapped


class MaskedModel(CarriedMasks):
    """A model with masked layers, and the budgets that their masks have to hold.

    Masks and scores are named by the first of the layers that share them.

    Args:
        model, pattern, filter_fn, example_input: see ``smart_kernels.mask_``; without a pattern, layers that are
            masked already are taken, with a plan those that it prunes.
        budget: for all of them; without a sparsity where there is a plan.
        process_group: see ``Ranks``; None for that of a ``DistributedDataParallel`` given as model, else all processes.
        check: called with this object before it is done; raises ValueError where it cannot be pruned.

    Attributes:
        ranks: the processes that have to agree on the masks.

    Raises:
        ValueError: there is nothing to prune, the budget cannot be met, or the model is wrapped in a way that keeps the
            processes from agreeing. The model is as it was then.
    """

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern | Plan | None,
        budget: Budget,
        *,
        filter_fn: Callable[[nn.Module, str], bool] | None,
        example_input: Any,
        process_group: ProcessGroup | None,
        check: Callable[["MaskedModel"], None],
    ):
        _check_where(pattern, filter_fn is not None or example_input is not None, budget.sparsity)
        self.model, group = unwrapped(model, process_group)
        self.ranks = Ranks(self.model, group)
        with whole_or_not_at_all(self.model):
            plan = _mask(self.model, pattern, filter_fn, example_input)
            shared = sharing(self.model)
            super().__init__(shared, make_pools(shared, budget, self.ranks, plan))
            check(self)
            self.ranks.check_wrappers(self.scores())
            claim(self.layers, self)
        self.frozen = {name for name, layers in self.sharing.items() if not _learns(layers)}
        self.ranks.hide_scores()

    def scores(self) -> list[nn.Parameter]:
        """Return the scores, each tensor once."""
        return [layer._parameters["scores"] for layer in self.layers.values()]  # __getattr__ is asked in every step

    def make_plain(self) -> None:
        """Bake the masks, which must be hard, into the weights, and let go of the layers; see ``unmask_``."""
        unmask_(self.model)
        self.ranks.show()
        release(self.layers)

    def score_by_magnitude(self) -> None:
        """Set every score to the mean magnitude of its tile, standardised over its layer; with a plan from there."""
        for layers in self.sharing.values():
            with joined(layers.values()):
                start_scores_(list(layers.values()), standardised)
        self.start_scores_()

    def start_scores_(self) -> None:
        """Let fresh scores begin at the densities of the plan, where there is one."""
        for pool in self.pools:
            if isinstance(pool, PlannedPool):
                pool.start_scores_()

    def hard_masks(self, u: float = 1.0) -> Masks:
        """Return the masks that keep the best scores within the budget at progress ``u``, 1 for the final budget."""
        found = {}
        for pool in self.pools:
            found |= pool.hard_masks(None if u >= 1 else pool.keep(u))
        return found

    def train_scores(self, learn: bool) -> None:
        """Let the scores learn, except those of weights that do not, or freeze them."""
        for name, scores in zip(self.layers, self.scores(), strict=True):
            scores.requires_grad_(learn and name not in self.frozen)
            if not learn:
                scores.grad = None  # or an optimizer would go on with the last one

    def state_dict(self) -> dict[str, Any]:
        """Return what the pools are, their thresholds, and the masks."""
        return {"pools": self.signature(), **self.mask_state()}

    def load_state_dict(self, taken: Mapping[str, Any]) -> None:
        """Take up thresholds and masks; layers without a mask are left without any.

        Raises:
            ValueError: the state is of other layers, patterns or budgets.
        """
        if taken["pools"] != self.signature():
            raise ValueError(f"the state must be of the pools {self.signature()}, got {taken['pools']}")
        self.load_mask_state(taken)

    def signature(self) -> list[dict[str, str]]:
        """Return, readable, the layers of each pool with pattern, shape and what it keeps."""
        found = []
        for pool in self.pools:
            layers = pool.layers.items()
            found.append({name: f"{each.pattern} on {tuple(each.shape)}, keep {pool.target}" for name, each in layers})
        return found

    def check_scores(self) -> None:
        """Raise ValueError with the names of the layers whose scores have NaN."""
        for pool in self.pools:
            check_not_nan("scores", pool.scores())


def _mask(model: nn.Module, pattern: Pattern | Plan | None, filter_fn: Any, example_input: Any) -> Plan | None:
    """Mask the model as a pattern or a plan says, and return the plan; None where it is no plan."""
    if isinstance(pattern, Plan):
        pattern.mask_(model)
        return pattern
    if pattern is not None:
        mask_(model, pattern, filter_fn, example_input)
    return None


def _check_where(pattern: Pattern | Plan | None, chosen: bool, sparsity: float | None) -> None:
    if isinstance(pattern, Plan) and (chosen or sparsity is not None):
        raise ValueError("a plan says which layers and how much, so sparsity, filter_fn and example_input must be None")
    if pattern is None and chosen:
        raise ValueError("filter_fn and example_input say where a pattern goes, so pattern must be given, got None")


def _learns(layers: Mapping[str, Masked]) -> bool:
    """Return whether the scores of layers that share them may be trained: they or a weight of theirs are."""
    return any(layer.scores.requires_grad or layer.raw_weight.requires_grad for layer in layers.values())


def check_not_nan(what: str, values: Masks) -> None:
    """Raise ValueError with the names of the layers that have NaN in ``values``."""
    broken = [name for name, value in values.items() if value.isnan().any()]
    if broken:
        raise ValueError(f"{what} must be free of NaN, got NaN in {', '.join(broken)}")
