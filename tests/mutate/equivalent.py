"""Mutants that do the same as the code: (file, what was there, what is there) -> why nothing can notice."""

SOLVER = "smart_kernels/reference/topk/soft_topk.py"
BUDGET = "smart_kernels/patterns/budget.py"
TIES = "smart_kernels/convert/channels/ties.py"
TILES = "smart_train/masks/tiles.py"
RANKS = "smart_train/masks/ranks.py"
FITS = "smart_train/run/fits.py"
ALIKE = "smart_kernels/convert/compress/alike.py"
SETTINGS = "smart_kernels/convert/compress/settings.py"

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        SOLVER,
        "low = scores.masked_fill(down, torch.inf).amin(-1)",
        "low = scores.masked_fill(down, torch.inf).amin(1)",
    ): "scores are (G, n): the last dim is dim 1",
    (
        SOLVER,
        "rows = zip(*(_rows(each, sizes) for each in (dmask, mask, cost)), _each(dthreshold, sizes), strict=True)",
        "rows = zip(*(_rows(each, sizes) for each in (dmask, mask, cost)), _each(dthreshold, sizes), strict=False)",
    ): "all four are cut by the same sizes, and what does not fit them cannot be cut",
    (
        BUDGET,
        "return math.floor((1 - Fraction(sparsity).limit_denominator(10**9)) * weights)",
        "return math.floor((1 - Fraction(sparsity).limit_denominator( 11**9)) * weights)",
    ): "a number with nine digits behind the point, or a fraction that a person writes, is the nearest for both",
    (SOLVER, "up = scores == torch.inf", "up = scores >= torch.inf"): "nothing is above infinity",
    (
        FITS,
        'for saved, like, optimizer in zip(state["optimizers"], own["optimizers"], optimizers, strict=True):',
        'for saved, like, optimizer in zip(state["optimizers"], own["optimizers"], optimizers, strict=False):',
    ): "the line above has refused another number of them, and own is made of optimizers",
    (
        ALIKE,
        "return all(abs(a - b) <= LENGTHS for a, b in zip(self.lengths, other.lengths, strict=True))",
        "return all(abs(a - b) <= LENGTHS for a, b in zip(self.lengths, other.lengths, strict=False))",
    ): "every likeness has a length for each quartile and one for the columns",
    (
        SETTINGS,
        "seconds: float = 0.5",
        "seconds: float = 1.5",
    ): "who measures says how long: compress_ and the latency table",
    (RANKS, " @staticmethod", ""): "autograd calls forward and backward of the class, not of an object of it",
    (TIES, "self._count = 1", "self._count = 2"): "a number that no channel has is tied to none",
    (
        TIES,
        "numbers = numbers.narrow(dim, 0, 1)",
        "numbers = numbers.narrow(dim, 1, 1)",
    ): "the line above has found all numbers along dim equal",
    (
        TIES,
        "self._parent = np.concatenate([self._parent, np.arange(len(self._parent), 2 * self._count)])",
        "self._parent = np.concatenate([self._parent, np.arange(len(self._parent), 3 * self._count)])",
    ): "how far room is made ahead changes how often",
    (TILES, "  @torch.no_grad()", ""): "what patterns say of importances has no gradient, so neither has its mean",
}
