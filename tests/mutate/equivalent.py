"""Mutants that do the same as the code: (file, what was there, what is there) -> why nothing can notice."""

SOLVER = "smart_kernels/reference/topk/soft_topk.py"

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        SOLVER,
        "low = scores.masked_fill(down, torch.inf).amin(-1)",
        "low = scores.masked_fill(down, torch.inf).amin(1)",
    ): "scores are (G, n): the last dim is dim 1",
}
