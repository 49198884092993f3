"""The first snippet of the README, as somebody new would paste it."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_first_snippet_makes_a_faster_model_that_is_as_good():
    snippet = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)[1]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", snippet], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    dense, pruned = map(float, re.search(r"accuracy ([\d.]+)% dense, ([\d.]+)% pruned", done.stdout).groups())
    assert pruned > dense - 2 > 90
    assert float(re.search(r"whole model ([\d.]+)x", done.stdout)[1]) > 1.5  # it was five
