"""Ways to damage files and to forge them. A forged file has the right digests; all it can do is to be another model."""

import copy
import hashlib
import io
import json
import pickle
import zipfile
from collections import OrderedDict
from random import Random

import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors

from .originals import Saved, state

TENSORS = "model.safetensors"
CONFIG = "config.json"
Files = dict[str, bytes]


def saved_model(rng: Random, original: Saved, other: Saved) -> tuple[Files, bool]:
    """Return the files of a saved model with something wrong, and whether they are forged."""
    files = dict(original.files)
    way = rng.choice((_raw, _raw, _mixed, _config, _config, _config, _header, _tensors, _tensors, _text))
    return way(rng, files, other)


def checkpoint(rng: Random, original: bytes) -> tuple[bytes, bool]:
    """Return a checkpoint with something wrong, and whether it is forged."""
    way = rng.randrange(4)
    if way == 0:
        return spoilt(rng, original), False
    if way == 1:
        return _described(rng, original), True
    return _stated(rng), True


def spoilt(rng: Random, content: bytes) -> bytes:
    """Return bytes that are cut, flipped, overwritten, repeated, moved or longer."""
    data = bytearray(content)
    place, length = rng.randrange(len(data)), rng.choice((1, 2, 8, 64, 512))
    match rng.randrange(7):
        case 0:
            del data[place:]
        case 1:
            for _ in range(rng.choice((1, 1, 2, 8))):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 2:
            data[place : place + length] = rng.randbytes(length)
        case 3:
            data[place : place + length] = bytes(length)
        case 4:
            del data[place : place + length]
        case 5:
            data[place:place] = data[:length]
        case 6:
            data += rng.randbytes(length)
    return bytes(data)


def _raw(rng: Random, files: Files, other: Saved) -> tuple[Files, bool]:
    name = rng.choice((TENSORS, CONFIG))
    if rng.random() < 0.05:
        del files[name]
    elif rng.random() < 0.05:
        files[name] = rng.choice((b"", b"\0" * 8, b"\xff" * 64, b"[" * 20_000, b"{}", b"null", b" " * 2_000_000))
    else:
        files[name] = spoilt(rng, files[name])
    return files, False


def _mixed(rng: Random, files: Files, other: Saved) -> tuple[Files, bool]:
    """Half of this save and half of another, one of which may wait for its place."""
    name = rng.choice((TENSORS, CONFIG, f"{CONFIG}.next"))
    files[name] = other.files[name.removesuffix(".next")]
    return files, False


NUMBERS = (None, True, -1, 0, 1, 3, 8, 2**20, 2**31, 2**63, 2**64, 0.5, 1e308, float("nan"))
TEXTS = ("", "dense", "bsr", "nm", "jit", "0", "0.weight", "../../etc/passwd", "/", "__class__", "x" * 5000)
HOSTILE = (*NUMBERS, *TEXTS, [], [1], [0, 0], [2**40] * 3, {}, {"a": {}})
SHAPES = ((0,), (), (1, 1), (0, 2**20, 2**20), (1, 1, 70_000), (2**16, 1, 1))
STRANGE = ((b"FloatStorage", b"DoubleStorage"), (b"LongStorage", b"ByteStorage"), (b"OrderedDict", b"bytearray__"))


