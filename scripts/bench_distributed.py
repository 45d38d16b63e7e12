"""Measure what each of several processes reads, writes and exchanges, and compare their time with a model.

    python scripts/bench_distributed.py --dir /big/disk                   # 1 GB in 6 files, 1 to 4 processes
    python scripts/bench_distributed.py --dir /big/disk --gb 8 --processes 1 2 --strategy l1

Processes are started as a launcher does, with RANK and WORLD_SIZE, on this machine. Bytes are those of the system calls
of each process (/proc/self/io), without the start. CPU seconds per GB of the model are the figure that holds on a busy
machine. The model divides the work of one process, its CPU time and its bytes, by the number of processes, as far as
there are CPUs, and adds the start. The last lines apply it to a model of 1.4 TB on machines of --cores CPUs whose share
of the filesystem gives --rate GB/s.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

STRATEGIES = {
    "global": ["global", "--amount", "0.5"],
    "l1": ["l1", "--amount", "0.5"],
    "topk": ["topk", "--pattern", "2:4"],
}

PROCESS = """
import json, os, resource, sys, time
import prunecli.cli.main, prunecli.engine.files
from prunecli.distributed.current import processes
if int(os.environ["WORLD_SIZE"]) > 1:
    import torch.distributed
def bytes_of(name):
    return next(int(line.split()[1]) for line in open("/proc/self/io") if line.startswith(name))
def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before, began, log = [bytes_of("rchar"), bytes_of("wchar")], time.monotonic(), sys.argv.pop(1)
used = resource.getrusage(resource.RUSAGE_SELF)
code = prunecli.cli.main.main(sys.argv[1:])
after, end = [bytes_of("rchar"), bytes_of("wchar")], resource.getrusage(resource.RUSAGE_SELF)
numbers = {"read": after[0] - before[0], "written": after[1] - before[1], "exchanged": processes().exchanged,
    "seconds": time.monotonic() - began, "peak": peak(),
    "cpu": end.ru_utime + end.ru_stime - used.ru_utime - used.ru_stime}
open(log, "w").write(json.dumps(numbers))
sys.exit(code)
"""

LARGE = 1.4e12
"""The bytes of the model that the last lines are about."""


class Measured(NamedTuple):
    """A run: the seconds from the start of the processes to their end, and the numbers of each of them."""

    processes: int
    seconds: float
    ranks: list[dict[str, Any]]

    def largest(self, name: str) -> float:
        """Return the largest number of a process."""
        return float(max(rank[name] for rank in self.ranks))

    def total(self, name: str) -> float:
        """Return the sum over the processes."""
        return float(sum(rank[name] for rank in self.ranks))


def main() -> None:
    """Write the model, run all numbers of processes, and print the tables."""
    options = arguments()
    source = options.dir / "bench-distributed"
    size = write_model(source, options.gb, options.files)
    try:
        runs = [best(options, source, count) for count in options.processes]
    finally:
        shutil.rmtree(source, ignore_errors=True)
    show(runs, size)
    show_large(runs[0], size, options)


def arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dir", type=Path, required=True, help="where the model and the outputs are written")
    parser.add_argument("--gb", type=float, default=1.0, help="the size of the model")
    parser.add_argument("--files", type=int, default=6)
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, 2, 3, 4], help="the first is what the model takes"
    )
    parser.add_argument("--strategy", choices=STRATEGIES, default="global")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cores", type=int, default=16, help="CPUs of each process in the table for 1.4 TB")
    parser.add_argument("--rate", type=float, default=2.0, help="GB/s of each process in the table for 1.4 TB")
    return parser.parse_args()


def write_model(folder: Path, gb: float, files: int) -> int:
    """Write shards of bfloat16 matrices, and return their bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    side = 2048
    count = max(int(gb * 1e9 / (2 * side * side) / files), 1)
    matrices = [torch.randn(side, side).mul_(0.02).bfloat16() for _ in range(4)]
    weights: dict[str, str] = {}
    for number in range(files):
        name = f"model-{number + 1:05}-of-{files:05}.safetensors"
        tensors = {f"layers.{number}.{i}.weight": matrices[(number + i) % 4].clone() for i in range(count)}
        save_file(tensors, folder / name)
        weights |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def best(options: argparse.Namespace, source: Path, count: int) -> Measured:
    """Return the fastest of some runs with `count` processes."""
    return min((run(options, source, count) for _ in range(options.rounds)), key=lambda measured: measured.seconds)


def run(options: argparse.Namespace, source: Path, count: int) -> Measured:
    """Prune with `count` processes."""
    output, logs = options.dir / "bench-out", [options.dir / f"bench-rank{rank}.json" for rank in range(count)]
    command, *rest = STRATEGIES[options.strategy]
    words = [
        command,
        str(source),
        *rest,
        "-o",
        str(output),
        "--report",
        str(options.dir / "bench-report.json"),
        "-f",
        "-q",
    ]
    began = time.monotonic()
    children = [start(rank, count, [str(log), *words], port) for port in [free_port()] for rank, log in enumerate(logs)]
    codes = [child.wait() for child in children]
    seconds = time.monotonic() - began
    if any(codes):
        sys.exit(f"the processes ended with {codes}")
    numbers = [json.loads(log.read_text()) for log in logs]
    for path in (*logs, options.dir / "bench-report.json"):
        path.unlink()
    shutil.rmtree(output)
    return Measured(count, seconds, numbers)


def start(rank: int, count: int, words: list[str], port: int) -> subprocess.Popen[bytes]:
    """Start one process."""
    variables = {"RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    local = {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count}
    environment = {**os.environ, **{name: str(value) for name, value in {**variables, **local}.items()}}
    return subprocess.Popen([sys.executable, "-c", PROCESS, *words], env=environment)


def free_port() -> int:
    """Return a port that no program uses now."""
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def show(runs: list[Measured], size: int) -> None:
    """Print a line per number of processes."""
    print(f"{size / 1e9:.2f} GB; bytes of the process with the most")
    print("processes      read   written  exchanged    peak  CPU s/GB   seconds     model")
    first = runs[0]
    for one in runs:
        start_time = one.seconds - one.largest("seconds")
        cpus = min(one.processes, len(os.sched_getaffinity(0)))
        expected = start_time + first.largest("seconds") * first.processes / cpus
        print(
            f"{one.processes:9} {one.largest('read') / 1e6:6.0f} MB {one.largest('written') / 1e6:6.0f} MB "
            f"{one.largest('exchanged') / 1e6:7.2f} MB {one.largest('peak') / 1e6:4.0f} MB "
            f"{one.total('cpu') / size * 1e9:9.2f} {one.seconds:9.2f} {expected:9.2f}"
        )


def show_large(first: Measured, size: int, options: argparse.Namespace) -> None:
    """Print how long a model of 1.4 TB takes by the model."""
    moved = (first.total("read") + first.total("written")) / size
    cpu = first.total("cpu") / size
    print(f"1.4 TB on processes with {options.cores} CPUs and {options.rate:g} GB/s each:")
    for count in (1, 8, 32):
        by_disk = LARGE * moved / count / options.rate / 1e9 / 60
        by_cpu = LARGE * cpu / count / options.cores / 60
        print(f"{count:9} processes: {max(by_disk, by_cpu):6.1f} min (bytes {by_disk:.1f}, CPU {by_cpu:.1f})")


if __name__ == "__main__":
    main()
