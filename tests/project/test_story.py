"""The story script: prune, fine-tune, prune again, until the accuracy drops."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import load_script

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch", reason="torch is not installed; the demo's models are torch's")

accuracy = load_script("accuracy")
load_script("train_demo")
story = load_script("story")


@pytest.fixture
def one_thread() -> Any:  # noqa: ANN401 - a generator
    """Restore the number of torch's threads, which the story sets."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_the_story_ends_where_the_accuracy_drops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table has a line per round, the files have the sparsity in it, and the plot is an SVG."""
    pytest.importorskip("sklearn", reason="scikit-learn, where the images to train on come from, is not installed")

    code = story.main(["--rounds", "3", "--epochs", "1", "--final", "99.9%", "--margin", "5%", "--out", str(tmp_path)])

    out = capsys.readouterr().out.splitlines()
    rows = [row.split() for row in out[1 : out.index("")]]
    assert code == 0
    assert [row[0] for row in rows] == [str(number) for number in range(len(rows))]
    for number, zeros, _, trained, _ in rows[1:]:
        weights = accuracy.load_state_dict(tmp_path / f"round{number}.pth")
        assert f"{accuracy.sparsity(weights):.1%}" == zeros
        assert f"{story.cubic(int(number), 3, 0.999):.1%}" == zeros
        assert f"{story.score(tmp_path / f'round{number}.pth'):.1%}" == trained
    assert float(rows[-1][3].rstrip("%")) < 93.5
    assert all(float(row[3].rstrip("%")) >= 93.4 for row in rows[:-1])
    assert out[-2] == f"best  {tmp_path / f'round{len(rows) - 2}.pth'}"
    assert ET.parse(tmp_path / "story.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - our own
    assert not (tmp_path / "alone.pth").exists()


@given(st.integers(1, 50), st.floats(0, 0.999))
def test_the_schedule_is_that_of_zhu_and_gupta(rounds: int, final: float) -> None:
    """The schedule rises from 0 to the final sparsity, ever more slowly, and follows their formula."""
    steps = [story.cubic(t, rounds, final) for t in range(rounds + 1)]

    assert steps[0] == 0
    assert steps[-1] == final
    rises = [b - a for a, b in pairwise(steps)]
    assert all(first >= second - 1e-12 for first, second in pairwise(rises))
    start, n, t = 0.0, rounds, rounds // 2
    assert steps[t] == pytest.approx(final + (start - final) * (1 - t / n) ** 3)


@given(st.lists(st.floats(0, 400), min_size=1, max_size=6))
def test_labels_do_not_cover_each_other(heights: list[float]) -> None:
    """Labels keep their order, move down only, and are at least a line apart."""
    found = story.spread(heights)

    assert all(after >= before for before, after in zip(heights, found, strict=True))
    ordered = sorted(found)
    assert all(b - a >= 18 - 1e-9 for a, b in pairwise(ordered))


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=11), st.floats(0, 0.5))
def test_the_plot_has_a_point_per_round_and_series(scores: list[tuple[float, float, float]], margin: float) -> None:
    """For any accuracies the plot is well-formed, and all points are inside its frame."""
    rounds = [story.Round(i, i / 10, *found) for i, found in enumerate(scores)]

    svg = ET.fromstring(story.draw(rounds, margin))  # noqa: S314 - our own

    circles = svg.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 3 * len(rounds)
    assert all(0 <= float(c.get("cx", -1)) <= story.WIDTH for c in circles)
    assert all(0 <= float(c.get("cy", -1)) <= story.HEIGHT for c in circles)


@pytest.mark.parametrize("args", [["--margin", "1"], ["--margin", "x"], ["--final", "100%"], ["--rounds", "0"]])
def test_wrong_options_are_reported_before_any_work(args: list[str], tmp_path: Path) -> None:
    """A usage error ends with exit code 2 and makes no directory."""
    with pytest.raises(SystemExit) as caught:
        story.main([*args, "--out", str(tmp_path / "out")])

    assert caught.value.code == 2
    assert not (tmp_path / "out").exists()


def test_without_scikit_learn_there_is_one_error_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)

    assert story.main(["--out", str(tmp_path)]) == 2
    assert "pip install scikit-learn" in capsys.readouterr().err
