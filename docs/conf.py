"""The site: every page of the repository that is written for readers, as it lies there. ``make docs`` builds it.

The source folder is the repository itself, so that relative links mean the same here as on a page of the repository.
"""

import re

from sphinx.application import Sphinx

project = "fedmarket"
root_doc = "docs/README"
include_patterns = ["*.md", "docs/**.md", "experiments/**/README.md", "benchmarks/README.md"]
exclude_patterns = [".*", "runs", "**/node_modules"]

extensions = ["myst_parser"]
highlight_language = "text"  # of a block without a name: what a command printed
myst_heading_anchors = 4  # links to headings, made as repository pages make them

html_theme = "furo"
html_title = "fedmarket"
html_extra_path = ["site"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False

FOLDER = re.compile(r"(?<=\]\()([^)\s:#]+/)(?=\))")


def to_readme(_: Sphinx, __: str, source: list[str]) -> None:
    """Let a link to a folder lead to the folder's README, as on a repository page."""
    source[0] = FOLDER.sub(r"\1README.md", source[0])


def setup(app: Sphinx) -> None:
    """Connect what is ours."""
    app.connect("source-read", to_readme)
