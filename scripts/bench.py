"""Measure the time and memory of `prune`, next to copying the file and next to the usual scripts.

    python scripts/bench.py --dir /big/disk                  # 2 GB files, 3 rounds
    python scripts/bench.py --dir /big/disk --only fp32 --rivals
    python scripts/bench.py --dir /big/disk --grow 1 2 5 10  # how cost grows with the file
    python scripts/bench.py --dir /dev/shm --gb 1 --only bf16 --scaling --strategy threshold global  # over threads

Whole processes are timed, including their start. In each round every command runs once, in a rotating order. The disks
are synced before each command and its output is deleted afterwards, so that no command waits for the dirty pages of
another. Ratios are computed within a round, to `cp SRC DST && sync DST`; the table shows medians. Memory is the peak of
the process, without the page cache. CPU seconds per GB of the file are the figure that holds on a busy machine. A star
marks a missed goal. NumPy generates the files; .pth files and the rivals need torch.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from bench_commands import READERS, RIVALS, STRATEGIES, commands, report_of, tool
from bench_tables import Results, Run, show, show_comparisons, show_scaling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def main() -> None:
    """Build the files, run the rounds, print the tables and save the numbers."""
    options = arguments()
    options.dir.mkdir(parents=True, exist_ok=True)
    results: dict[str, Results] = {}
    for name, source in chosen_cases(options):
        results[name], size = rounds(source, options), size_of(source)
        show(name, size, results[name], goals=not options.cgroup)
        if len(options.threads) > 1:
            show_scaling(results[name], size, options.strategy, options.threads)
        if not options.keep:
            remove(source)
    show_comparisons(results)
    if options.json:
        numbers = {case: {c: [asdict(r) for r in runs] for c, runs in of.items()} for case, of in results.items()}
        options.json.write_text(json.dumps({"machine": machine(), "cases": numbers}, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dir", type=Path, required=True, help="the folder for the files: a real disk with space for two of them"
    )
    parser.add_argument("--gb", type=float, default=2.0, help="size of the large files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[*CASES, "real"], help="the files to measure")
    parser.add_argument(
        "--strategy",
        nargs="+",
        choices=[*STRATEGIES, *READERS],
        default=list(STRATEGIES),
        metavar="NAME",
        help="the commands to measure: " + ", ".join([*STRATEGIES, *READERS]),
    )
    parser.add_argument("--grow", nargs="+", type=float, metavar="GB", help="bf16 files of these sizes instead")
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, help="run the usual scripts as well: all, or these")
    parser.add_argument("--tool", type=tool, default="", metavar="WORDS", help="the command of the `prune` to measure")
    parser.add_argument("--cgroup", type=int, metavar="MB", help="give each command this much memory, cold; needs root")
    parser.add_argument("--threads", nargs="+", type=int, default=[0], help="several: a table over threads as well")
    parser.add_argument("--scaling", action="store_true", help="--threads 1 2 4 8 ... up to the CPUs")
    parser.add_argument("--keep", action="store_true", help="keep the generated files")
    parser.add_argument("--json", type=Path, help="write every number to this file")
    options = parser.parse_args()
    if options.scaling:
        cpus = len(os.sched_getaffinity(0))
        options.threads = [*(1 << power for power in range(cpus.bit_length()) if 1 << power < cpus), cpus]
    return options


CASES: dict[str, tuple[str, str, tuple[object, ...]]] = {
    "bf16": ("transformer", "bf16.safetensors", (("BF16",),)),
    "fp32": ("transformer", "fp32.safetensors", (("F32",),)),
    "mixed": ("transformer", "mixed.safetensors", (("BF16", "F32"),)),
    "shards": ("shards", "shards", (5,)),
    "pth": ("plain_pth", "fp32.pth", ("F32",)),
    "bf16 pth": ("plain_pth", "bf16.pth", ("BF16",)),
    "nested pth": ("nested_pth", "nested.pth", ()),
    "small": ("many", "small.safetensors", (10_000,)),
    "tiny": ("many", "tiny.safetensors", (10_000,)),
    "46MB": ("transformer", "46mb.safetensors", (("F32",),)),
    "1MB": ("transformer", "1mb.safetensors", (("F32",),)),
}
"""The cases: the function of bench_files that writes the file, the file name, and arguments besides the size."""

SHARED = Path(__file__).resolve().parents[2] / "shared" / "checkpoints"

SMALL_SIZES = {"tiny": 50_000_000, "46MB": 46_000_000, "1MB": 1_000_000}


def chosen_cases(options: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Write the requested files and yield their paths."""
    if options.grow:
        for gb in options.grow:
            yield f"bf16 {gb:g} GB", build("transformer", options.dir / f"{gb:g}gb.safetensors", gb * 1e9, (("BF16",),))
        return
    for case in options.only or CASES:
        if case == "real":
            yield from real(options.dir)
            continue
        maker, name, rest = CASES[case]
        yield case, build(maker, options.dir / name, SMALL_SIZES.get(case, options.gb * 1e9), rest)


