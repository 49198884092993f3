"""Who may import whom. Arrows point one way; kernels know nothing of torch; a family is entered through its face.

A floor is a folder of the package, a room is a folder of the floors ``kernels``, ``reference`` and ``ops``: one for
each family of ops, under one name on every floor, and ``common``. The face of a room is its ``__init__.py``.
"""

import ast
import importlib
from functools import cache
from pathlib import Path

import pytest

import smart_kernels
from smart_kernels import ops

ROOT = Path(__file__).parents[1]
FAMILIES = ("topk", "masked", "block_sparse", "semi_structured", "tensor_core")
FLOORS = ("kernels", "reference", "ops")
ROOMS = [  # tensor_core has no definitions of its own: what it packs is a permutation of the saved n:m form
    f"smart_kernels.{floor}.{room}"
    for floor in FLOORS
    for room in ("common", *FAMILIES)
    if (floor, room) != ("reference", "tensor_core")
]
MAY_IMPORT = {
    "smart_kernels/shapes": {"torch", "smart_kernels.shapes"},
    "smart_kernels/kernels": {"triton", "smart_kernels.kernels"},
    "smart_kernels/reference": {"torch", "smart_kernels.shapes", "smart_kernels.reference"},
    "smart_kernels/ops": {
        "torch",
        "triton",
        "smart_kernels.shapes",
        "smart_kernels.kernels",
        "smart_kernels.reference",
        "smart_kernels.ops",
    },
    "smart_kernels/formats": {
        "torch",
        "smart_kernels.shapes",
        "smart_kernels.ops",
        "smart_kernels.reference",
        "smart_kernels.formats",
    },
    "smart_kernels/patterns": {
        "torch",
        "smart_kernels.shapes",
        "smart_kernels.reference",
        "smart_kernels.formats",
        "smart_kernels.patterns",
    },
    "smart_kernels/nn": {
        "torch",
        "smart_kernels.shapes",
        "smart_kernels.reference",
        "smart_kernels.ops",
        "smart_kernels.formats",
        "smart_kernels.patterns",
        "smart_kernels.nn",
    },
    "smart_kernels/convert": {"torch", "triton", "smart_kernels"},
    "smart_train": {"torch", "triton", "smart_kernels", "smart_train"},
    "bench": {"torch", "triton", "smart_kernels", "smart_train", "bench"},
}
FIRST_PARTY = ("torch", "triton", "smart_kernels", "smart_train", "bench", "tests")


@cache
def imports(file: Path) -> tuple[str, ...]:
    """The full names that a file imports, wherever in it."""
    package, found = file.relative_to(ROOT).parts[:-1], []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*parent, *filter(None, [node.module])])
            found += [f"{base}.{alias.name}" for alias in node.names]
    return tuple(found)


