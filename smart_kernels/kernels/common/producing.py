"""What kernels of producers and consumers share: which tile comes next, and which stage of the ring."""

from .gluon import gl, gluon


@gluon.jit
def tile_at(number, rows_n, tiles_m):
    """Return row of W's tiles and tile of M: eight of M side by side share the blocks of W in L2."""
    group = number // (8 * rows_n)
    height = gl.minimum(tiles_m - group * 8, 8)
    within = number - group * (8 * rows_n)
    return within // height, group * 8 + within % height


@gluon.jit
def next_stage(s, phase, STAGES: gl.constexpr):
    """Return the stage after ``s``, and its phase, which changes where the ring begins anew."""
    s += 1
    if s == STAGES:
        s = 0
        phase ^= 1
    return s, phase
