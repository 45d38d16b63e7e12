"""The plot of a sweep as SVG."""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from prunecli.report.figures import ticks_between
from prunecli.tuning.plot import Mark, plot

SVG = "{http://www.w3.org/2000/svg}"
FLOATS = st.floats(-1e12, 1e12).filter(lambda x: not 0 < abs(x) < 1e-12)


@given(FLOATS, FLOATS)
def test_ticks_enclose_what_is_drawn(a: float, b: float) -> None:
    """The ticks are few, ascend, and reach from below the smallest to above the largest value."""
    low, high = min(a, b), max(a, b)

    ticks = ticks_between(low, high)

    slack = 1e-6 * (ticks[-1] - ticks[0])
    assert ticks[0] - slack <= low <= high <= ticks[-1] + slack
    assert 2 <= len(ticks) <= 9
    assert ticks == sorted(set(ticks))


@given(st.text(), st.lists(st.tuples(st.floats(0, 1), FLOATS | st.just(math.nan), st.text()), max_size=6), FLOATS)
def test_a_plot_is_xml_whatever_is_in_it(title: str, marks: list[tuple[float, float, str]], level: float) -> None:
    """Any title and note give a well-formed file with a point for each finite value, inside the picture."""
    text = plot(title, [Mark(*m) for m in marks], x_label="<x>", y_label="&", levels=[(level, "]]>")])

    root = ET.fromstring(text)  # noqa: S314 - our own
    points = root.findall(f"{SVG}circle")
    assert len(points) == sum(math.isfinite(y) for _, y, _ in marks)
    assert all(0 <= float(p.attrib["cy"]) <= 420 and 0 <= float(p.attrib["cx"]) <= 720 for p in points)
    assert not root.findall(f"{SVG}script")