def within(name: str, packages) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def sources(*folders: str) -> list[Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


@cache
def exported(face: Path) -> tuple[str, ...]:
    """The names in the ``__all__`` of a package; none without."""
    for node in ast.parse(face.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return tuple(ast.literal_eval(node.value))
    return ()


def module_of(name: str) -> str | None:
    """The module of this tree that an imported name is, or is defined in; None for other people's."""
    package, _, last = name.rpartition(".")
    path = ROOT.joinpath(*name.split("."))
    if is_module(path) and last not in hidden(path.with_name("__init__.py")):
        return name
    return package if package and is_module(path.parent) else None


@cache
def hidden(face: Path) -> frozenset[str]:
    """The modules of a package behind which a name of theirs has come: ``from .soft_topk import soft_topk``."""
    nodes = ast.parse(face.read_text()).body if face.is_file() else ()
    return frozenset(
        alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == node.module
    )


def is_module(path: Path) -> bool:
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_arrows_point_one_way(folder):
    for file in sources(folder):
        for name in imports(file):
            if within(name, FIRST_PARTY):
                assert within(name, MAY_IMPORT[folder]), f"{file.relative_to(ROOT)} imports {name}"


def test_no_cycles():
    """Neither at run time nor for types: imports inside of functions and under TYPE_CHECKING count."""
    arrows = {}
    for file in sources("smart_kernels", "smart_train", "bench"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        arrows[module] = {found for name in imports(file) if (found := module_of(name)) not in (None, module)}
    assert len(arrows) > 150 and arrows["smart_kernels.ops"] >= {f"smart_kernels.ops.{name}" for name in FAMILIES}
    done, path = set(), []

    def walk(module: str) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for other in sorted(arrows.get(module, ())):
            walk(other)
        done.add(path.pop())

    for module in arrows:
        walk(module)


@pytest.mark.parametrize("room", ["common", *FAMILIES])
def test_families_are_independent(room):
    """On every floor a family imports its own room, ``common`` and the vocabulary; ``common`` imports no family."""
    open_to_it = {"smart_kernels.shapes"} | {f"smart_kernels.{f}.{r}" for f in FLOORS for r in {room, "common"}}
    files = sources(*(f"smart_kernels/{floor}/{room}" for floor in FLOORS))
    assert files
    for file in files:
        for name in imports(file):
            if within(name, ["smart_kernels"]):
                assert within(name, open_to_it), f"{file.relative_to(ROOT)} imports {name}"


def test_rooms_are_entered_through_their_faces():
    """From outside of these floors: names that the ``__init__.py`` of a room exports, and no file behind it."""
    inside = [ROOT / "smart_kernels" / floor for floor in ("shapes", *FLOORS)]
    faces = {
        face: exported(ROOT.joinpath(*face.split("."), "__init__.py")) for face in (*ROOMS, "smart_kernels.shapes")
    }
    entered = 0
    for file in sources("smart_kernels", "smart_train", "bench"):
        if any(folder in file.parents for folder in inside):
            continue
        for name in imports(file):
            face = next((face for face in faces if name.startswith(face + ".")), None)
            entered += face is not None
            assert face is None or name.removeprefix(face + ".") in faces[face], (
                f"{file.relative_to(ROOT)} imports {name}, which {face} does not export"
            )
    assert entered > 20


def test_faces_have_what_they_export():
    for face in ROOMS:
        module = importlib.import_module(face)
        missing = [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)]
        assert not missing, f"{face} lacks {missing}"


def test_faces_export_every_tuned_kernel():
    """``gpu-check`` forces every configuration of what they export; Gluon kernels have checks of their own."""
    found = 0
    for file in sources("smart_kernels/kernels"):
        for node in ast.parse(file.read_text()).body:
            calls = node.decorator_list if isinstance(node, ast.FunctionDef) else []
            if any(isinstance(call, ast.Call) and ast.unparse(call.func) == "autotune" for call in calls):
                found += 1
                face = exported(file.with_name("__init__.py"))
                late = any("gluon" in name for name in imports(file))  # not every triton has what they need
                assert (node.name in face) != late, f"{file.name}: {node.name}"
    assert found >= 11


@pytest.mark.parametrize("family", FAMILIES)
def test_an_op_has_one_file_name_on_every_floor(family):
    """Where an op has a definition or tests of its own, they are in files of its name; the table is in CONTRIBUTING."""
    named = {file.stem for file in sources(f"smart_kernels/ops/{family}")}
    public = {function.__module__.rpartition(".")[2] for function in map(ops.__dict__.get, ops.__all__)}
    assert named & public, f"no op in ops/{family}"
    for file in sources(f"smart_kernels/reference/{family}"):
        assert file.stem in named, f"reference/{family}/{file.name} defines nothing of ops/{family}"
    for file in sources(f"tests/ops/{family}"):
        if file.stem.startswith("test_"):
            tested = file.stem.removeprefix("test_")
            assert any(tested == name or tested.startswith(name + "_") for name in named), f"{family}/{file.name}"


def test_smart_train_uses_public_names_only():
    rooms = ("patterns", "nn", "formats", "convert", "ops", "integrations.transformers")
    public = {"smart_kernels", *(f"smart_kernels.{part}" for part in rooms)}
    for file in sources("smart_train"):
        for name in imports(file):
            if within(name, ["smart_kernels"]):
                module = name.rpartition(".")[0] if name != "smart_kernels" else name
                assert module in public, f"{file.name} reaches behind the public names: {name}"


def test_no_assert_outside_tests():
    for file in sources("smart_kernels", "smart_train", "bench"):
        if file.name.startswith("test_"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            assert not isinstance(node, ast.Assert), f"{file.relative_to(ROOT)}:{node.lineno} asserts"


def test_operators_are_public_names_of_the_package():
    assert set(ops.__all__) <= set(smart_kernels.__all__)
    assert all(hasattr(smart_kernels, name) for name in smart_kernels.__all__)
