"""Measure the time and memory of `prune`, next to copying the file and next to the usual scripts.

    python scripts/bench.py --dir /big/disk                  # 2 GB files, 3 rounds
    python scripts/bench.py --dir /big/disk --only fp32 --rivals
    python scripts/bench.py --dir /big/disk --grow 1 2 5 10  # how cost grows with the file

Whole processes are timed, including their start. In each round every command runs once, in a rotating order. The disks
are synced before each command and its output is deleted afterwards, so that no command waits for the dirty pages of
another. Ratios are computed within a round, to `cp SRC DST && sync DST`; the table shows medians. Memory is the peak of
the process, without the page cache. NumPy generates the files; the nested .pth and the rivals need torch.
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
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COPY = "cp && sync"
HOT = "cp, hot"

STRATEGIES = {
    "threshold": ("threshold", "--thr", "0.0135"),
    "global": ("global", "--amount", "0.5"),
    "percentile": ("percentile", "--q", "50"),
    "l1": ("l1", "--amount", "0.5"),
    "topk 2:4": ("topk", "--pattern", "2:4"),
    "topk 2:7": ("topk", "--pattern", "2:7"),
    "structured": ("structured", "--amount", "0.25"),
    "structured dim 1": ("structured", "--amount", "0.25", "--dim", "1"),
    "block 4x4": ("block", "--shape", "4x4", "--amount", "0.5"),
}

LOAD = """
import sys, torch
src, dst = sys.argv[1:]
if src.endswith(".pth"):
    ckpt = torch.load(src, map_location="cpu", weights_only=True); sd = ckpt.get("state_dict", ckpt)
    save = lambda: torch.save(ckpt, dst)
else:
    from safetensors.torch import load_file, save_file
    sd = ckpt = load_file(src); save = lambda: save_file(sd, dst)
weights = {k: v for k, v in sd.items() if v.is_floating_point() and v.dim() >= 2}
"""

MODULE = """
import torch.nn.utils.prune as prune
class Holder(torch.nn.Module):
    def __init__(self, w): super().__init__(); self.weight = torch.nn.Parameter(w, requires_grad=False)
