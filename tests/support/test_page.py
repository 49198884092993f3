"""docs/support.md says what the tests of the table say."""

import re

from .columns import COLUMNS
from .page import PAGE, render
from .refused import REFUSED
from .rows import ROWS


def test_the_page_is_what_the_tests_say():
    text = PAGE.read_text()
    versions = re.search(r"^(\d+) cells tried: .*$", text, re.M)
    assert text == render(versions[0]), "`make support` writes it anew"
    assert int(versions[1]) == len(ROWS) * len(COLUMNS)


def test_what_is_refused_is_a_cell():
    assert {*REFUSED} <= {(str(row), column) for row in ROWS for column in COLUMNS}
