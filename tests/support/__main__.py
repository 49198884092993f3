"""Try every cell and write the page: ``python -m tests.support``, behind ``make support``."""

import platform
import sys

import pytest
import torch

from .page import PAGE, render


class Outcomes:
    """What pytest found, by test."""

    def __init__(self):
        self.found: dict[str, str] = {}

    def pytest_runtest_logreport(self, report):
        """Keep the outcome of the call, or of what kept it from being called."""
        if report.when == "call" or report.outcome != "passed":
            self.found[report.nodeid] = report.outcome


def main() -> int:
    """Run the tests and write the page where all have passed; return pytest's exit code."""
    outcomes = Outcomes()
    code = pytest.main(["-q", "-n", "0", "-m", "support", "tests/support"], plugins=[outcomes])
    if code or {*outcomes.found.values()} != {"passed"}:
        print(
            "docs/support.md stays as it is: every cell must be tried, and come out as it is written", file=sys.stderr
        )
        return code or 1
    import transformers

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    PAGE.write_text(render(f"{len(outcomes.found)} cells tried: {versions}."))
    return 0


if __name__ == "__main__":
    sys.exit(main())
