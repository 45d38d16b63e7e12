#!/usr/bin/env python
"""Draw the pictures of the README: a report in a browser, the curve of a search, and the chart of docs/benchmark.json.

python scripts/pictures.py                  # all; the report needs Chromium and Pillow
python scripts/pictures.py --chart          # the chart only
python scripts/pictures.py --measure DIR    # measure on the disk of DIR first, about 3 minutes; needs torch
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from prunecli.report.figures import Axis
from prunecli.report.svg import add_line, add_text, picture

ROOT = Path(__file__).resolve().parents[1]
NUMBERS, CHART, SEARCH = (ROOT / "docs" / name for name in ("benchmark.json", "benchmark.svg", "search.svg"))

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = (1180, 888)
"""The part of the report that is drawn, in pixels of the page."""

COLOURS = 96
"""The colours of a picture, so that it is small."""

GIGABYTES = 0.5
"""The size of the file by default: torch's global_unstructured takes 12 times as much memory."""

BARS = {
    "cp && sync": ("copy the file: cp && sync", "copy"),
    "threshold": ("prune threshold", "ours"),
    "load, mask, save": ("torch: load, mask, save", "theirs"),
    "global": ("prune global", "ours"),
    "global_unstructured": ("torch: global_unstructured", "theirs"),
}
"""The commands of the chart: their labels and their kinds."""

STYLE = """
svg { font-family: system-ui, sans-serif; font-size: 14px; }
.ground { fill: #ffffff; }
text { fill: #1c2024; }
.soft { fill: #60646c; font-size: 12px; }
.title { font-size: 16px; font-weight: 600; }
.ours { fill: #1c2024; stroke: #1c2024; }
.copy { fill: #ffffff; stroke: #1c2024; }
.theirs { fill: #c9ccd1; stroke: #1c2024; }
.grid { stroke: #d9dbe0; }
@media (prefers-color-scheme: dark) {
  .ground, .copy { fill: #0d1117; }
  text { fill: #edeef0; }
  .soft { fill: #b0b4ba; }
  .ours { fill: #edeef0; stroke: #edeef0; }
  .copy, .theirs { stroke: #edeef0; }
  .theirs { fill: #5a6068; }
  .grid { stroke: #363a3f; }
}
"""
"""Plain colours first: only browsers know media queries."""


