"""Run a few lines of PTX on one warp or a few."""

import numpy as np

from . import arithmetic, copies, memory, tensor_core  # noqa: F401  (they register the instructions)
from .block import Block
from .program import parse

ENTRY = """
.visible .entry kernel(.param .u64 .ptr .global .align 1 kernel_param_0)
.reqntid {threads}
{{
    .reg .b64 %base;
    ld.param.b64 %base, [kernel_param_0];
    {body}
    ret;
}}
"""


def block(body: str, *, warps: int = 1, memory: np.ndarray | None = None, maps=None, **options) -> Block:  # noqa: F811
    """Ready to run; global memory starts at address 0 and is ``%base``."""
    program = parse(ENTRY.format(threads=32 * warps, body=body))
    memory = np.zeros(4096, np.uint8) if memory is None else memory
    return Block(program, memory, {"kernel_param_0": 0}, maps or {}, **options)


def run(body: str, registers: dict | None = None, **options) -> Block:
    """After the last instruction; ``registers`` are set before the first in every warp."""
    done = block(body, **options)
    for warp in done.warps:
        warp.registers |= registers or {}
    done.run()
    return done


def value(body: str, register: str, type: str, registers: dict | None = None, lane: int = 0):
    """One lane of a register afterwards."""
    return run(body, registers).warps[0].get(register, type)[lane]