def real(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield copies of the real checkpoints in `../shared`, if that folder exists."""
    for path in sorted(SHARED.glob("*")):
        if path.suffix not in {".md", ".gz"}:
            copy = folder / path.name
            shutil.copyfile(path, copy)
            yield path.name, copy


def build(maker: str, path: Path, size: float, rest: tuple[object, ...]) -> Path:
    """Write a file in a separate process, because a parent with NumPy would add to the peak memory of its children."""
    process = get_context("fork").Process(target=_build, args=(maker, path, int(size), rest))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"could not make {path}")
    return path


def _build(maker: str, path: Path, size: int, rest: tuple[object, ...]) -> None:
    getattr(importlib.import_module("bench_files"), maker)(path, size, *rest)


def rounds(source: Path, options: argparse.Namespace) -> Results:
    """Run every command once per round, in a rotating order."""
    out = source.with_name(f"out-{source.name}")
    rivals = () if options.rivals is None or source.is_dir() else options.rivals or RIVALS
    todo = list(commands(source, out, options.tool, options.strategy, options.threads, tuple(rivals)).items())
    results: Results = {name: [] for name, _ in todo}
    if not options.cgroup:
        warm(source)
    for turn in range(options.rounds):
        for name, command in (*todo[turn:], *todo[:turn]):
            clean(out)
            os.sync()
            if options.cgroup:
                cool(source)
            run = timed([*confined(options.cgroup), *command] if options.cgroup else command)
            if run.code and name not in RIVALS:
                raise SystemExit(f"exit {run.code}: {' '.join(command)[:300]}")
            results[name].append(run)
        clean(out)
    return results


def timed(command: Sequence[str]) -> Run:
    """Run a process to its end."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    return Run(seconds, usage.ru_utime, usage.ru_stime, usage.ru_maxrss / 1024, process.returncode)


def warm(source: Path) -> None:
    """Read the source into the page cache, as far as it fits."""
    for path in [source] if source.is_file() else sorted(source.iterdir()):
        with path.open("rb") as file:
            for _ in iter(lambda: file.read(1 << 20), b""):
                pass


def cool(source: Path) -> None:
    """Drop the source from the page cache."""
    for path in [source] if source.is_file() else sorted(source.iterdir()):
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def confined(megabytes: int) -> list[str]:
    """Return the prefix that runs a command in a control group with this memory limit, page cache included."""
    first, second = Path("/sys/fs/cgroup/prune-bench"), Path("/sys/fs/cgroup/memory/prune-bench")
    group, limit = (second, "memory.limit_in_bytes") if second.parent.is_dir() else (first, "memory.max")
    group.mkdir(exist_ok=True)
    (group / limit).write_text(str(megabytes << 20))
    return ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]


def clean(out: Path) -> None:
    """Delete an output and its report."""
    remove(out)
    remove(report_of(out))


def remove(path: Path) -> None:
    """Delete a file or a directory, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Return the size in bytes of a file, or of the files in a directory."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.iterdir())


def machine() -> dict[str, object]:
    """Return a description of the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {"cpus": os.cpu_count(), "memory_gb": round(memory, 1), "python": sys.version.split()[0]}


if __name__ == "__main__":
    main()
