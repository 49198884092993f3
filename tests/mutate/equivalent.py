"""Mutants that do the same as the code: (file, what was there, what is there) -> why nothing can notice."""

EQUIVALENT: dict[tuple[str, str, str], str] = {}
