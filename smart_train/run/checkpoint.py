"""Files that are either the old state or the new one, never half of each; and the random states that go into them."""

import os
import random
from pathlib import Path

import numpy as np
import torch

from .archive import check_archive


def save(path: Path, state: dict) -> None:
    """Write ``state`` so that a kill at any moment leaves a whole file behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    with half.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(half, path)
    _names_to_disk(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace a file of text so that a kill at any moment leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    with half.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(half, path)


def _names_to_disk(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; where folders cannot be opened, the system sees to it."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(path: Path, device: str) -> dict:
    """Return what ``save`` wrote; nothing is made of a file that is not whole.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        check_archive(path)
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file makes torch raise nearly anything
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} must be a whole checkpoint; delete it to train anew: {reason}") from error


def seed(value: int) -> None:
    """Seed every generator that ``random_state`` holds."""
    torch.manual_seed(value)
    np.random.seed(value)
    random.seed(value)


def random_state() -> dict:
    """Return the state of every generator a training may draw from: torch, CUDA, numpy, Python."""
    numpy_state = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:]),
        "python": random.getstate(),
    }


def set_random_state(state: dict) -> None:
    """Put every generator where ``random_state`` found it."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([generator.cpu() for generator in state["cuda"]])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
