"""What mkdocs needs to know of this repository: pages that lie elsewhere, and links that lead out of the site."""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
SECTION = "When it will not help"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
ELSEWHERE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}  # repository -> site
REFERENCE = "\n\n<a href='reference/index.html'>Every signature and docstring</a>\n"


def on_files(files, config):
    """Add the README, its honest section and CONTRIBUTING as pages."""
    readme, section = _parted((ROOT / "README.md").read_text())
    pages = {"index.md": readme, "will-not-help.md": section, "contributing.md": (ROOT / "CONTRIBUTING.md").read_text()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=_linked(text, PurePosixPath("."))))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links into the repository around ``docs`` into pages of the site, or into plain text."""
    if page.file.src_uri in ("index.md", "will-not-help.md", "contributing.md"):
        return markdown
    text = _linked(markdown, PurePosixPath("docs") / PurePosixPath(page.file.src_uri).parent)
    return text + REFERENCE if page.file.src_uri == "api.md" else text


def _parted(readme: str) -> tuple[str, str]:
    """Return the README with a link in place of its section, and the section as a page."""
    found = re.search(rf"^## {SECTION}\n(.*?)(?=^## )", readme, re.M | re.S)
    rest = (
        readme[: found.start(1)]
        + "\n[Where it gains little or nothing](docs/will-not-help.md).\n\n"
        + readme[found.end(1) :]
    )
    return rest, f"# {SECTION}\n{found[1]}"


def _linked(text: str, folder: PurePosixPath) -> str:
    """Replace the targets of links; ``folder`` is where in the repository the text lies."""

    def replaced(link: re.Match) -> str:
        image, title, target = link.groups()
        if target.startswith(("http", "mailto:", "#")):
            return link[0]
        path, _, anchor = target.partition("#")
        place = _on_site(normpath(folder / path))
        if place is None:
            return title
        up = "../" * (len(folder.parts) - 1 if folder.parts else 0)
        return f"{image}[{_linked(title, folder)}]({up}{place}{'#' + anchor if anchor else ''})"

    return LINK.sub(replaced, text)


def _on_site(path: str) -> str | None:
    """Return where on the site a file of the repository is, or None."""
    if path in ELSEWHERE:
        return ELSEWHERE[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else None
