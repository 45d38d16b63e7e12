"""HTML pages that need no network and no second file: one base template, one style sheet.

Text from a checkpoint is escaped by the template engine. A page forbids every script but its own. Jinja is imported
when a page is made.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from importlib.resources import files

from prunecli.text.escape import printable, shortened
from prunecli.text.numbers import counted, format_bytes, format_shape, magnitude, number, percent, plural
from prunecli.version import __version__

NAME = 160
"""Characters of a name before it is shortened."""

_DOTS = re.compile(r"(?<=\.)(?=.)")

_TEXT = 2_000  # characters of a sentence or a command line


def render_page(template: str, *, script: str = "", **values: object) -> str:
    """Return the page of a template ("report/report.html" is prunecli/report/templates/report.html).

    `script` is the name of the page's script, spelled alike. Templates have `values`, `version` and these filters:
    name, path (a name that may break after its dots), text, percent, number, magnitude, bytes, shape, counted, plural.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined  # noqa: PLC0415  -- costs more than a small prune
    from markupsafe import Markup, escape  # noqa: PLC0415

    def path(name: str) -> Markup:
        return Markup("<wbr>").join(_DOTS.split(escape(_name(name)))) if "." in name else escape(_name(name))

    engine = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        # a misspelled value raises an error instead of printing nothing
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters.update(name=_name, path=path, text=_text, percent=percent, number=number, magnitude=magnitude)
    engine.filters.update(bytes=format_bytes, shape=format_shape, counted=counted, plural=plural, count=_count)
    code = _source(script) if script else ""
    return engine.get_template(template).render(
        style=Markup(_source("report/page.css")),  # noqa: S704  -- from the package, not from a checkpoint
        script=Markup(code),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(code.encode()).digest()).decode("ascii"),
        **{"version": __version__, **values},
    )


def made_at() -> str:
    """Return the present date and time (UTC), or those of SOURCE_DATE_EPOCH, as reproducible builds ask for."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH", "")
    at = int(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) < 12 else time.time()
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def _source(name: str) -> str:
    package, _, file = name.partition("/")
    return files(f"prunecli.{package}").joinpath("templates").joinpath(file).read_text("utf-8")


def _count(number: int) -> str:
    """Return a number in three digits or fewer and its unit: 940, 12k, 3.4M."""
    value, unit = float(number), ""
    for larger in ("k", "M", "G", "T"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g}{unit}"


def _name(name: str) -> str:
    return shortened(printable(name), NAME) or '""'


def _text(text: str) -> str:
    return shortened(printable(text), _TEXT)
