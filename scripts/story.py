#!/usr/bin/env python3
"""Prune and fine-tune a small network in turns until its accuracy drops.

    python scripts/story.py --margin 1%

The script starts from `demo/digits_conv.pth`, or with `--train` from a new network. Each round prunes the checkpoint
file further along a cubic schedule, then trains the remaining weights. The rounds end when the accuracy after training
is below that of the dense network by more than the margin. The script prints a table and writes the checkpoints and a
plot. It needs torch and scikit-learn, and half a minute on one CPU core.

The test images evaluate every round, so they also choose the result. To report a number, use a third set of images.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import torch
from accuracy import load_state_dict, load_test_set, predict, sparsity
from torch.optim import SGD
from train_demo import DEMO, Digits, DigitsConv, load_split, train, train_conv

from prunecli.api import prune
from prunecli.report.figures import Axis
from prunecli.report.svg import add_line, add_point, add_text, picture
from prunecli.strategies.unstructured import Global
from prunecli.training.keep_sparse import keep_sparse
from prunecli.training.masks import mask_from_checkpoint


@dataclass(frozen=True)
class Round:
    """One round: sparsity and accuracies as fractions (0-1); `alone` is the accuracy without training."""

    number: int
    zeros: float
    pruned: float
    tuned: float
    alone: float


def cubic(t: int, rounds: int, final: float) -> float:
    """Return the sparsity (0-1) to reach in round `t` of `rounds`: it rises fast at first, then more slowly.

    Zhu and Gupta, "To prune, or not to prune", 2017, https://arxiv.org/abs/1710.01878, equation 1, from 0 to `final`.
    """
    return final - final * (1 - t / rounds) ** 3


def score(path: Path) -> float:
    """Return the accuracy (0-1) of the checkpoint at `path` on the test images."""
    images, labels = load_test_set()
    return float((predict(load_state_dict(path), images) == labels).mean())


def prune_to(amount: float, source: Path, output: Path) -> Path:
    """Write the checkpoint `source` to `output` with `amount` (0-1) of all weights zero, the smallest first."""
    prune(source, Global(amount=amount), output=output, reports=(), force=True)
    return output


def fine_tune(source: Path, output: Path, digits: Digits, args: argparse.Namespace) -> Path:
    """Train the non-zero weights of `source` and write the checkpoint to `output`."""
    checkpoint: dict[str, Any] = torch.load(source, weights_only=True)
    model = DigitsConv()
    model.load_state_dict(checkpoint["state_dict"])
    optimizer = SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=1e-3)
    with keep_sparse(model, optimizer, mask_from_checkpoint(source)):
        train(model, optimizer, digits, args)
    torch.save({**checkpoint, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}, output)
    return output


def play(dense: Path, digits: Digits, args: argparse.Namespace) -> list[Round]:
    """Prune and train in turns, print a line per round, and return the rounds; the last one may exceed the margin."""
    wanted = score(dense) - args.margin
    rounds = [Round(0, sparsity(load_state_dict(dense)), score(dense), score(dense), score(dense))]
    current = dense
    print(line("round", "zeros", "pruned", "trained", "no training"), describe(rounds[0]), sep="\n")
    for number in range(1, args.rounds + 1):
        amount = cubic(number, args.rounds, args.final)
        pruned = prune_to(amount, current, args.out / f"round{number}-pruned.pth")
        current = fine_tune(pruned, args.out / f"round{number}.pth", digits, args)
        alone = prune_to(amount, dense, args.out / "alone.pth")
        zeros = sparsity(load_state_dict(current))
        rounds.append(Round(number, zeros, score(pruned), score(current), score(alone)))
        print(describe(rounds[-1]), flush=True)
        if rounds[-1].tuned < wanted:
            break
    (args.out / "alone.pth").unlink()
    return rounds


def line(*cells: str) -> str:
    """Return a line of the table."""
    return "".join(f"{cell:>13}" for cell in cells)


def describe(this: Round) -> str:
    """Return the line of a round."""
    return line(str(this.number), *(f"{value:.1%}" for value in (this.zeros, this.pruned, this.tuned, this.alone)))


def verdict(rounds: list[Round], args: argparse.Namespace) -> str:
    """Print the best round and its file."""
    wanted = rounds[0].tuned - args.margin
    best = next(r for r in reversed(rounds) if r.tuned >= wanted)
    end = "" if rounds[-1].tuned < wanted else "; the schedule ended before the accuracy did"
    path = near(args.out / f"round{best.number}.pth") if best.number else "the dense network"
    return (
        f"{best.zeros:.1%} of the weights can go: {best.tuned:.1%} of the test digits are right, "
        f"and {rounds[0].tuned:.1%} were{end}\nbest  {path}"
    )


def near(path: Path) -> Path:
    """Return `path` relative to the current folder, if it is below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


