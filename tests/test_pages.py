"""The pages that people read: what they name is there, and what is there is named."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import smart_kernels
import smart_train
from bench import gpu_check
from smart_kernels import ops

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = {"smart_kernels": smart_kernels, "smart_train": smart_train}
OUTSIDE = ("http", "mailto:")


def anchors(page: Path) -> set[str]:
    """The places of a page that a link may go to: headings, and anchors written out."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | {*re.findall(r'<a id="([^"]+)"', text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(OUTSIDE):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} does not exist"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_pages_of_the_site_are_there():
    nav = re.findall(r": ([\w/-]+\.md)$|- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    made = {"index.md", "will-not-help.md", "contributing.md"}  # by docs/hooks.py
    pages = {path for pair in nav for path in pair if path}
    assert len(pages) > 15 and all(page in made or (ROOT / "docs" / page).exists() for page in pages)


def test_the_readme_is_short_and_begins_with_a_picture():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) < 150
    assert any(line.startswith("![") for line in lines[:12])


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_on_the_page_of_names(package):
    section = re.search(rf"^## {package}$(.*?)(?=^## |\Z)", (ROOT / "docs" / "api.md").read_text(), re.M | re.S)[1]
    assert {*re.findall(r"`(\w+)`", section)} == {*PACKAGES[package].__all__}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_says_what_it_is(package):
    for name in PACKAGES[package].__all__:
        value = getattr(PACKAGES[package], name)
        if callable(value):
            text = value.__dict__.get("__doc__", "") if inspect.isclass(value) else value.__doc__
            assert text and not text.startswith(f"{name}("), f"{name} has no docstring of its own"


def test_words_are_explained_once():
    words = re.findall(r'<a id="([^"]+)"', (ROOT / "docs" / "glossary.md").read_text())
    assert len(words) == len({*words}) > 30


def test_an_op_is_a_name_on_every_storey():
    """Where CONTRIBUTING says that an op has a file: its room is in ops and in the tests, with one name."""
    for name in ops.__all__:
        *_, storey, family, _ = inspect.getmodule(getattr(ops, name)).__name__.split(".")
        assert storey == "ops", name
        for place in ("smart_kernels/ops", "tests/ops"):
            assert (ROOT / place / family).is_dir(), f"{name}: no {place}/{family}"


def test_a_part_of_gpu_check_is_a_file_and_a_line():
    folder = Path(gpu_check.__file__).parent
    for part in gpu_check.PARTS:
        tree = ast.parse((folder / f"{part}.py").read_text())
        assert any(isinstance(node, ast.FunctionDef) and node.name == "cases" for node in tree.body), part


def test_tables_named_where_to_touch_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for table, file in re.findall(r"`([A-Z]+)` \(`([\w/]+\.py)`\)", text):
        path = next(p for p in (ROOT / file, ROOT / "smart_kernels" / file) if p.exists())
        assert re.search(rf"^{table}\b", path.read_text(), re.M), f"{file} has no {table}"
