"""A sample of the random lives of ``tests/sequences.py``."""

import pytest

from smart_kernels.formats import ELL
from tests.conftest import INTERPRETED
from tests.sequences import live

if INTERPRETED:
    pytest.skip("the formats of the CPU", allow_module_level=True)


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_random_lives_of_stored_weights(first):
    assert sum(live(seed) for seed in range(first, first + 50)) == 350


def test_a_fast_path_on_trust_would_be_found(monkeypatch):
    """It goes on using what it has built before, and asks for nothing."""
    monkeypatch.setattr(
        ELL, "fast", lambda self, x, bias, dim=-1: x.shape[dim] == self.shape[1] // (1 if dim == -1 else self.taps)
    )
    with pytest.raises(AssertionError, match="seed "):
        for seed in range(300):
            live(seed)