# --- the plot

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 432, 64, 150, 62, 56
SERIES = (
    ("alone", "never trained", "#8a8a8a"),
    ("pruned", "just pruned", "#c2571a"),
    ("tuned", "pruned, trained", "#2a78d6"),
)
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #333; } .title { font-size: 16px; font-weight: 600; }
.grid { stroke: #ddd; } .margin { stroke: #333; stroke-dasharray: 4 4; } path { fill: none; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  svg { background: #16181c; } text { fill: #ddd; } .grid { stroke: #3a3d44; } .margin { stroke: #ddd; }
}
""" + "".join(f"circle.{f}, text.{f} {{ fill: {c}; }} path.{f} {{ stroke: {c}; }}\n" for f, _, c in SERIES)


def draw(rounds: list[Round], margin: float) -> str:
    """Return an SVG plot of the accuracy over the remaining weights, on a log scale that falls to the right."""
    least = max(min(1 - r.zeros for r in rounds), 1e-4)  # a log scale has no zero
    floor = math.floor(min(min(r.tuned, r.pruned, r.alone) for r in rounds) * 10) / 10
    x = Axis(0, min(math.log10(least), -0.1), LEFT, WIDTH - RIGHT)
    y = Axis(min(floor, 0.9), 1, HEIGHT - BOTTOM, TOP)

    svg = picture((WIDTH, HEIGHT), "Accuracy against the remaining weights", STYLE)
    add_text(svg, (LEFT, 24), "How many weights can a network that reads digits lose?", style="title")
    add_text(svg, (LEFT, 42), f"accuracy on the test digits; dashed: {margin:.1%} below the dense network")
    for tick in y.ticks((step / 10 for step in range(math.floor(floor * 10), 11)), lambda v: f"{round(v * 100)} %"):
        add_line(svg, (x.start, tick.at), (x.end, tick.at), style="grid")
        add_text(svg, (LEFT - 8, tick.at + 4), tick.text, anchor="end")
    marks = (1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
    for tick in x.ticks((math.log10(m) for m in marks if m >= least * 0.999), lambda v: f"{10**v * 100:.3g} %"):
        add_text(svg, (tick.at, HEIGHT - BOTTOM + 22), tick.text, anchor="middle")
    add_text(svg, ((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12), "remaining weights", anchor="middle")
    wanted = y(rounds[0].tuned - margin)
    add_line(svg, (x.start, wanted), (x.end, wanted), style="margin")
    ends = spread([y(getattr(rounds[-1], field)) for field, _, _ in SERIES])
    for (field, label, _), end in zip(SERIES, ends, strict=True):
        points = [(x(math.log10(max(1 - r.zeros, least))), y(getattr(r, field))) for r in rounds]
        ET.SubElement(svg, "path", {"class": field, "d": "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)})
        for point in points:
            add_point(svg, point, "3.5", style=field)
        add_text(svg, (WIDTH - RIGHT + 12, end + 4), label, style=field)
    return ET.tostring(svg, encoding="unicode") + "\n"


def spread(heights: list[float], gap: float = 18) -> list[float]:
    """Move labels down until they do not overlap; they keep their order."""
    found = list(heights)
    order = sorted(range(len(found)), key=found.__getitem__)
    for above, below in pairwise(order):
        found[below] = max(found[below], found[above] + gap)
    return found


# --- the command line


def fraction(text: str) -> float:
    """Parse 0.01 or 1%."""
    value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a fraction from 0 to 1, nor a percentage below 100%")
    return value


def count(text: str) -> int:
    """Parse a whole number of 1 or more."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--margin", type=fraction, default=0.01, help="accuracy that may be lost (default 1%%)")
    parser.add_argument("--final", type=fraction, default=0.995, help="sparsity after the last round (default 99.5%%)")
    parser.add_argument("--rounds", type=count, default=12, help="rounds of the schedule (default 12)")
    parser.add_argument("--epochs", type=count, default=6, help="epochs of training per round (default 6)")
    parser.add_argument("--lr", type=float, default=0.03, help="learning rate at the start of a round (default 0.03)")
    parser.add_argument("--train", action="store_true", help="train the dense network first")
    parser.add_argument(
        "--out", type=Path, default=DEMO / "out" / "story", help="the folder for the results (default demo/out/story)"
    )
    parser.set_defaults(seed=0, batch_size=32)
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run all rounds and write the table, the checkpoints and the plot."""
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    try:
        digits, dense = load_split(), DEMO / "digits_conv.pth"
    except ImportError:
        print("story: the images to train on come from scikit-learn: pip install scikit-learn", file=sys.stderr)
        return 2
    if args.train:
        dense = args.out / "dense.pth"
        torch.save(train_conv(digits, argparse.Namespace(seed=0, epochs=40, batch_size=32, lr=0.05))[1], dense)
    rounds = play(dense, digits, args)
    plot = args.out / "story.svg"
    plot.write_text(draw(rounds, args.margin), encoding="utf-8")
    print(f"\n{verdict(rounds, args)}\nplot  {near(plot)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
