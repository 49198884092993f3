"""Who may import whom. Arrows point one way; kernels know nothing of torch."""

import ast
from pathlib import Path

import pytest

import smart_kernels
from smart_kernels import ops

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "smart_kernels/kernels": {"triton", "smart_kernels.kernels"},
    "smart_kernels/reference": {"torch", "smart_kernels.reference"},
    "smart_kernels/ops": {
        "torch",
        "triton",
        "smart_kernels.kernels",
        "smart_kernels.reference",
        "smart_kernels.ops",
    },
    "smart_kernels/formats": {"torch", "smart_kernels.ops", "smart_kernels.reference", "smart_kernels.formats"},
    "smart_kernels/patterns": {
        "torch",
        "smart_kernels.reference",
        "smart_kernels.formats",
        "smart_kernels.patterns",
    },
    "smart_kernels/nn": {
        "torch",
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


def imports(file: Path):
    package = ".".join(file.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parent, node.module or ""]).strip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def within(name: str, packages) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_arrows_point_one_way(folder):
    for file in (ROOT / folder).rglob("*.py"):
        for name in imports(file):
            if within(name, FIRST_PARTY):
                assert within(name, MAY_IMPORT[folder]), f"{file.relative_to(ROOT)} imports {name}"


def test_smart_train_uses_public_names_only():
    public = {"smart_kernels", *(f"smart_kernels.{part}" for part in ("patterns", "nn", "formats", "convert", "ops"))}
    for file in (ROOT / "smart_train").rglob("*.py"):
        for name in imports(file):
            if within(name, ["smart_kernels"]):
                module = name.rpartition(".")[0] if name != "smart_kernels" else name
                assert module in public, f"{file.name} reaches behind the public names: {name}"


def test_no_assert_outside_tests():
    for folder in ("smart_kernels", "smart_train", "bench"):
        for file in (ROOT / folder).rglob("*.py"):
            if file.name.startswith("test_"):
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                assert not isinstance(node, ast.Assert), f"{file.relative_to(ROOT)}:{node.lineno} asserts"


def test_operators_are_public_names_of_the_package():
    assert set(ops.__all__) <= set(smart_kernels.__all__)
    assert all(hasattr(smart_kernels, name) for name in smart_kernels.__all__)
