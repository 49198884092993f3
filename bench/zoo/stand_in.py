"""A stand-in for torchvision's compiled operators, which its wheels for CUDA cannot load beside a torch for CPUs.

Classification calls none of them, but without their names torchvision, and with it timm, cannot be imported.
"""

import contextlib

import torch

LIBRARIES: list[torch.library.Library] = []  # they live as long as this list
NAMES = ("nms", "qnms")


def define() -> None:
    """Define the names that torchvision's own code registers something for, unless its operators are there."""
    if LIBRARIES:
        return
    with contextlib.suppress(ImportError, RuntimeError):
        import torchvision  # noqa: F401

        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in NAMES:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARIES.append(library)
