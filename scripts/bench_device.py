"""Measure pruning on a device: tensors that lie there, and files, next to what people write in torch.

    python scripts/bench_device.py                             # all sections on cuda, under four minutes
    python scripts/bench_device.py --only bf16 --case L1 TopK  # some rows
    python scripts/bench_device.py --trace bf16/L1             # where the time of one row goes
    python scripts/bench_device.py --device cpu --mb 4         # the same without a GPU, with small sizes

It needs torch, NumPy and this checkout; the compiled kernels are built if they are missing. Every line is printed as
soon as it is measured. A row that fails has its error, and the others go on. "floor" is the time in which the bytes
that a row must move are copied on the device; "extra" is the peak memory besides the model.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout, which need not be installed

import torch  # noqa: E402
from bench_device_checks import (  # noqa: E402
    check_devices,
    check_zeros,
    computed_by_torch,
    short,
    write_safetensors,
)
from bench_device_models import CASES, make_model, restore  # noqa: E402
from bench_device_trace import trace  # noqa: E402

import prunecli  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench_device_models import Case, Model

    from prunecli.strategies.strategy import Strategy

SECTIONS = ("check", "zeros", "bf16", "small", "fp32", "files")

HEAD = f"{'':26} {'':30} {'first s':>8} {'best s':>8} {'cpu s':>7} {'floor s':>8} {'x floor':>8} {'extra MB':>9}"

ENOUGH = 1.0
"""A row that has taken so many seconds is not repeated."""

FIRST = 6.0
"""A row whose first call, which compiles kernels, has taken so many seconds is not repeated."""

REPEATS = 4

FILE_CASES = {
    "threshold": "prunecli.Threshold(0.0135)",
    "topk 8:32": "prunecli.TopK(8, 32)",
    "l1 --scope row": "prunecli.L1(amount=0.5, scope='row')",
}

CHILD = """
import json, os, sys, time
root, source, output, strategy, device = sys.argv[1:]
sys.path.insert(0, root)
import prunecli
if device == "torch-cpu":
    import prunecli.api
    prunecli.api.resolve = lambda name: "cpu"
spent = []
for _ in range(2):
    wall, cpu = time.perf_counter(), time.process_time()
    prunecli.prune(source, eval(strategy), output=output, reports=(), device=device, force=True)
    spent.append((time.perf_counter() - wall, time.process_time() - cpu))
print(json.dumps(spent))
"""
"""One process: it prunes twice, so that the second time is without the start of torch and of the device."""


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


def release(device: str) -> None:
    """Return free memory to the device."""
    gc.collect()
    if device != "cpu":
        torch.get_device_module(device).empty_cache()


def checks(options: argparse.Namespace) -> None:
    """Compare the bytes and the reports of the device with those of the CPU."""
    if options.device == "cpu":
        let_torch_compute()
    for line in check_devices(options.device, "torch-cpu" if options.device == "cpu" else options.device):
        print(line, flush=True)


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


def files(options: argparse.Namespace) -> None:
    """Print a row for each strategy and device on a file: the process, its first run and its second one."""
    folder = Path(tempfile.mkdtemp(dir=options.dir or roomy_folder(3.2 * options.file_mb * 2**20)))
    try:
        source = folder / "in.safetensors"
        number = max(1, round(options.file_mb * 2**20 / (options.side**2 * 2)))
        write_safetensors(source, make_model(options.device, torch.bfloat16, [(options.side, options.side)] * number))
        release(options.device)
        print(f"{source.stat().st_size / 1e9:.2f} GB of bf16 in {folder}; a process prunes twice")
        print(f"{'':26} {'':14} {'process s':>9} {'first s':>8} {'second s':>8} {'its cpu s':>9}")
        for name, strategy in FILE_CASES.items():
            file_rows(options, source, name, strategy)
        command_row(options, source)
    finally:
        shutil.rmtree(folder)


def roomy_folder(size: float) -> Path:
    """Return a folder with space for `size` bytes, in memory where there is one."""
    for folder in (Path("/dev/shm"), Path("/run/shm"), Path(tempfile.gettempdir())):  # noqa: S108 - where memory is
        if folder.is_dir() and shutil.disk_usage(folder).free > size:
            return folder
    raise OSError(f"no folder has {size / 1e9:.1f} GB for the files: choose a smaller --file-mb")


def file_rows(options: argparse.Namespace, source: Path, name: str, strategy: str) -> None:
    """Print the rows of one strategy, and whether all outputs are the same."""
    device = "torch-cpu" if options.device == "cpu" else options.device
    ways = {"cpu": ("cpu", "native"), "cpu, NumPy": ("cpu", "numpy"), device: (device, "native")}
    if not options.numpy:
        del ways["cpu, NumPy"]
    outputs: list[Path] = []
    for way, (where, kernels) in ways.items():
        if time.monotonic() > options.until:
            print(f"{name:26} {way:14} skipped: the time is used up", flush=True)
            continue
        output = source.with_name(f"out{len(outputs)}.safetensors")
        if file_row(options, name, way, [str(ROOT), str(source), str(output), strategy, where], kernels):
            outputs.append(output)
    if len(outputs) > 1 and not all(same_bytes(outputs[0], output) for output in outputs[1:]):
        print(f"{name:26} THE OUTPUTS DIFFER", flush=True)
    for output in outputs:
        output.unlink()


def file_row(options: argparse.Namespace, name: str, way: str, arguments: list[str], kernels: str) -> bool:
    """Run one process and print its row; return whether it succeeded."""
    environment = os.environ | ({"PRUNECLI_KERNELS": "numpy"} if kernels == "numpy" else {})
    started, limit = time.monotonic(), max(30.0, options.until - time.monotonic() + 30)
    command = [sys.executable, "-c", CHILD, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=limit)
    except subprocess.TimeoutExpired:
        print(f"{name:26} {way:14} took more than {limit:.0f} s", flush=True)
        return False
    wall = time.monotonic() - started
    if done.returncode:
        print(f"{name:26} {way:14} {' '.join(done.stderr.split())[-300:]}", flush=True)
        return False
    (first, _), (second, cpu) = json.loads(done.stdout)
    print(f"{name:26} {way:14} {wall - second:9.2f} {first:8.2f} {second:8.2f} {cpu:9.2f}", flush=True)
    return True


def same_bytes(a: Path, b: Path) -> bool:
    """Return whether two files are equal."""
    with a.open("rb") as one, b.open("rb") as other:
        while part := one.read(1 << 26):
            if part != other.read(1 << 26):
                return False
        return not other.read(1)


def command_row(options: argparse.Namespace, source: Path) -> None:
    """Time the whole command line, where it can run."""
    devices = ["cpu"] if options.device == "cpu" else ["cpu", options.device]
    for device in devices:
        output = source.with_name("command.safetensors")
        command = [sys.executable, "-m", "prunecli", "threshold", str(source), "--thr", "0.0135", "-o", str(output)]
        started = time.monotonic()
        done = subprocess.run(
            [*command, "--device", device, "--no-report"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        seconds = time.monotonic() - started
        error = " ".join(done.stderr.split())[-200:]
        result = f"{seconds:9.2f}" if done.returncode == 0 else f"not run: {error}"
        print(f"{'prune threshold':26} {device:14} {result}", flush=True)
        output.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
