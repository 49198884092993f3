"""Which packages are installed; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

OURS = find_packages(include=["smart_kernels*", "smart_train*"])
BENCH = find_packages(include=["bench*"])

setup(
    packages=OURS + [f"smart_{name}" for name in BENCH],  # "bench" is a name that others have, too
    package_dir={"smart_bench": "bench"},
)
