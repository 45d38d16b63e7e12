"""Figures for papers and slides, as SVG, PNG or PDF, drawn by matplotlib: bars, curves and histograms.

Lines differ by their dashes and areas by their hatches, so that a figure is legible in black and white. Matplotlib is
optional, and imported when a figure is drawn.
"""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from prunecli.errors import PruneError, UsageError
from prunecli.text.escape import printable, shortened
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import PathLike

SUFFIXES = (".svg", ".png", ".pdf")
"""The suffixes of figures, in lower or upper case."""

NAMED = 40
"""Bars with names. More values are drawn as one line."""

_WIDTH, _DPI = 7.0, 200  # inches; dots per inch of a PNG
_MARKS = ("o", "s", "^", "D", "v")
_DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
_NAME = 60  # characters


@dataclass(frozen=True, slots=True)
class Series:
    """A curve: its points, and its name in the legend ("" for none)."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


def check_figure(path: PathLike) -> None:
    """Raise UsageError for a path with another suffix, and PruneError where matplotlib is not installed."""
    if PurePath(path).suffix.lower() not in SUFFIXES:
        known = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise UsageError(
            f"a figure is written as {known}, not {printable(PurePath(path).suffix) or 'without a suffix'}"
        )
    if find_spec("matplotlib") is None:
        raise PruneError("a figure needs matplotlib", hint="pip install 'prunecli[plot]'")


def bars(names: Sequence[str], before: Sequence[float], after: Sequence[float], title: str, suffix: str) -> bytes:
    """Return a figure of the sparsity (0-1) of tensors before and after; of many, two lines in their order."""
    if len(names) > NAMED:
        order = range(1, len(names) + 1)
        series = [*([Series("before", order, before)] if any(before) else []), Series("after", order, after)]
        return curves(series, title, ("number of the tensor", "weights that are zero"), suffix)
    figure, axes = _axes(title, height=1.2 + 0.22 * len(names))
    places = range(len(names))
    axes.barh(places, after, color="0.75", edgecolor="0.2", hatch="///", label="zeroed by this run")
    axes.barh(places, before, color="0.35", edgecolor="0.2", label="zero before")
    axes.set_yticks(places, [_literal(shortened(printable(name), _NAME)) for name in names], fontsize="small")
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(_percent())
    axes.set_xlabel("weights that are zero")
    if any(before):
        axes.legend(fontsize="small", loc="lower right")
    return _written(figure, suffix)


def histogram(edges: Sequence[float], counts: Sequence[int], title: str, suffix: str) -> bytes:
    """Return a figure of the number of weights by magnitude; the last bar has no upper edge and is as wide."""
    figure, axes = _axes(title, height=3.6)
    width = edges[1] - edges[0] if len(edges) > 1 else 1.0
    axes.bar(edges, counts, width=width, align="edge", color="0.75", edgecolor="0.2", linewidth=0.6)
    axes.set_xlabel("magnitude")
    axes.set_ylabel("weights")
    axes.set_xlim(left=0)
    return _written(figure, suffix)


def curves(
    series: Sequence[Series],
    title: str,
    labels: tuple[str, str],
    suffix: str,
    levels: Sequence[tuple[float, str]] = (),
) -> bytes:
    """Return a figure of curves; those without a name are thin and grey. `labels` are those of the axes.

    A dashed line is drawn at each of `levels`, with its name in the legend. An axis whose values are parts of weights
    (its label says "weights") has percentages.
    """
    figure, axes = _axes(title, height=4.2)
    for one in (one for one in series if not one.name):
        axes.plot(one.xs, one.ys, color="0.8", linewidth=0.6)
    for index, one in enumerate(one for one in series if one.name):
        mark = _MARKS[index % len(_MARKS)] if len(one.xs) <= NAMED else None
        dash, grey = _DASHES[index % len(_DASHES)], f"{min(0.15 * index, 0.6):.2f}"
        axes.plot(one.xs, one.ys, linestyle=dash, color=grey, marker=mark, markersize=4, label=_literal(one.name))
    for index, (level, name) in enumerate(levels):
        axes.axhline(level, color="0.5", linewidth=0.8, linestyle=_DASHES[index + 1], label=name)
    for axis, label in ((axes.xaxis, labels[0]), (axes.yaxis, labels[1])):
        axis.set_label_text(_literal(label))
        if "weights" in label or "norm" in label:
            axis.set_major_formatter(_percent())
    axes.grid(color="0.9")
    if any(one.name for one in series):
        axes.legend(fontsize="small")
    return _written(figure, suffix)


def _axes(title: str, *, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415 - optional; without pyplot, which looks for a display

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(_literal(title), fontsize="medium", loc="left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _written(figure: Any, suffix: str) -> bytes:  # noqa: ANN401 - matplotlib's
    """Return the file; it has no date, so that the same values give the same bytes."""
    import matplotlib as mpl  # noqa: PLC0415

    kind = suffix.lower().removeprefix(".")
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    data = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "prunecli", "svg.fonttype": "none", "pdf.fonttype": 42}):
        figure.savefig(data, format=kind, dpi=_DPI, metadata=metadata)
    return data.getvalue()


def _percent() -> Any:  # noqa: ANN401 - matplotlib's
    from matplotlib.ticker import PercentFormatter  # noqa: PLC0415

    return PercentFormatter(xmax=1, decimals=None)


def _literal(text: str) -> str:
    """Return a text in which matplotlib finds no formula and a font has every character."""
    plain = printable(text).encode("ascii", "backslashreplace").decode("ascii")
    hidden = f"\u200b{plain}" if plain.startswith("_") else plain  # a legend leaves out names that begin so
    return hidden.replace("$", r"\$")