def main() -> None:
    """Draw what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chart", action="store_true", help="draw the chart only")
    parser.add_argument("--measure", type=Path, metavar="DIR", help="measure in this folder first, and draw the chart")
    parser.add_argument("--gb", type=float, default=GIGABYTES, help="the size of the file that is measured")
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.gb)
    CHART.write_text(chart(json.loads(NUMBERS.read_text(encoding="utf-8"))), encoding="utf-8")
    if not options.chart and not options.measure:
        draw_report()
        draw_search()


def measure(folder: Path, gigabytes: float) -> None:
    """Run the benchmark and store its numbers."""
    strategies = [name for name, (_, kind) in BARS.items() if kind == "ours"]
    rivals = [name for name, (_, kind) in BARS.items() if kind == "theirs"]
    bench = [sys.executable, str(ROOT / "scripts" / "bench.py"), "--dir", str(folder), "--gb", str(gigabytes)]
    chosen = ["--only", "fp32", "--strategy", *strategies, "--rivals", *rivals, "--json", str(NUMBERS)]
    subprocess.run([*bench, *chosen], check=True)
    numbers = {"gigabytes": gigabytes, **json.loads(NUMBERS.read_text(encoding="utf-8"))}
    NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


# --- the chart


def chart(numbers: dict[str, Any]) -> str:
    """Return the chart of the numbers of scripts/bench.py as SVG."""
    runs = numbers["cases"]["fp32"]
    seconds = {name: median(run["seconds"] for run in runs[name]) for name in BARS}
    x = Axis(0, max(seconds.values()), 220, 560)
    height = 96 + 30 * len(BARS)
    title = f"Seconds to prune a file of {numbers['gigabytes']:g} GB of fp32 weights"
    root = picture((720, height), title, STYLE)
    SubElement(root, "rect", {"class": "ground", "width": "100%", "height": "100%"})
    add_text(root, (16, 28), title, style="title")
    add_text(root, (16, 48), _machine(numbers), style="soft")
    add_line(root, (x.start, 62), (x.start, height - 34), style="grid")
    for index, (name, (label, kind)) in enumerate(BARS.items()):
        _bar(root, 68 + 30 * index, label, x, (seconds[name], _peak(runs[name])), kind)
    add_text(root, (16, height - 12), "In brackets: the peak memory of the process.", style="soft")
    return tostring(root, encoding="unicode") + "\n"


def _bar(root: Element, top: float, label: str, x: Axis, values: tuple[float, float], kind: str) -> None:
    seconds, peak = values
    memory = f"{peak:,.0f} MB" if peak < 1000 else f"{peak / 1000:.1f} GB"
    add_text(root, (x.start - 10, top + 16), label, anchor="end")
    place = {"x": f"{x.start}", "y": f"{top}", "width": f"{x(seconds) - x.start:.1f}", "height": "22"}
    SubElement(root, "rect", {"class": kind, **place})
    add_text(root, (x(seconds) + 8, top + 16), f"{seconds:.1f} s ({memory})")


def _peak(runs: list[dict[str, float]]) -> float:
    return median(run["peak_mb"] for run in runs)


def _machine(numbers: dict[str, Any]) -> str:
    machine = numbers["machine"]
    memory = f", {machine['memory_gb']:.0f} GB of memory" if "memory_gb" in machine else ""
    rounds = len(next(iter(numbers["cases"]["fp32"].values())))
    return (
        f"{machine['cpus']} CPUs{memory}; the file is in the page cache; median of {rounds} runs, flushed to the disk"
    )


# --- the report


def draw_report() -> None:
    """Draw the top of a real report, in light and in dark colours, as PNG files of few colours."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit("the picture of a report needs Chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copy(ROOT / "demo" / "digits_conv.safetensors", folder)
        prune = [sys.executable, "-m", "prunecli", "global", "digits_conv.safetensors", "--amount", "80%", "-q"]
        subprocess.run([*prune, "--report", "report.html"], cwd=folder, check=True)
        for theme, settings in {"light": [], "dark": ["--blink-settings=preferredColorScheme=0"]}.items():
            _draw_page(browser, folder, settings, ROOT / "docs" / f"report-{theme}.png")


def _draw_page(browser: str, folder: Path, settings: list[str], target: Path) -> None:
    from PIL import Image  # noqa: PLC0415 - it comes with matplotlib, and the chart does without

    shot = folder / "shot.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1.5"]
    flags += [f"--window-size={SIZE[0]},{SIZE[1]}", f"--user-data-dir={folder / 'profile'}", *settings]
    command = [browser, *flags, f"--screenshot={shot}", (folder / "report.html").as_uri()]
    subprocess.run(command, check=True, capture_output=True)
    Image.open(shot).convert("RGB").quantize(COLOURS).save(target, optimize=True)


# --- the search


def draw_search() -> None:
    """Draw the curve of the search that the README shows."""
    with tempfile.TemporaryDirectory() as place:
        for folder in ("demo", "scripts"):
            shutil.copytree(ROOT / folder, Path(place) / folder, ignore=shutil.ignore_patterns("out"))
        prune = [sys.executable, "-m", "prunecli", "search", "demo/digits_conv.pth", "--max-drop", "0.01", "-n"]
        evaluate = ["--eval", f"{sys.executable} scripts/accuracy.py {{}}", "--figure", str(SEARCH), "--force"]
        subprocess.run([*prune, *evaluate, "global"], cwd=place, check=True, capture_output=True)


if __name__ == "__main__":
    main()
