"""Check what is installed: its names, what importing it costs, and the files that go to an index."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import smart_kernels
import smart_train

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SHIPPED = ("smart_kernels", "smart_train", "bench", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md")
SHIPPED += ("LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "constraints.txt")
NEW = """
import sys, torch
before = set(sys.modules)
import smart_kernels, smart_train
print(*sorted(set(sys.modules) - before))
"""


def test_version_is_one_and_the_changelog_begins_with_it():
    assert smart_train.__version__ == smart_kernels.__version__
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
    assert first in (smart_kernels.__version__, "Unreleased")


def test_packages_are_typed_and_commands_lead_somewhere():
    assert all((ROOT / package / "py.typed").exists() for package in ("smart_kernels", "smart_train"))
    for target in PROJECT["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(import_module(module.replace("smart_bench", "bench")), function))


def test_importing_brings_little_beside_torch_and_triton():
    """Modules are counted, not timed: Dynamo alone is a thousand, and takes longer than torch."""
    done = subprocess.run([sys.executable, "-c", NEW], cwd=ROOT, capture_output=True, text=True, check=True)
    others = [name for name in done.stdout.split() if not name.startswith(("triton", "smart_kernels", "smart_train"))]
    heavy = ("torch._dynamo", "torch._inductor", "torch.distributed.fsdp", "torch.distributed.tensor", "sympy")
    assert not {*heavy, "numpy", "sklearn", "matplotlib", "transformers"} & {*others}
    assert len(others) <= 25, others


@pytest.mark.parametrize(
    ("module", "library"),
    [
        ("smart_kernels.integrations.transformers", "transformers"),
        ("smart_train.integrations.transformers", "transformers"),
        ("smart_train.integrations.lightning", "lightning"),
    ],
)
def test_without_its_library_an_integration_says_what_to_install(module, library, monkeypatch):
    for name in [name for name in sys.modules if name == module or name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"pip install smart-kernels\[{library}\]"):
        import_module(module)
    assert library in PROJECT["optional-dependencies"]


@pytest.mark.slow  # half a minute
def test_wheel_and_sdist_install_where_nothing_of_this_checkout_is(tmp_path):
    """From the sdist a wheel, into an environment that shares only the dependencies; there both commands run."""
    wheel = build(tmp_path)
    python = environment(tmp_path / "environment", wheel)
    found = run(python, "-c", "import smart_kernels as k, smart_train, smart_bench; print(k.__version__, k.__file__)")
    version, place = found.split()
    assert version == smart_kernels.__version__ and place.startswith(str(tmp_path))
    names = run(python, "-c", "from importlib.metadata import files; print(*files('smart-kernels'))").split()
    tops = {Path(name).parts[0] for name in names if not name.startswith("..")}
    assert {name for name in tops if "dist-info" not in name} == {"smart_kernels", "smart_train", "smart_bench"}
    assert {"smart_kernels/py.typed", "smart_train/py.typed"} <= {*names}
    scripts = python.parent
    assert "smart-train prune" in run(scripts / "smart-train", "--help")
    rehearsed = run(scripts / "smart-bench", "layers", "--dry-run", "--filter", "dense")
    assert "cases run once" in rehearsed and not list(python.parents[1].rglob("*.jsonl"))


def build(folder: Path) -> Path:
    """Make an sdist of a copy of the tree, and a wheel of the sdist."""
    source = folder / "source"
    for name in SHIPPED:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, target)
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    run(sys.executable, "-c", code, cwd=source)
    (sdist,) = folder.glob("*.tar.gz")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, sdist, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def environment(folder: Path, wheel: Path) -> Path:
    """Return the Python of a new environment with the wheel; dependencies are read where this Python has them."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    (site,) = folder.glob("lib/python*/site-packages")
    run(sys.executable, "-m", "pip", "--python", folder, "install", "--no-deps", "--no-index", wheel)
    (site / "dependencies.pth").write_text("\n".join(shared()))
    return folder / "bin" / "python"


def shared() -> list[str]:
    """Return the folders of installed packages; an editable install in them is not followed from a .pth."""
    return [path for path in sys.path if path.endswith("site-packages")]


def run(*command: object, cwd: Path | None = None) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    where = cwd or Path(command[0]).parents[1]
    done = subprocess.run([*map(str, command)], cwd=where, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
