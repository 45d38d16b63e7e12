"""Where the time of one row of `bench_device.py` goes: synchronizations, copies to the host, kernels, and Python."""

from __future__ import annotations

import cProfile
import io
import json
import pstats
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 25
"""The lines of each list."""


def trace(device: str, prepare: Callable[[], None], work: Callable[[], object]) -> None:
    """Run `work` a few times, each after `prepare`, and print what it does."""
    on_cuda = device.startswith("cuda")
    if on_cuda:
        prepare()
        count_synchronizations(work)
    prepare()
    profile_kernels(work, on_cuda=on_cuda)
    prepare()
    profile_python(work)


def count_synchronizations(work: Callable[[], object]) -> None:
    """Print how often the host waits for the device, by place."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = Counter(f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message))
    print(f"\nsynchronizations: {sum(places.values())}")
    for place, count in places.most_common(MOST):
        print(f"  {count:7,}  {place}")


def profile_kernels(work: Callable[[], object], *, on_cuda: bool) -> None:
    """Print the kernels and copies that take the most time on the device, and the bytes of the copies."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if on_cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        work()
        if on_cuda:
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    device = ("kernel", "gpu_memcpy", "gpu_memset")
    show_events([e for e in events if e.get("cat") in device], "on the device")
    show_events([e for e in events if e.get("cat") == "cpu_op"], "operations of torch (with those inside)")


def show_events(events: list[dict[str, Any]], title: str) -> None:
    """Print events by name: milliseconds, number, bytes."""
    spent: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    for event in events:
        name = str(event["name"])[:110]
        spent[name] += event.get("dur", 0)
        numbers[name] += 1
        moved[name] += int(event.get("args", {}).get("bytes", 0))
    print(f"\n{title}: {sum(spent.values()) / 1e3:.2f} ms, {len(events):,} in all")
    for name, microseconds in spent.most_common(MOST):
        size = f"{moved[name]:,} bytes" if moved[name] else ""
        print(f"  {microseconds / 1e3:9.3f} ms {numbers[name]:7,}  {name}  {size}")


def profile_python(work: Callable[[], object]) -> None:
    """Print the functions of the calling thread that take the most time."""
    profiler = cProfile.Profile()
    profiler.runcall(work)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(MOST)
    print("\nPython, calling thread:")
    print("\n".join(line for line in text.getvalue().splitlines() if line.strip()))
