"""Numbers in the text of a pattern."""


def integers(texts: list[str]) -> list[int]:
    """Read whole numbers.

    Raises:
        ValueError: one of them is none.
    """
    for text in texts:
        if not text.removeprefix("-").isdecimal():
            raise ValueError(f"sizes must be whole numbers, got {text!r}")
    return [int(text) for text in texts]
