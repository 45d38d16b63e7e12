"""The site: Sphinx with Furo, from the Markdown pages of this folder and the docstrings of the package."""
# ruff: noqa: INP001 - Sphinx reads this file by its path

from __future__ import annotations

from typing import Any

from prunecli.version import __version__

project = "prune"
copyright = "The prunecli authors"  # noqa: A001 - Sphinx's name
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

autodoc_typehints = "none"  # the signature has them
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "prune"
html_copy_source = False
html_show_sphinx = False

linkcheck_timeout = 20
linkcheck_retries = 2


def setup(app: Any) -> None:  # noqa: ANN401 - Sphinx's application
    """Connect the changes of texts."""
    app.connect("source-read", _link_pages)
    app.connect("autodoc-process-docstring", _escape_bars)


def _link_pages(_app: Any, _name: str, text: list[str]) -> None:  # noqa: ANN401
    """Let links to CONTRIBUTING.md lead to its page."""
    text[0] = text[0].replace("](../CONTRIBUTING.md", "](contributing.md")


def _escape_bars(*event: Any) -> None:  # noqa: ANN401
    """Escape the bars of |w|, which mark substitutions in reStructuredText."""
    lines = event[-1]
    lines[:] = [line.replace("|", r"\|") for line in lines]
