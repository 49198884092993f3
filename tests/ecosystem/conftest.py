"""These tests need other people's libraries, which `make test-ecosystem` installs; elsewhere they are left out."""

from importlib.util import find_spec

from bench.zoo.stand_in import define

NEEDED = ("accelerate", "lightning", "peft", "timm", "torch_pruning", "torchvision", "transformers")
collect_ignore_glob = ["test_*.py"] if any(find_spec(name) is None for name in NEEDED) else []

if not collect_ignore_glob:
    define()  # before anybody imports torchvision
