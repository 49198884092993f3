"""Where rows and pages lie: in the checkout, or under ``./smart-bench`` for who has installed the package."""

from pathlib import Path

CODE = Path(__file__).parents[1]
IS_CHECKOUT = (CODE / "pyproject.toml").is_file()
ROOT = CODE if IS_CHECKOUT else Path.cwd() / "smart-bench"
RESULTS = ROOT / "bench" / "results"
DOCS = ROOT / "docs"
