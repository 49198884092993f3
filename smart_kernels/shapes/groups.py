"""Groups of m consecutive weights, of which n:m keeps n."""


def index_bits(m: int) -> int:
    """Return the bits of an index into a group of m."""
    return (m - 1).bit_length()


def groups_of(size: int, m: int) -> int:
    """Return how many groups a row of ``size`` weights has."""
    return -(-size // m)
