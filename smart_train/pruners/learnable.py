"""Steps of a pruner that somebody calls with gradients off: what they make has to learn all the same."""

from collections.abc import Callable
from functools import wraps

import torch


def learnable(method: Callable[..., None]) -> Callable[..., None]:
    """Turn gradients on in a method, and ``inference_mode`` off, whatever is around its call."""

    @wraps(method)
    def run(self) -> None:
        if torch.is_grad_enabled():
            return method(self)
        with torch.inference_mode(False):  # which turns gradients on, too
            return method(self)

    return run
