"""HTML pages that need no network and no second file: one base template, one style sheet.

Text from a checkpoint is escaped by the template engine. A page forbids every script but its own. Jinja is imported
when a page is made.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from prunecli.text.escape import printable, shortened
from prunecli.text.numbers import counted, format_bytes, format_shape, magnitude, number, percent, plural
from prunecli.version import __version__

NAME = 160
"""Characters of a name before it is shortened."""

_TEXT = 2_000  # characters of a sentence or a command line


def render_page(template: str, *, script: str = "", **values: object) -> str:
    """Return the page of a template ("report/report.html" is prunecli/report/templates/report.html).

    `script` is the name of the page's script, spelled alike. Templates have `values`, `version` and these filters:
    name, text, percent, number, magnitude, bytes, shape, counted, plural.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined  # noqa: PLC0415  -- costs more than a small prune
    from markupsafe import Markup  # noqa: PLC0415

    engine = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        # a misspelled value raises an error instead of printing nothing
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters.update(name=_name, text=_text, percent=percent, number=number, magnitude=magnitude)
    engine.filters.update(bytes=format_bytes, shape=format_shape, counted=counted, plural=plural)
    code = _source(script) if script else ""
    return engine.get_template(template).render(
        style=Markup(_source("report/page.css")),  # noqa: S704  -- from the package, not from a checkpoint
        script=Markup(code),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(code.encode()).digest()).decode("ascii"),
        **{"version": __version__, **values},
    )


def _source(name: str) -> str:
    package, _, file = name.partition("/")
    return files(f"prunecli.{package}").joinpath("templates").joinpath(file).read_text("utf-8")


def _name(name: str) -> str:
    return shortened(printable(name), NAME) or '""'


def _text(text: str) -> str:
    return shortened(printable(text), _TEXT)
