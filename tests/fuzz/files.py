"""Damaged and hostile files: saved models and checkpoints."""

import logging
import re
import tempfile
from functools import cache
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn

from smart_kernels import load
from smart_train.run import checkpoint

from . import damage, originals

TENSORS = "model.safetensors"
CONFIG = "config.json"


def case(rng: Random) -> str:
    """Damage a saved model or a checkpoint at random; what comes of it."""
    if rng.random() < 0.7:
        return _saved_model(rng)
    return _checkpoint(rng)


def prepare() -> None:
    """Read every file whole and run what comes of it: no input pays for what happens once in a process."""
    logging.getLogger("smart_kernels").setLevel(logging.ERROR)  # a warning for each input otherwise
    for original in originals.saved():
        assert _loaded(original, original.files, forged=False) == "harmless"
    assert _resumed(originals.checkpoint(), forged=False) == "harmless"


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz"))


def _saved_model(rng: Random) -> str:
    original = rng.choice(originals.saved())
    return _loaded(original, *damage.saved_model(rng, original, rng.choice(originals.saved())))


def _loaded(original: originals.Saved, files: damage.Files, forged: bool) -> str:
    path = _folder()
    for name in (TENSORS, CONFIG, f"{CONFIG}.next"):
        (path / name).unlink(missing_ok=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    model = original.make()
    before, modules = _copies(model), list(model.modules())
    try:
        load(model, path)
    except ValueError as error:
        _check_refusal(error)
        assert list(model.modules()) == modules, "a refused file has left other modules behind"
        _check_same(model.state_dict(), before)
        return "refused"
    with torch.no_grad():
        try:
            y = model(original.x)
        except (ValueError, RuntimeError) as error:
            assert forged, "a damaged file gave a model that does not run"
            _check_refusal(error)
            return "loaded"
    assert y.shape == original.y.shape, f"outputs of {tuple(y.shape)}"
    if forged:
        return "loaded"
    assert torch.allclose(y, original.y, rtol=1e-4, atol=1e-5), "a damaged file changed the outputs"
    return "harmless"


def _checkpoint(rng: Random) -> str:
    return _resumed(*damage.checkpoint(rng, originals.checkpoint()))


def _resumed(content: bytes, forged: bool) -> str:
    path = _folder() / "state.pt"
    path.write_bytes(content)
    training = originals.training()
    before = training.state_dict()
    copies = {key: tensor.clone() for key, tensor in before["model"].items()}
    try:
        state = checkpoint.load(path, "cpu")
        training.load_state_dict(state)
    except ValueError as error:
        _check_refusal(error)
        _check_same(training.model.state_dict(), copies)
        return "refused"
    if forged:
        return "loaded"
    assert originals.equal(training.state_dict(), originals.state()), "a damaged file changed the state"
    return "harmless"


def _check_refusal(error: Exception) -> None:
    """A refusal that comes from the lack of memory came too late."""
    text = str(error).lower()
    late = "allocat" in text or re.search(r"\bmemory\b", text)
    assert not late and len(text) < 20_000, f"refused too late: {text[:300]}"


def _copies(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def _check_same(state: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    same = state.keys() == before.keys() and all(torch.equal(state[key], before[key]) for key in before)
    assert same, "a refused file has changed the tensors"
