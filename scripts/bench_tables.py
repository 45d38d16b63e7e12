"""The tables of the benchmark: medians next to the goals, and how time changes with the number of threads."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from bench_commands import COPY, GOALS, MANY_TENSORS, READERS, SMALL_SECONDS, TIMES_FASTER, TWICE, Goal, with_threads

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Run:
    """One process: wall-clock, user and system seconds, peak memory in MB, and its exit code."""

    seconds: float
    user: float
    system: float
    peak_mb: float
    code: int = 0

    @property
    def cpu(self) -> float:
        """The CPU seconds."""
        return self.user + self.system


Results = dict[str, list[Run]]
"""The runs of each command, one per round."""


def show(name: str, size: int, results: Results, *, goals: bool) -> None:
    """Print one case as a table of medians; with `goals` a number that misses its goal has a star."""
    copies = results[COPY]
    print(f"\n{name}: {size / 1e6:,.0f} MB, `{COPY}` {median(r.seconds for r in copies):.2f} s")
    print(f"  {'':26} {'x cp':>6} {'(min':>6} {'max)':>6} {'goal':>5} {'seconds':>8}", end="")
    print(f" {'user s':>7} {'sys s':>7} {'CPU/GB':>7} {'goal':>5} {'peak MB':>8} {'goal':>5}")
    for command, runs in results.items():
        if ended := next((run.code for run in runs if run.code), 0):
            peak = max(run.peak_mb for run in runs)
            why = f"killed by signal {-ended}" if ended < 0 else f"exit {ended}"
            print(f"  {command:26} failed: {why}, with {peak:.0f} MB", flush=True)
        else:
            print(_line(command, runs, copies, size, goal_of(name, command) if goals else None), flush=True)


def goal_of(case: str, command: str) -> Goal | None:
    """Return the goal of a command with one number of threads, if it has one for this case."""
    goal = GOALS.get(command)
    if goal is None or case in SMALL_SECONDS:
        return None
    return goal.with_checksums() if "pth" in case else goal


def _line(command: str, runs: Sequence[Run], copies: Sequence[Run], size: int, goal: Goal | None) -> str:
    ratios = [run.seconds / copy.seconds for run, copy in zip(runs, copies, strict=True)]
    cpu, peak = median(r.cpu for r in runs) / size * 1e9, max(r.peak_mb for r in runs)
    ratio, load, memory = (None, None, None) if goal is None else (goal.ratio, goal.cpu, goal.peak)
    return (
        f"  {command:26} {median(ratios):6.2f} {min(ratios):6.2f} {max(ratios):6.2f} {_beside(median(ratios), ratio)} "
        f"{median(r.seconds for r in runs):8.2f} {median(r.user for r in runs):7.2f} "
        f"{median(r.system for r in runs):7.2f} {cpu:7.2f} {_beside(cpu, load)} {peak:8.0f} {_beside(peak, memory)}"
    )


def _beside(number: float, goal: float | None) -> str:
    """Return the goal in 5 columns, with a star if `number` is above it."""
    return f"{'' if goal is None else f'{goal:g}' + ('*' if number > goal else ' '):>5}"


def show_scaling(results: Results, size: int, names: Sequence[str], threads: Sequence[int]) -> None:
    """Print the least seconds of each command for each number of threads, their ratio to the first, and CPU per GB."""
    print(f"  {'seconds (next to the first)':26}" + "".join(f"{f'{number} threads':>24}" for number in threads))
    for name in names:
        if name in READERS:
            continue
        runs = [results[with_threads(name, number, threads)] for number in threads]
        least = [min(run.seconds for run in of) for of in runs]
        cpu = [min(run.cpu for run in of) / size * 1e9 for of in runs]
        cells = [f"{f'{s:.2f} ({s / least[0]:.2f}) {c:.2f}/GB':>24}" for s, c in zip(least, cpu, strict=True)]
        print(f"  {name:26}" + "".join(cells), flush=True)


def show_comparisons(cases: Mapping[str, Results]) -> None:
    """Print what is compared between commands and between cases, with the goals."""
    for case, results in cases.items():
        for rival, (ours, goal) in TIMES_FASTER.items():
            if ours in results and rival in results and not any(run.code for run in results[rival]):
                times = _seconds(results, rival) / _seconds(results, ours)
                print(f"{case}: {ours} is {times:.1f} times as fast as {rival!r} (goal: {goal} on 2 GB)")
        for command in (name for name in READERS if name in results):
            times = _seconds(results, command) / _seconds(results, TWICE)
            print(f"{case}: {command} takes {times:.2f} times as long as reading the file twice (goal: 1)")
        for command in GOALS if case in SMALL_SECONDS else ():
            if command in results:
                wall, cpu = _seconds(results, command), median(run.cpu for run in results[command])
                print(f"{case}: {command} takes {wall:.3f} s, {cpu:.3f} CPU s (goal: {SMALL_SECONDS[case]} s)")
    for command in GOALS if {"small", "fp32"} <= cases.keys() else ():
        if command in cases["fp32"]:
            wall, cpu = (_least(cases["small"][command], of) / _least(cases["fp32"][command], of) for of in FIELDS)
            more = (_least(cases["small"][command], "cpu") - _least(cases["fp32"][command], "cpu")) * 1e6 / 10_000
            print(
                f"10,000 tensors: {command} takes {wall:.2f} x the time, {cpu:.2f} x the CPU (goal: {MANY_TENSORS}), "
                f"{more:.0f} us of CPU for each tensor"
            )


FIELDS = ("seconds", "cpu")


def _seconds(results: Results, command: str) -> float:
    return median(run.seconds for run in results[command])


def _least(runs: Sequence[Run], field: str) -> float:
    return min(float(getattr(run, field)) for run in runs)
