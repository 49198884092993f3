"""The table needs other people's libraries, which `make test-ecosystem` installs; elsewhere its page is checked."""

from importlib.util import find_spec

NEEDED = ("accelerate", "onnxscript", "onnxruntime", "transformers")
collect_ignore = ["test_support.py"] if any(find_spec(name) is None for name in NEEDED) else []
