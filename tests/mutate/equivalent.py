"""Mutants that do the same as the code: (file, what was there, what is there) -> why nothing can notice."""

SOLVER = "smart_kernels/reference/topk/soft_topk.py"
BUDGET = "smart_kernels/patterns/budget.py"

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        SOLVER,
        "low = scores.masked_fill(down, torch.inf).amin(-1)",
        "low = scores.masked_fill(down, torch.inf).amin(1)",
    ): "scores are (G, n): the last dim is dim 1",
    (
        BUDGET,
        "return math.floor((1 - Fraction(sparsity).limit_denominator(10**9)) * weights)",
        "return math.floor((1 - Fraction(sparsity).limit_denominator( 11**9)) * weights)",
    ): "a number with nine digits behind the point, or a fraction that a person writes, is the nearest for both",
}
