"""Giving the functions that are loaded from a file the code of another version of it, without importing it."""

import gc
from pathlib import Path
from types import CodeType, FunctionType


def swap(path: Path, source: str) -> bool:
    """Give every function that was loaded from a file the code that it has in ``source``; return False if it cannot.

    What the file has computed while it was imported stays as it is.
    """
    before, after = (_codes(compile(text, str(path), "exec")) for text in (path.read_text(), source))
    both = {name: (old, after.get(name, [])) for name, old in before.items()}
    changed = {_key(a): b for old, new in both.values() for a, b in zip(old, new, strict=False) if a != b}
    unlike = {_key(code) for old, new in both.values() for code in old if len(old) != len(new)}
    functions = (each for each in gc.get_objects() if type(each) is FunctionType)
    loaded = [(each, _key(each.__code__)) for each in functions if each.__code__.co_filename == str(path)]
    if any(key in unlike for _, key in loaded):
        return False
    try:
        for function, key in loaded:
            function.__code__ = changed.get(key, function.__code__)
    except ValueError:  # it uses more or fewer variables of the function around it
        return False
    return any(key in changed for _, key in loaded)


def _codes(code: CodeType) -> dict[str, list[CodeType]]:
    """Return the code of all functions within one by their names, in the order of the source."""
    found: dict[str, list[CodeType]] = {}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found.setdefault(constant.co_qualname, []).append(constant)
            for name, inner in _codes(constant).items():
                found.setdefault(name, []).extend(inner)
    return found


def _key(code: CodeType) -> tuple:
    return code.co_qualname, tuple(code.co_positions())
