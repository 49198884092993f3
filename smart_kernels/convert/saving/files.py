"""The two files of a saved model: written whole or not at all, never those of somebody else.

    model.safetensors.half, config.json.next     written and on the disk
    model.safetensors.half -> model.safetensors  from here on the new model is there: config.json.next belongs to it
    config.json.next -> config.json

``config.json`` carries length and digest of the tensors it was written with, and these carry its numbers, which nothing
else would contradict. Whatever else lies beside them, a damaged file or half of another save, does not match.
"""

import hashlib
import json
import os
from pathlib import Path

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from .bounded import parse, read_bytes, read_header
from .schema import CONFIG as KEYS

TENSORS = "model.safetensors"
CONFIG = "config.json"
HALF = f"{TENSORS}.half"
NEXT = f"{CONFIG}.next"
MARK = "smart_kernels"  # in the metadata of the tensors: whose they are
NUMBERS = "numbers"
VERSION = 1
GLANCE = 2**26  # bytes of a file that are looked at to see whose it is


def write(path: Path, config: dict, tensors: dict[str, Tensor]) -> None:
    """Replace what ``write`` wrote before, or nothing; a kill at any moment leaves the old model or the new one.

    Raises:
        ValueError: the directory holds a file of such a name that somebody else wrote.
    """
    path.mkdir(parents=True, exist_ok=True)
    _check_ours(path)
    half = path / HALF
    following = path / NEXT
    try:
        save_file(tensors, half, {"format": "pt", MARK: str(VERSION)} | _numbers(config))
        following.write_text(json.dumps(config | {"tensors": _digest(half)}, indent=2) + "\n")
        for written in (half, following):
            _to_disk(written)
        os.replace(half, path / TENSORS)
        os.replace(following, path / CONFIG)
    finally:
        half.unlink(missing_ok=True)
    _to_disk(path)


def read(path: Path, most: int) -> tuple[dict, dict[str, Tensor]]:
    """Return config and tensors as they were written together.

    Args:
        path: the directory.
        most: bytes that the text of each file may have.

    Raises:
        ValueError: a file is missing, damaged, too large or belongs to another save.
    """
    try:
        header = read_header(path / TENSORS, most)
        config = _belonging(path, header, most)
        return config, load_file(path / TENSORS)
    except _Unfit as error:
        raise ValueError(str(error)) from error
    except (OSError, ValueError, RuntimeError, OverflowError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} must hold {CONFIG} and {TENSORS} as save() writes them: {error}") from error


class _Unfit(ValueError):
    """A file that can be read and is not what it must be."""


def _belonging(path: Path, header: dict, most: int) -> dict:
    """Return the config of the tensors: that which is to follow, where a kill has kept it from its place."""
    config = _config(path / CONFIG, most) if (path / CONFIG).exists() or not (path / NEXT).exists() else None
    if config is not None and _matches(path / TENSORS, header, config):
        return config
    if (path / NEXT).exists():
        following = _config(path / NEXT, most)
        if "tensors" in following and _matches(path / TENSORS, header, following):
            return following
    raise _Unfit(f"{path / TENSORS} must be what {CONFIG} was written with, got a damaged one or that of another save")


def _config(path: Path, most: int) -> dict:
    config = parse(read_bytes(path, most))
    version = config.get("version") if isinstance(config, dict) else config
    if type(version) is not int or version != VERSION:
        raise _Unfit(f"{CONFIG} must be of version {VERSION}, got {str(version)[:80]}")
    try:
        KEYS(config, CONFIG)
    except ValueError as error:
        raise _Unfit(str(error)) from error
    return config


def _matches(tensors: Path, header: dict, config: dict) -> bool:
    """Return whether these are the tensors of ``config``; version 0.1.0 wrote no digest, and no mark either."""
    if _metadata(header).get(NUMBERS) != _numbers(config).get(NUMBERS):
        return False
    if "tensors" not in config:
        return MARK not in _metadata(header)
    return config["tensors"]["bytes"] == tensors.stat().st_size and config["tensors"] == _digest(tensors)


def _numbers(config: dict) -> dict[str, str]:
    """Return what the metadata of the tensors say of the numbers that modules keep."""
    return {NUMBERS: json.dumps(config[NUMBERS], sort_keys=True)} if NUMBERS in config else {}


def _digest(path: Path) -> dict:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _metadata(header: dict) -> dict:
    found = header.get("__metadata__")
    return found if isinstance(found, dict) else {}


def _check_ours(path: Path) -> None:
    """Raise ValueError unless each file that will be replaced is one of ours."""
    config = path / CONFIG
    tensors = path / TENSORS
    written = _parsed(config)
    if config.exists() and not _is_config(written):
        raise _foreign(config)
    if tensors.exists() and not (_is_marked(tensors) or (_is_config(written) and "tensors" not in written)):
        raise _foreign(tensors)


def _foreign(path: Path) -> ValueError:
    return ValueError(f"save must not replace a file that it did not write, got {path}: give another directory")


def _parsed(path: Path) -> object:
    try:
        return parse(read_bytes(path, GLANCE))
    except (OSError, ValueError):
        return None


def _is_config(written: object) -> bool:
    return isinstance(written, dict) and KEYS.keys.keys() - KEYS.optional <= written.keys()


def _is_marked(tensors: Path) -> bool:
    try:
        return MARK in _metadata(read_header(tensors, GLANCE))
    except (OSError, ValueError):
        return False


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    if path.is_dir() and os.name == "nt":  # directories cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
