"""Reading what may come from anybody: sizes are looked at before anything is read or parsed."""

import json
import math
from pathlib import Path

HEAD = 2**20  # bytes of JSON that any model may have,
PER_TENSOR = 2**13  # and besides for each tensor of the model it is loaded into
LARGEST = 2**48  # elements of a tensor, its empty dimensions left out; more cannot even be indexed


def most_text(tensors: int) -> int:
    """Return how many bytes of JSON belong to a model of so many tensors at most."""
    return HEAD + PER_TENSOR * tensors


def read_bytes(path: Path, most: int) -> bytes:
    """Return the content of a plain file.

    Raises:
        OSError: there is no such file.
        ValueError: it has more than ``most`` bytes, or is something else than a plain file.
    """
    if not path.is_file() and path.exists():
        raise ValueError(f"{path.name} must be a plain file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path.name} must have at most {most} bytes, got more")
    return content


def parse(text: bytes) -> object:
    """Return the value of a JSON text in UTF-8.

    Raises:
        ValueError: it is none, names a key twice, or is nested too deeply.
    """
    try:
        return json.loads(text.decode(), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("JSON must not be nested so deeply") from None


def _unique(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"JSON must name each key once, got {twice[:80]!r} twice")
    return found


def read_header(path: Path, most: int) -> dict[str, dict]:
    """Return the header of a safetensors file: name -> dtype, shape and offsets; "__metadata__" -> texts.

    Raises:
        OSError: there is no such file.
        ValueError: the header is longer than ``most`` or than the file, no JSON, or has a shape that nothing can have.
    """
    if not path.is_file() and path.exists():
        raise ValueError(f"{path.name} must be a plain file")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, most):
            raise ValueError(f"the header of {path.name} must have at most {min(size, most)} bytes, got {length}")
        header = parse(file.read(length))
    if not isinstance(header, dict):
        raise ValueError(f"the header of {path.name} must be a table, got another")
    for name, entry in header.items():
        if name != "__metadata__":
            _check_entry(name, entry)
    return header


def _check_entry(name: str, entry: object) -> None:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    sizes = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not sizes or len(shape) > 8 or math.prod(max(1, size) for size in shape) > LARGEST:
        raise ValueError(f"the tensor {name[:80]!r} must have a shape, got {str(shape)[:80]}")
