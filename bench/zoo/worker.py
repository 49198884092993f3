"""A process for other people's code, which may take forever or end without a word."""

from collections.abc import Callable
from multiprocessing import TimeoutError as Late
from multiprocessing import get_context


class Worker:
    """One process, used for call after call, and replaced by another after one that gave no answer.

    Args:
        seconds: how long a call may take.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._pool = get_context("spawn").Pool(1)

    def __call__(self, function: Callable, *args):
        """Return what the function returns.

        Raises:
            TimeoutError: no answer in time.
        """
        try:
            return self._pool.apply_async(function, args).get(self.seconds)
        except Late:
            self.close()
            self._pool = get_context("spawn").Pool(1)
            raise TimeoutError(f"no answer within {self.seconds} s") from None

    def close(self) -> None:
        """End the process."""
        self._pool.terminate()
        self._pool.join()
