"""Measure pruning on a device: tensors that lie there, and files, next to what people write in torch.

    python scripts/bench_device.py                             # all sections on cuda, until four minutes are over
    python scripts/bench_device.py --only check                # all strategies and dtypes: the bytes of the CPU?
    python scripts/bench_device.py --only bf16 --case L1 TopK  # some rows
    python scripts/bench_device.py --trace bf16/L1             # where the time of one row goes
    python scripts/bench_device.py --device cpu --mb 4         # the same without a GPU, with small sizes

It needs torch, NumPy and this checkout; the compiled kernels are built if they are missing. Every line is printed as
soon as it is measured. A row that fails has its error, and the others go on. "floor" is the time in which the bytes
that a row must move are copied on the device; "extra" is the peak memory besides the model.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout, which need not be installed

import torch  # noqa: E402
from bench_device_checks import (  # noqa: E402
    RUNS,
    check_devices,
    check_zeros,
    computed_by_torch,
    release,
    short,
)
from bench_device_files import files  # noqa: E402
from bench_device_models import CASES, make_model, restore  # noqa: E402
from bench_device_trace import trace  # noqa: E402

import prunecli  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench_device_models import Case, Model

    from prunecli.strategies.strategy import Strategy

SECTIONS = ("zeros", "bf16", "small", "fp32", "files", "check")

HEAD = f"{'':26} {'':30} {'first s':>8} {'best s':>8} {'cpu s':>7} {'floor s':>8} {'x floor':>8} {'extra MB':>9}"

ENOUGH = 1.0
"""A row that has taken so many seconds is not repeated."""

FIRST = 6.0
"""A row whose first call, which compiles kernels, has taken so many seconds is not repeated."""

REPEATS = 4

JOBS = 8
"""The most processes that compare bytes and reports at the same time."""


def main() -> None:
    """Print the machine, then the sections that were asked for."""
    started, options = time.monotonic(), arguments()
    build_kernels()
    describe(options.device)
    if options.trace:
        trace_row(options)
        return
    sections: dict[str, Callable[[argparse.Namespace], None]] = {"check": checks, "zeros": zeros, "files": files}
    for section in options.only:
        left = options.seconds - (time.monotonic() - started)
        print(f"\n## {section} ({left:.0f} s left)", flush=True)
        if left <= 0:
            print("skipped: the time is used up")
            continue
        options.until = time.monotonic() + left
        try:
            sections.get(section, lambda options, section=section: live(options, section))(options)
        except Exception as error:  # noqa: BLE001 - the other sections go on
            print(f"{section} failed: {short(error)}", flush=True)
        release(options.device)
    print(f"\n{time.monotonic() - started:.0f} s in all")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="a device of torch, such as cuda:1, or cpu")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--case", nargs="+", help="the strategies: a part of the name, such as TopK")
    parser.add_argument("--mb", type=float, default=4096, help="megabytes of each large model")
    parser.add_argument("--side", type=int, default=8192, help="rows and columns of a large matrix")
    parser.add_argument("--tensors", type=int, default=3000, help="the number of small tensors")
    parser.add_argument("--file-mb", type=float, default=4096, help="megabytes of the file")
    parser.add_argument("--dir", type=Path, help="the folder of the file: by default a file system in memory")
    parser.add_argument("--seconds", type=float, default=225, help="no row starts after so many seconds")
    parser.add_argument("--no-rivals", action="store_true", help="leave out what people write in torch")
    parser.add_argument("--numpy", action="store_true", help="files: also without the compiled kernels")
    parser.add_argument("--part", nargs=2, type=int, metavar=("FIRST", "JOBS"), help="check: every JOBS-th comparison")
    parser.add_argument("--trace", metavar="SECTION/CASE", help="show where the time of one row goes: bf16/L1")
    options = parser.parse_args()
    if options.device == "cpu":  # small sizes, unless they are given
        given = " ".join(sys.argv[1:])
        for name, small in (("mb", 4.0), ("file_mb", 4.0), ("side", 512), ("tensors", 40)):
            if f"--{name.replace('_', '-')}" not in given.split():
                setattr(options, name, small)
    return options


def build_kernels() -> None:
    """Build the compiled kernels if they are missing, and say what computes on the CPU."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode or "no compiled kernels" in done.stderr:
        print(f"the compiled kernels were not built: {done.stderr.strip()[-300:]}")


def describe(device: str) -> None:
    """Print the machine and the versions."""
    from prunecli.kernels.backend import kernels_name  # noqa: PLC0415 - after the kernels are built

    python, cpus = platform.python_version(), len(os.sched_getaffinity(0))
    print(f"Python {python}, torch {torch.__version__}, {cpus} CPUs, kernels on the CPU: {kernels_name()}")
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        print(f"{properties.name}, {properties.total_memory / 1e9:.0f} GB")


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device != "cpu":
        torch.get_device_module(device).synchronize()


def checks(options: argparse.Namespace) -> None:
    """Compare the bytes and the reports of the device with those of the CPU."""
    if options.device == "cpu":
        let_torch_compute()
    elif options.part is None:
        check_in_processes(options)
        return
    first, jobs = options.part or (0, 1)
    device = "torch-cpu" if options.device == "cpu" else options.device
    for line in check_devices(options.device, device, RUNS[first::jobs]):
        print(line, flush=True)