held = {k: Holder(w) for k, w in weights.items()}
"""

RIVALS = {
    "load, mask, save": LOAD + "for w in weights.values(): w.mul_(w.abs() > 0.0135)\nsave()",
    "np.percentile per layer": LOAD
    + "import numpy as np\nfor w in weights.values():\n"
    + "    w.mul_(w.abs() > float(np.percentile(w.float().abs().numpy(), 50)))\nsave()",
    "topk + scatter, 2:4": LOAD
    + "for w in weights.values():\n    g = w.view(-1, 4); keep = g.abs().topk(2, 1).indices\n"
    + "    g.mul_(torch.zeros_like(g).scatter_(1, keep, 1))\nsave()",
    "l1_unstructured": LOAD
    + MODULE
    + "for k, h in held.items():\n    prune.l1_unstructured(h, 'weight', 0.5); prune.remove(h, 'weight')\n"
    + "    sd[k] = h.weight.data\nsave()",
    "global_unstructured": LOAD
    + MODULE
    + "prune.global_unstructured([(h, 'weight') for h in held.values()], prune.L1Unstructured, amount=0.5)\n"
    + "for k, h in held.items():\n    prune.remove(h, 'weight'); sd[k] = h.weight.data\nsave()",
}


@dataclass(frozen=True)
class Run:
    """One process: wall-clock and CPU seconds, peak memory in MB, and its exit code."""

    seconds: float
    cpu: float
    peak_mb: float
    code: int = 0


def main() -> None:
    """Build the files, run the rounds, print the tables and save the numbers."""
    options = arguments()
    options.dir.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, list[Run]]] = {}
    for name, source in chosen_cases(options):
        results[name] = rounds(source, options)
        show(name, source, results[name])
        if not options.keep:
            remove(source)
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
    parser.add_argument("--strategy", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--grow", nargs="+", type=float, metavar="GB", help="bf16 files of these sizes instead")
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, help="run the usual scripts as well: all, or these")
    installed = shutil.which("prune", path=str(Path(sys.executable).parent)) or "prune"
    parser.add_argument("--tool", default=installed, help="the `prune` to measure; an editable install starts slower")
    parser.add_argument("--cgroup", type=int, metavar="MB", help="give each command this much memory, cold; needs root")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep the generated files")
    parser.add_argument("--json", type=Path, help="write every number to this file")
    return parser.parse_args()


CASES: dict[str, tuple[str, str, tuple[object, ...]]] = {
    "bf16": ("transformer", "bf16.safetensors", (("BF16",),)),
    "fp32": ("transformer", "fp32.safetensors", (("F32",),)),
    "mixed": ("transformer", "mixed.safetensors", (("BF16", "F32"),)),
    "shards": ("shards", "shards", (5,)),
    "pth": ("nested_pth", "nested.pth", ()),
    "small": ("many", "small.safetensors", (10_000,)),
    "46MB": ("transformer", "46mb.safetensors", (("F32",),)),
    "1MB": ("transformer", "1mb.safetensors", (("F32",),)),
}
"""The cases: the function of bench_files that writes the file, the file name, and arguments besides the size."""

SHARED = Path(__file__).resolve().parents[2] / "shared" / "checkpoints"

SMALL_SIZES = {"46MB": 46_000_000, "1MB": 1_000_000}


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


def commands(source: Path, out: Path, options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the commands by name; `cp` is first."""
    arguments = {
        COPY: ["sh", "-c", 'cp -r "$1" "$2" && find "$2" -type f -exec sync {} +', "sh", str(source), str(out)],
        HOT: ["cp", "-r", str(source), str(out)],
    }
    report_options = ["-q", "--report", str(report_of(out)), "--threads", str(options.threads)]
    for name in options.strategy:
        arguments[name] = [options.tool, *STRATEGIES[name], str(source), "-o", str(out), *report_options]
    if options.rivals is not None and source.is_file():
        for name in options.rivals or RIVALS:
            arguments[name] = [sys.executable, "-c", RIVALS[name], str(source), str(out)]
    return arguments


def rounds(source: Path, options: argparse.Namespace) -> dict[str, list[Run]]:
    """Run every command once per round, in a rotating order."""
    out = source.with_name(f"out-{source.name}")
    todo = list(commands(source, out, options).items())
    results: dict[str, list[Run]] = {name: [] for name, _ in todo}
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
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, process.returncode)


def show(name: str, source: Path, results: dict[str, list[Run]]) -> None:
    """Print one case as a table of medians."""
    copies = results[COPY]
    size = size_of(source)
    print(f"\n{name}: {size / 1e6:,.0f} MB, `{COPY}` {median(r.seconds for r in copies):.2f} s")
    print(f"  {'':26} {'x cp':>6} {'(min':>6} {'max)':>6} {'seconds':>8} {'cpu s':>7} {'peak MB':>8}")
    for command, runs in results.items():
        if ended := next((run.code for run in runs if run.code), 0):
            peak = max(run.peak_mb for run in runs)
            why = f"killed by signal {-ended}" if ended < 0 else f"exit {ended}"
            print(f"  {command:26} failed: {why}, with {peak:.0f} MB", flush=True)
            continue
        ratios = [run.seconds / copy.seconds for run, copy in zip(runs, copies, strict=True)]
        print(
            f"  {command:26} {median(ratios):6.2f} {min(ratios):6.2f} {max(ratios):6.2f} "
            f"{median(r.seconds for r in runs):8.2f} {median(r.cpu for r in runs):7.2f} "
            f"{max(r.peak_mb for r in runs):8.0f}",
            flush=True,
        )


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


def report_of(out: Path) -> Path:
    """Return the path of the report of an output."""
    return Path(f"{out}.report.json")


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
    return {"cpus": os.cpu_count(), "kernel": os.uname().release, "python": sys.version.split()[0]}


if __name__ == "__main__":
    main()
