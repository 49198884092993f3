"""Every layer under everything: what works, and what not, and why. ``python -m tests.support`` writes the page."""

import pytest

from .columns import COLUMNS
from .refused import REFUSED
from .rows import ROWS


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("support")


@pytest.mark.support
@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("column", COLUMNS)
def test_support(row, column, folders):
    folder = folders / f"{column} {row}".replace(" ", "-").replace("/", "-").replace(":", "-")
    folder.mkdir()
    reason = REFUSED.get((str(row), column))
    if reason is None:
        COLUMNS[column](row, folder)
    else:
        with pytest.raises(Exception, match=reason.match):
            COLUMNS[column](row, folder)
