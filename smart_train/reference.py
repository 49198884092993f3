"""``package.module:function``: the user's own code, named on the command line."""

import inspect
import re
import sys
from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

FORM = "package.module:function"
REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_reference(text: str) -> bool:
    """Return whether a text has the form of a reference."""
    return REFERENCE.fullmatch(text) is not None


def resolve(reference: str) -> Callable:
    """Return what ``package.module:function`` names; modules are also looked for in the current directory.

    Raises:
        ValueError: there is no such module, nothing of that name in it, or it cannot be called. An error in the
            module's own code is passed on as it is.
    """
    module, _, name = reference.partition(":")
    if (here := str(Path.cwd())) not in sys.path:  # an installed command does not look there
        sys.path.insert(0, here)
    try:
        found = attrgetter(name)(import_module(module))
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"{reference} must name a module that can be imported from here, got none: {error}") from error
    except AttributeError as error:
        raise ValueError(f"{reference} must name a function of {module}, got nothing: {error}") from error
    if not callable(found):
        raise ValueError(f"{reference} must name a function, got {type(found).__name__}")
    return found


def call(reference: str, **known: Any) -> Any:
    """Return what the function named by ``reference`` returns, told those of ``known`` that it has parameters for.

    Raises:
        ValueError: there is no such function, or it needs something else.
    """
    function = resolve(reference)
    wanted = inspect.signature(function).parameters.values()
    given = {each.name: known[each.name] for each in wanted if each.name in known}
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = {each.name for each in wanted if each.default is each.empty and each.kind not in optional}
    if lacking := sorted(needed - given.keys()):
        offered = ", ".join(known) or "nothing"
        raise ValueError(f"{reference} must be a function of {offered}, got one that needs {', '.join(lacking)}")
    return function(**given)
