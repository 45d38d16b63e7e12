"""A report in other forms: short in a session, a table in a notebook, text, dicts and data frames, and files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from prunecli.errors import PruneError

if TYPE_CHECKING:
    import pandas as pd

    from prunecli.checkpoint import PathLike
    from prunecli.report.model import Report


class Forms:
    """The forms of a `Report`. The module of each is imported when it is used."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return one line: the result, the strategy and where it was written."""
        from prunecli.report.notebook import headline  # noqa: PLC0415 - most runs need no forms

        return f"<Report: {headline(self._report)}>"

    def _repr_html_(self) -> str:
        """Return the result and a table of the tensors, for notebooks."""
        from prunecli.report.notebook import to_table  # noqa: PLC0415

        return to_table(self._report)

    def to_dict(self) -> dict[str, object]:
        """Return what the JSON form has as a dict: numbers, texts, lists and dicts only."""
        from prunecli.report.json import to_dict  # noqa: PLC0415

        return to_dict(self._report)

    def to_json(self) -> str:
        """Return the JSON form, which docs/report.schema.json describes."""
        from prunecli.report.json import to_json  # noqa: PLC0415

        return to_json(self._report)

    def to_html(self) -> str:
        """Return a page that needs no network. Only a run that wrote a page has histograms."""
        from prunecli.report.html import to_html  # noqa: PLC0415

        return to_html(self._report)

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame with a line for each tensor; its columns are the attributes of `Row`.

        Raises:
            PruneError: pandas is not installed.
        """
        try:
            import pandas as pd  # noqa: PLC0415 - optional
        except ImportError:
            raise PruneError("a data frame needs pandas", hint="pip install 'prunecli[pandas]'") from None
        from prunecli.report.model import COLUMNS  # noqa: PLC0415

        rows = [[getattr(row, name) for name in COLUMNS] for row in self._report.rows]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def save(self, path: PathLike, *, force: bool = False) -> None:
        """Write the report in the form of the path's suffix: .json, .csv, .md, .html, or a figure: .svg, .png, .pdf.

        Args:
            path: The file to write.
            force: Whether to replace an existing file.

        Raises:
            UsageError: The suffix is another one.
            OutputError: The file exists, or cannot be written.
        """
        from prunecli.io.publish import publish_bytes  # noqa: PLC0415
        from prunecli.report.renderers import check_suffixes, render_report  # noqa: PLC0415

        check_suffixes([path])
        publish_bytes(Path(path), render_report(self._report, Path(path).suffix), force=force)

    @property
    def _report(self) -> Report:
        return cast("Report", self)