def check_in_processes(options: argparse.Namespace) -> None:
    """Share the comparisons among processes, because compiling kernels takes most of the time."""
    jobs = max(1, min(JOBS, len(os.sched_getaffinity(0)) // 2))
    command = [sys.executable, __file__, "--device", options.device, "--only", "check", "--part"]
    running = [
        subprocess.Popen([*command, str(first), str(jobs)], stdout=subprocess.PIPE, text=True) for first in range(jobs)
    ]
    for process in running:
        text, _ = process.communicate()
        print("\n".join(line for line in text.splitlines() if line.startswith(("DIFFERENT", "bytes and"))), flush=True)


def let_torch_compute() -> None:
    """Make "torch-cpu" a device: torch's kernels on the host, which are the stand-in for those of a GPU."""
    from prunecli import api  # noqa: PLC0415 - only without a GPU
    from prunecli.kernels.devices import resolve  # noqa: PLC0415

    setattr(api, "resolve", lambda name: "cpu" if name == "torch-cpu" else resolve(name))  # noqa: B010 - not typed


def zeros(options: argparse.Namespace) -> None:
    """Compare the zeros with those of torch.nn.utils.prune."""
    for line in check_zeros(options.device, [(options.side, options.side)] * 2):
        print(line, flush=True)


def bandwidth(device: str) -> float:
    """Return the bytes per second of a copy on the device, those that are read and those that are written."""
    source = torch.empty((1 << 30) if device != "cpu" else (1 << 26), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = min(timed(device, lambda: target.copy_(source))[0] for _ in range(5))
    return 2 * source.numel() / best


def timed(device: str, work: Callable[[], object]) -> tuple[float, float]:
    """Return the wall time and the CPU time of `work`, with everything that it queues."""
    synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def section_model(options: argparse.Namespace, section: str) -> Model:
    """Return the tensors of a section."""
    if section == "small":
        shapes = [((256, 512), (128, 1024), (384, 192))[at % 3] for at in range(options.tensors)]
        return make_model(options.device, torch.bfloat16, shapes)
    dtype = torch.bfloat16 if section == "bf16" else torch.float32
    number = max(1, round(options.mb * 2**20 / (options.side**2 * dtype.itemsize)))
    return make_model(options.device, dtype, [(options.side, options.side)] * number)


def chosen(options: argparse.Namespace) -> Iterator[tuple[str, Case]]:
    """Yield the cases that were asked for."""
    for name, case in CASES.items():
        if not options.case or any(part.lower() in name.lower() for part in options.case):
            yield name, case


def live(options: argparse.Namespace, section: str) -> None:
    """Print a row for each strategy on tensors that lie on the device, and for what people write."""
    device, speed = options.device, bandwidth(options.device)
    model = section_model(options, section)
    size = sum(w.numel() * w.element_size() for w in model.values())
    pristine = {name: w.clone() for name, w in model.items()}
    print(f"{len(model):,} tensors, {size / 1e9:.2f} GB; a copy on the device moves {speed / 1e12:.2f} TB/s\n{HEAD}")
    prunecli.prune_state_dict(make_model(device, torch.bfloat16, [(64, 64)]), prunecli.Threshold(0.01))
    for name, case in chosen(options):
        floor = case.moved * size / speed
        ways: dict[str, Callable[[Model], object]] = {"prunecli": partial(prune_in_place, case.strategy)}
        if not options.no_rivals:
            ways |= case.rivals
        for way, work in ways.items():
            if time.monotonic() > options.until:
                print(f"{name:26} {way:30} skipped: the time is used up", flush=True)
                continue
            measure_row(options, f"{section} {name}", way, floor, (model, pristine), work)


def prune_in_place(strategy: Strategy, model: Model) -> None:
    """Prune the tensors where they lie, with torch's kernels."""
    with computed_by_torch(str(next(iter(model.values())).device)):
        prunecli.prune_state_dict(model, strategy)


def measure_row(
    options: argparse.Namespace,
    name: str,
    way: str,
    floor: float,
    models: tuple[Model, Model],
    work: Callable[[Model], object],
) -> None:
    """Print the row of one way to prune, or its error."""
    (model, pristine), device = models, options.device
    runs: list[tuple[float, float]] = []
    extra = 0.0
    try:
        # The first call compiles kernels, so a second one is worth more of them.
        while len(runs) < REPEATS and (not runs or (sum(wall for wall, _ in runs[1:]) < ENOUGH and runs[0][0] < FIRST)):
            restore(model, pristine)
            release(device)
            before = memory(device, reset=True)
            runs.append(timed(device, lambda: work(model)))
            extra = max(extra, memory(device, reset=False) - before)
    except Exception as error:  # noqa: BLE001 - the other rows go on
        release(device)
        print(f"{name:26} {way:30} {short(error)}", flush=True)
        return
    best, cpu = min(runs[1:] or runs)
    numbers = f"{runs[0][0]:8.4f} {best:8.4f} {cpu:7.3f} {floor:8.4f} {best / floor:8.1f} {extra / 1e6:9.0f}"
    print(f"{name:26} {way:30} {numbers}", flush=True)


def memory(device: str, *, reset: bool) -> float:
    """Return the memory in use after resetting the peak, or the peak; 0 where torch does not count it."""
    if not device.startswith("cuda"):
        return 0
    if reset:
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    return torch.cuda.max_memory_allocated(device)


def trace_row(options: argparse.Namespace) -> None:
    """Show where the time of the named row goes."""
    section, _, name = options.trace.partition("/")
    case = CASES[name]
    model = section_model(options, section)
    pristine = {key: w.clone() for key, w in model.items()}
    work = lambda: prune_in_place(case.strategy, model)  # noqa: E731 - called in several ways
    for _ in range(2):
        restore(model, pristine)
        print(f"{section} {name}: {timed(options.device, work)[0]:.4f} s")
    trace(options.device, lambda: restore(model, pristine), work)


if __name__ == "__main__":
    main()
