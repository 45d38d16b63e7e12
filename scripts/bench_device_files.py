"""The files of `bench_device.py`: how long a process, its first and its second run take on the CPU and on a device."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from bench_device_checks import release, write_safetensors
from bench_device_models import make_model

if TYPE_CHECKING:
    import argparse

ROOT = Path(__file__).resolve().parents[1]

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