def _places(value, path=()):
    """Yield the path of every value in nested lists and tables."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in items:
        yield from _places(entry, (*path, key))


def _change(rng: Random, value) -> None:
    """Replace, remove, add or exchange one entry of nested lists and tables."""
    path = rng.choice([path for path in _places(value) if path])
    for key in path[:-1]:
        value = value[key]
    match rng.randrange(5):
        case 0:
            del value[path[-1]]
        case 1 if isinstance(value, dict):
            value[rng.choice(("more", "../x", "", "0", "0.bias"))] = copy.deepcopy(rng.choice(HOSTILE))
        case 1:
            value.append(copy.deepcopy(rng.choice(HOSTILE)))
        case 2:
            other = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
            value[path[-1]], value[other] = value[other], value[path[-1]]
        case _:
            value[path[-1]] = copy.deepcopy(rng.choice(HOSTILE))


def _config(rng: Random, files: Files, other: Saved) -> tuple[Files, bool]:
    config = json.loads(files[CONFIG])
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _change(rng, config)
    if rng.random() < 0.05 and isinstance(config.get("report"), dict):
        config["report"]["device"] = "x" * 3_000_000
    files[CONFIG] = json.dumps(config).encode()
    return files, False


def _text(rng: Random, files: Files, other: Saved) -> tuple[Files, bool]:
    """A key twice, or brackets without end."""
    text = files[CONFIG]
    if rng.random() < 0.5:
        key = rng.choice((b'"version"', b'"layers"', b'"rows"', b'"name"', b'"tile"', b'"shape"'))
        text = text.replace(key + b": ", key + b": null, " + key + b": ", 1)
    else:
        depth = rng.choice((10, 900, 1100, 50_000))
        text = text.replace(b'"note": ""', b'"note": ' + b"[" * depth + b"]" * depth, 1)
    files[CONFIG] = text
    return files, False


def _sealed(files: Files) -> tuple[Files, bool]:
    content = files[TENSORS]
    config = json.loads(files[CONFIG])
    config["tensors"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    files[CONFIG] = json.dumps(config).encode()
    return files, True


def _header(rng: Random, files: Files, other: Saved) -> tuple[Files, bool]:
    """Forge the description of the tensors."""
    content = files[TENSORS]
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    match rng.randrange(7):
        case 0:
            entry["dtype"] = rng.choice(("F64", "F16", "I8", "I64", "U8", "BOOL", "F8_E4M3", "X1", "C64", None, 3))
        case 1:
            entry["shape"] = rng.choice(([], [0], [2**40, 2**40], [0, 2**60, 2**60], [-1], [1] * 2000, [2**62, 4], "x"))
        case 2:
            entry["data_offsets"] = [rng.choice((0, -1, 8, 2**40, 2**64)) for _ in range(rng.choice((1, 2, 3)))]
        case 3:
            header[name + "x"] = copy.deepcopy(entry)
        case 4:
            header["__metadata__"] = {str(i): "x" * 100 for i in range(rng.choice((10, 30_000)))}
        case 5:
            _change(rng, header)
        case 6:
            header = [header]
    text = json.dumps(header).encode()
    claimed = len(text) if rng.random() < 0.8 else rng.choice((0, 1, 2**32, 2**63 - 1, len(text) // 2, len(content)))
    files[TENSORS] = claimed.to_bytes(8, "little") + text + content[8 + length :]
    return _sealed(files)


def _tensors(rng: Random, files: Files, other: Saved) -> tuple[Files, bool]:
    """Forge tensors: places out of range or order, other kinds of numbers, other shapes, other names."""
    tensors = dict(sorted(read_tensors(files[TENSORS]).items()))  # which come in any order
    places = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(places) if places and rng.random() < 0.7 else rng.choice(list(tensors))
        tensors[name] = _forged(rng, tensors[name])
        if rng.random() < 0.1:
            tensors[rng.choice(("0.values", "../up", "", "0.weight", "2.bias"))] = tensors.pop(name)
            break
    files[TENSORS] = write_tensors({k: t.contiguous() for k, t in tensors.items()}, {"smart_kernels": "1"})
    return _sealed(files)


KINDS = (torch.int32, torch.int64, torch.uint8, torch.int8, torch.bool, torch.float32, torch.float64, torch.bfloat16)
FAR = (-1, 0, 1, 255, 2**15, 2**31 - 1, -(2**31), 2**62, -(2**63), 2**63 - 1)


def _forged(rng: Random, tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.clone().flatten()
    match rng.randrange(7):
        case 0 if len(flat):
            wide = flat.long() if not flat.is_floating_point() else flat
            wide[rng.randrange(len(wide))] = rng.choice(FAR)
            return wide.view(tensor.shape).to(rng.choice((tensor.dtype, wide.dtype)))
        case 1:
            return tensor.flip(0) if tensor.dim() else tensor
        case 2:
            return tensor.to(rng.choice(KINDS))
        case 3:
            return flat[: rng.randrange(len(flat) + 1)]
        case 4:
            return torch.zeros(rng.choice(SHAPES), dtype=tensor.dtype)
        case 5 if not tensor.is_floating_point():
            return torch.tensor([rng.choice(FAR) for _ in range(len(flat))]).view(tensor.shape)
        case _:
            return torch.cat([flat, flat])


def _described(rng: Random, original: bytes) -> bytes:
    """Forge the description of a checkpoint's tensors, and give all records the right checksums."""
    with zipfile.ZipFile(io.BytesIO(original)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    name = next(key for key in records if key.endswith("data.pkl"))
    match rng.randrange(5):
        case 0:
            records[name] = _pickled(rng)
        case 1:
            records[rng.choice(list(records))] = rng.randbytes(rng.choice((0, 1, 100)))
        case 2:
            records["archive/../../escaped"] = b"x"
        case 3:
            old, new = rng.choice(STRANGE)
            records[name] = records[name].replace(old, new)
        case 4:
            records[name] = spoilt(rng, records[name])
    written = io.BytesIO()
    kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(written, "w", kind) as archive:
        for key, content in records.items():
            archive.writestr(zipfile.ZipInfo(key), content, kind)  # without the time
    return written.getvalue()


class Bomb:
    """Something whose description makes the reader call what it names."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _pickled(rng: Random) -> bytes:
    nested = []
    for _ in range(rng.choice((10, 40, 200))):
        nested = [nested, nested]
    bombs = (Bomb(bytearray, 10**12), Bomb(eval, "1"), Bomb(OrderedDict, [(1, 2)]), {"step": 2**70}, nested, [], None)
    return pickle.dumps(rng.choice(bombs), protocol=2)


def _stated(rng: Random) -> bytes:
    """Change one entry of the state that a checkpoint holds."""
    forged = copy.deepcopy(state())
    places = [path for path in _spots(forged) if path]
    path = rng.choice(places)
    value = forged
    for key in path[:-1]:
        value = value[key]
    if isinstance(value, dict) and rng.random() < 0.2:
        del value[path[-1]]
    else:
        forged = _with(forged, path, _other(rng, value[path[-1]]))
    written = io.BytesIO()
    torch.save(forged, written)
    return written.getvalue()


def _with(value, path, new):
    """Return nested lists, tables and tuples with another entry at a path."""
    key, *rest = path
    entry = _with(value[key], rest, new) if rest else new
    if isinstance(value, tuple):
        return (*value[:key], entry, *value[key + 1 :])
    value[key] = entry
    return value


def _spots(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, entry in list(items)[:40]:
        yield from _spots(entry, (*path, key))


def _other(rng: Random, value):
    if isinstance(value, torch.Tensor) and rng.random() < 0.7:
        return rng.choice((_forged(rng, value), torch.zeros(1).expand(2**40), value.t() if value.dim() == 2 else value))
    return copy.deepcopy(rng.choice((*HOSTILE, 10**6, 625, torch.zeros(2), torch.zeros(3).to("meta"))))
