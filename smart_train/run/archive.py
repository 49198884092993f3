"""Read what a file of ``torch.save`` claims to hold without making any of its tensors.

``torch.load`` believes the sizes in a file: a storage said to be larger than it is gets read beyond its end, and a
flipped bit in a tensor goes unnoticed. Here every record is held against its checksum, every storage against its
record, and every tensor against its storage.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

DESCRIPTION = 2**24  # bytes of the description of all tensors; a state of ten thousand has two million
ITEMSIZES = {
    "DoubleStorage": 8,
    "LongStorage": 8,
    "FloatStorage": 4,
    "IntStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "ShortStorage": 2,
    "ByteStorage": 1,
    "CharStorage": 1,
    "BoolStorage": 1,
}


def check_archive(path: Path) -> None:
    """Read a file once, in pieces.

    Raises:
        ValueError: it is not whole, or says anything that is not so.
        OSError: there is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_records(archive, path.stat().st_size)
            _check_description(archive)
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, NotImplementedError, LookupError) as error:
        raise ValueError(str(error)) from error
    except (EOFError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(f"the description of its tensors is none: {error}") from error


def _check_records(archive: zipfile.ZipFile, size: int) -> None:
    records = archive.infolist()
    names = {record.filename for record in records}
    if len(names) < len(records) or any(".." in name or name.startswith("/") for name in names):
        raise ValueError("each of its records must have one name of its own, within the archive")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError("its records must not be compressed")
    if sum(record.file_size for record in records) > size:
        raise ValueError(f"its records must fit into its {size} bytes")
    if damaged := archive.testzip():
        raise ValueError(f"its record {damaged[:80]!r} is damaged")


def _check_description(archive: zipfile.ZipFile) -> None:
    (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")] or [None]
    if name is None or archive.getinfo(name).file_size > DESCRIPTION:
        raise ValueError(f"it must describe its tensors, in at most {DESCRIPTION} bytes")
    sizes = {record.filename: record.file_size for record in archive.infolist()}
    _Description(archive.read(name), name.removesuffix("data.pkl"), sizes).load()


class _Description(pickle.Unpickler):
    """Goes through a description; what it names is looked up here and never in torch."""

    def __init__(self, content: bytes, folder: str, sizes: dict[str, int]):
        super().__init__(io.BytesIO(content))
        self.folder = folder
        self.sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in for what a checkpoint may name."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _check_tensor
        if module == "torch" and name in ITEMSIZES:
            return name
        raise ValueError(f"it must hold tensors and plain values, got {module[:80]}.{name[:80]}")

    def persistent_load(self, pid: Any) -> int:
        """Return how many numbers a storage has; ValueError where its record has others."""
        _, kind, key, _, count = pid
        if type(count) is not int or self.sizes.get(f"{self.folder}data/{key}") != count * ITEMSIZES[kind]:
            raise ValueError(f"storage {str(key)[:80]} must have the size of its record, got {str(count)[:80]} numbers")
        return count


def _check_tensor(storage: int, offset: int, size: tuple, stride: tuple, *rest: Any) -> None:
    """Raise ValueError unless a tensor lies within its storage and has each number of it once at most."""
    plain = all(type(number) is int and number >= 0 for number in (offset, *size, *stride))
    if not plain or type(storage) is not int or len(size) != len(stride) or math.prod(size) > storage:
        raise ValueError("a tensor must lie within its storage")
    last = sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if math.prod(size) and offset + last >= storage:
        raise ValueError("a tensor must lie within its storage")
