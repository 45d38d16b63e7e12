"""`prune sweep`: the table, the plot and the files that a ladder of amounts ends in."""

from __future__ import annotations

import csv
import json
import math
from decimal import Decimal
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tuning.test_search import DENSITY, ckpt, counted, counting, names, registered  # noqa: F401 - ckpt is a fixture

from prunecli.cli import main as cli
from prunecli.cli import sweep as cmd_sweep
from prunecli.tuning.plot import Mark, plot, ticks_between
from prunecli.tuning.sweep import bars, parse_ladder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    yield from registered("sweep", cmd_sweep.sweep)


def run(*args: str | Path) -> int:
    """Run `prune sweep` in this process."""
    return cli.main(["sweep", *map(str, args)])


def test_the_table_holds_what_was_measured(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """Each amount, in order and once, has its sparsity, its metric and the change, in the table, CSV and JSON alike."""
    args = (ckpt, "--eval", DENSITY, "global", "--at", "50%,0.25,0.5")

    assert run(*args, "--csv", ckpt.with_name("t.csv"), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    rows = list(csv.DictReader(ckpt.with_name("t.csv").read_text().splitlines()))
    assert run(*args) == 0
    table = [line.split()[:4] for line in capsys.readouterr().out.splitlines()[1:4]]

    assert table == [["-", "0.0%", "1", "-"], ["0.25", "25.0%", "0.75", "-0.25"], ["0.5", "50.0%", "0.5", "-0.5"]]
    assert [(p["amount"], p["zeros"], p["metric"], p["change"]) for p in document["points"]] == [
        (0.25, 250, 0.75, -0.25),
        (0.5, 500, 0.5, -0.5),
    ]
    assert [(r["amount"], r["zeros"], r["metric"], r["change"]) for r in rows] == [
        ("", "0", "1.0", ""),
        ("0.25", "250", "0.75", "-0.25"),
        ("0.5", "500", "0.5", "-0.5"),
    ]


def test_nothing_but_numbers_is_kept(ckpt: Path) -> None:  # noqa: F811
    """The checkpoint stays as it is, and beside it there are only what was asked for and the trials."""
    before = ckpt.read_bytes()

    assert run(ckpt, "--eval", DENSITY, "l1", "--at", "0.5", "-q", "--svg", ckpt.with_name("p.svg")) == 0

    assert before == ckpt.read_bytes()
    assert names(ckpt.parent) == {"c.safetensors", "c.pruned.search.json", "p.svg"}


def test_a_sweep_and_a_search_share_their_trials(ckpt: Path) -> None:  # noqa: F811
    """What was evaluated once is not evaluated again, whoever asks; the command sees the pruned weights."""
    command = counting(ckpt.parent)

    assert run(ckpt, "--eval", command, "global", "--at", "0.5,0.9", "-q") == 0
    assert counted(ckpt.parent) == 3
    assert run(ckpt, "--eval", command, "global", "--at", "0.1,0.5,0.9", "-q") == 0
    assert counted(ckpt.parent) == 1
    assert np.count_nonzero(load_file(ckpt)["fc.weight"]) == 1000


@pytest.mark.parametrize("metric", ["float('nan')", "float('-inf')"])
def test_a_metric_that_is_no_number_has_a_row(ckpt: Path, capsys: pytest.CaptureFixture[str], metric: str) -> None:  # noqa: F811
    """Where the model breaks, the table and the JSON say so, and the plot has a gap."""
    svg = ckpt.with_name("p.svg")
    broken = DENSITY.replace("print(", f"print({metric} if (w == 0).any() else ")

    assert run(ckpt, "--eval", broken, "global", "--at", "0.5", "--json", "--svg", svg) == 0

    (point,) = json.loads(capsys.readouterr().out)["points"]
    assert isinstance(point["metric"], str)
    assert point["change"] is None
    assert len(ET.parse(svg).findall(f"{SVG}circle")) == 1  # noqa: S314 - our own


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("CKPT --eval EVAL global --at 0.5,x", "--at takes amounts with commas between, not 'x'"),
        ("CKPT --eval EVAL global --at ,", "--at takes amounts with commas between, not ''"),
        ("CKPT --eval EVAL global --at 50", "an amount is 0 to 1 (or 0% to 100%), not 50"),
        ("CKPT --eval EVAL global --at nan", "an amount is 0 to 1 (or 0% to 100%), not nan"),
        ("CKPT --eval EVAL global --csv CKPT", "this run needs"),
        ("CKPT --eval EVAL global --csv FOLDER/a --svg FOLDER/a", "would overwrite"),
        ("CKPT --eval EVAL global --svg no/such/p.svg", "there is no directory"),
        ("CKPT --eval EVAL threshold", "threshold has no amount that could be varied"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_evaluated(
    ckpt: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    args: str,
    message: str,
) -> None:
    """Each mistake is one error line, exit code 2, and the command has not been run."""
    known = {"CKPT": str(ckpt), "EVAL": counting(ckpt.parent)}

    words = [known.get(word, word.replace("FOLDER", str(ckpt.parent))) for word in args.split()]

    assert run(*words) == 2
    assert message in capsys.readouterr().err
    assert counted(ckpt.parent) == 0
    assert names(ckpt.parent) == {"c.safetensors"}


def test_existing_files_are_kept(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """--csv and --svg refuse a file that is there, unless --force."""
    old = ckpt.with_name("t.csv")
    old.write_text("mine")

    assert run(ckpt, "--eval", DENSITY, "global", "--at", "0.5", "--csv", old) == 2
    assert old.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert run(ckpt, "--eval", DENSITY, "global", "--at", "0.5", "--csv", old, "-f") == 0
    assert old.read_text().startswith("amount,")


# --- ladders, bars and plots


@given(st.lists(st.integers(0, 1000), min_size=1))
def test_a_ladder_is_ascending_and_each_once(thousandths: list[int]) -> None:
    """Fractions and percentages of the same amount are one step."""
    texts = [f"{n / 1000}" for n in thousandths] + [f"{n / 10}%" for n in thousandths]

    assert parse_ladder(",".join(texts)) == tuple(sorted({n / 1000 for n in thousandths}))


@given(st.lists(st.decimals(allow_nan=True, min_value=-(10**9), max_value=10**9) | st.just(Decimal("NaN")), max_size=9))
def test_bars_rise_with_the_metric(metrics: list[Decimal]) -> None:
    """A larger metric never has the shorter bar, none is too wide, and NaN has none."""
    drawn = [len(bar) for bar in bars(metrics, 30)]

    assert len(drawn) == len(metrics)
    assert all(0 <= n <= 30 for n in drawn)
    pairs = sorted((float(m), n) for m, n in zip(metrics, drawn, strict=True) if m.is_finite())
    assert [n for _, n in pairs] == sorted(n for _, n in pairs)
    assert all(n == 0 for m, n in zip(metrics, drawn, strict=True) if m.is_nan())


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
    text = plot(title, [Mark(*m) for m in marks], x_label="<x>", y_label="&", level=level, level_label="]]>")

    root = ET.fromstring(text)  # noqa: S314 - our own
    points = root.findall(f"{SVG}circle")
    assert len(points) == sum(math.isfinite(y) for _, y, _ in marks)
    assert all(0 <= float(p.attrib["cy"]) <= 420 and 0 <= float(p.attrib["cx"]) <= 720 for p in points)
    assert not root.findall(f"{SVG}script")
