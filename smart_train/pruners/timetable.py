"""Numbers that change from step to step, read on the device: a CUDA graph goes on through them by itself."""

import torch
from torch import Tensor

from smart_kernels.nn import capturing


class Timetable:
    """A row of numbers for each step, and on the device the place of the next.

    Args:
        rows: (steps, n) float64.
    """

    def __init__(self, rows: Tensor):
        self.rows = rows
        self.place = torch.zeros(1, dtype=torch.int64)
        self.next: int | None = 0  # where ``place`` is; None where a graph moves it

    def read(self, step: int, device: torch.device) -> Tensor:
        """Return the (n,) numbers of a step, and move on; nothing but the first step of a row of them is written.

        Raises:
            ValueError: a graph is captured whose first step does not follow the last one.
        """
        if self.rows.device != device:
            self.rows, self.place = self.rows.to(device), self.place.to(device)
        captured = capturing()
        if step != self.next:
            if captured:
                raise ValueError(f"a step must be taken before one is captured, got a capture of step {step} at once")
            self.place.fill_(step)
        self.next = None if captured else step + 1
        row = self.rows.index_select(0, self.place)[0]
        self.place.add_(1)
        return row
