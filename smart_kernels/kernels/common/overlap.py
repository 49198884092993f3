"""Programmatic dependent launch (sm_90 and later): a launch is set up while the one before it ends."""

import triton
import triton.language as tl
from triton.language.extra import cuda


@triton.jit
def after_launch_before(OVERLAPPED: tl.constexpr):
    """Wait until the launch before has ended and what it wrote is seen; then the next one may be set up.

    To be called before anything is read or written, in a kernel that is launched with ``launch_pdl=OVERLAPPED``.
    """
    if OVERLAPPED:
        cuda.gdc_wait()
        cuda.gdc_launch_dependents()
