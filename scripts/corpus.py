"""Try every strategy of `prune` on every checkpoint below some folders, and check each output byte by byte.

    python scripts/corpus.py ~/models --limit-bytes 2G
    python scripts/corpus.py ~/models --strategy global --strategy topk

NumPy computes which weights must be zero. All other bytes must be those of the input, checksums must be right, and the
output must list the same tensors. A refusal must be exit code 2, one sentence, and no output. The exit code is 1 if
anything differs. Outputs go to a temporary folder, which is removed; nothing is written into the folders. A check takes
several times the size of a checkpoint in memory: leave out large ones with --limit-bytes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from byte_oracle import Finding, check_bytes, check_refusal, elements
from corpus_oracle import STRATEGIES, Strategy, Weights, numbers
from digests import RECIPE

from prunecli.formats.open import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import Checkpoint, TensorInfo

INDEX = "*.index.json"
"""The pattern of the index of a directory of shards, which is one checkpoint."""

LONGEST = 300
"""The most characters of a message of a crash in the table."""

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass
class Results:
    """What the runs found.

    Attributes:
        files: The number of checkpoints and other files that were tried.
        too_large: The paths that are larger than the limit.
        values: Outputs in which every byte is the one that NumPy computes.
        bytes: Outputs whose zeros NumPy does not compute; all other bytes are right.
        refusals: The sentences of refusals, counted.
        mismatches: What is wrong, one line per run.
    """

    files: int = 0
    too_large: list[Path] = field(default_factory=list)
    values: int = 0
    bytes: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    mismatches: list[str] = field(default_factory=list)

    @property
    def runs(self) -> int:
        """The number of runs."""
        return self.values + self.bytes + self.refusals.total() + len(self.mismatches)

    def table(self) -> str:
        """Return the results as text."""
        skipped = f"  and {len(self.too_large):,} too large" if self.too_large else ""
        matches = f"{self.values:,} in every byte, {self.bytes:,} in all bytes that are not pruned"
        lines = [
            f"files       {self.files:6,}{skipped}",
            f"runs        {self.runs:6,}",
            f"matches     {self.values + self.bytes:6,}  {matches}",
            f"refusals    {self.refusals.total():6,}",
            *(f"            {count:6,}  {sentence}" for sentence, count in self.refusals.most_common()),
            f"mismatches  {len(self.mismatches):6,}",
            *(f"            {line}" for line in self.mismatches),
        ]
        return "\n".join(lines)


# --- the checkpoints


def checkpoints(folder: Path) -> Iterator[Path]:
    """Yield every file below `folder`, in name order; a folder with an index of shards stands for all of its files.

    Links are followed to files, not to folders, so that no folder is visited twice.
    """
    if folder.is_file() or any(folder.glob(INDEX)):
        yield folder
    else:
        for path in sorted(folder.iterdir()):
            if path.is_file() or (path.is_dir() and not path.is_symlink()):
                yield from checkpoints(path)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    return sum(member.stat().st_size for member in members(path))


def members(path: Path) -> list[Path]:
    """Return the file itself, or all files below a folder."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


# --- one run


def try_all(path: Path, strategies: Sequence[str], folder: Path, results: Results) -> None:
    """Run `strategies` on the checkpoint at `path` and add to `results`; outputs go to the empty `folder`."""
    results.files += 1
    listed = prune("inspect", str(path), "--json")
    if listed.returncode:
        _count_refusal(path, "inspect", listed.returncode, listed.stderr, results)
        return
    for name in strategies:
        _try_one(path, name, folder, results)
        for made in list(folder.iterdir()):
            shutil.rmtree(made) if made.is_dir() else made.unlink()


def _try_one(path: Path, name: str, folder: Path, results: Results) -> None:
    strategy, output, report = STRATEGIES[name], folder / f"out{path.suffix}", folder / "report.json"
    files = {"mask": folder / "mask.safetensors", "recipe": folder / "recipe.toml"}
    files["recipe"].write_text(RECIPE, encoding="utf-8")
    before = stats_of(path)
    if strategy.before and (first := prune(*_words(strategy.before, files), str(path), "-q")).returncode:
        _count_refusal(path, name, first.returncode, first.stderr, results)
        return
    run = prune(*_words(strategy.words, files), str(path), "-o", str(output), "--report", str(report), "-q")
    if stats_of(path) != before:
        results.mismatches.append(f"{name}  {path}: the input changed")
    elif run.returncode == 0:
        _count_output(path, name, output, report, results)
    elif output.exists() or report.exists():
        results.mismatches.append(f"{name}  {path}: there is an output after exit code {run.returncode}")
    else:
        _count_refusal(path, name, run.returncode, run.stderr, results)


def prune(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run `prune` in a process of its own, and return its exit code, standard output and standard error."""
    return subprocess.run([sys.executable, "-m", "prunecli", *arguments], capture_output=True, check=False)


def _words(command: str, files: Mapping[str, Path]) -> list[str]:
    return [word.format(**files) for word in command.split()]


def _count_output(path: Path, name: str, output: Path, report: Path, results: Results) -> None:
    try:
        every = check_output(path, output, json.loads(report.read_text(encoding="utf-8")), STRATEGIES[name])
    except Exception as error:  # noqa: BLE001 - an output that cannot be read is a mismatch like any other
        results.mismatches.append(f"{name}  {path}: {error or type(error).__name__}")
    else:
        results.values += every
        results.bytes += not every


def _count_refusal(path: Path, name: str, code: int, said: bytes, results: Results) -> None:
    try:
        text = said.decode()
        check_refusal(code, text)
    except (Finding, UnicodeDecodeError):
        last = said.decode(errors="backslashreplace").strip().rpartition("\n")[2]
        results.mismatches.append(f"{name}  {path}: exit code {code} is no refusal in one sentence: {last[:LONGEST]}")
    else:
        results.refusals[text.splitlines()[0].removeprefix("error: ").replace(str(path), path.name)] += 1


def stats_of(path: Path) -> list[tuple[str, int, int, int]]:
    """Return the name, inode, size and modification time of each file of a checkpoint."""
    stats = [(str(member), member.stat()) for member in members(path)]
    return [(name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


# --- the check


def check_output(path: Path, output: Path, report: dict[str, Any], strategy: Strategy) -> bool:
    """Return whether NumPy computed every byte; raise Finding for a byte that is wrong."""
    before, after = (open_checkpoint(one, key=report["input"]["keys"]) for one in (path, output))
    if _listing(before) != _listing(after):
        raise Finding("the output lists other tensors")
    rows = {row["name"]: row for row in report["tensors"] if row["selected"]}
    selected = [tensor for tensor in before.tensors if tensor.name in rows]
    if {tensor.name for tensor in selected} != set(rows):
        raise Finding("the report selects tensors that are not listed")
    old, new = ([read(file.path) for file in one.files] for one in (before, after))
    for index, file in enumerate(after.files):
        check_bytes(old[index], new[index], [t for t in selected if t.file == index], file.checksums)
        check_archive(before.files[index].path, file.path)
    check_other_files(path, output, {file.path for file in before.files})
    for tensor in selected:
        check_count(tensor, old[tensor.file], new[tensor.file], rows[tensor.name]["pruned"])
    return check_values(selected, old, new, strategy)


def _listing(checkpoint: Checkpoint) -> list[tuple[object, ...]]:
    return [(t.name, t.dtype, t.shape, t.strides, t.file, t.start) for t in checkpoint.tensors]


def read(path: Path) -> NDArray[np.uint8]:
    """Return the bytes of a file, which are read when they are used."""
    return np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)


def check_archive(old: Path, new: Path) -> None:
    """Raise Finding if Python finds a wrong checksum in the zip file `new` that `old` does not have."""
    if zipfile.is_zipfile(old) and first_bad(old) is None and (name := first_bad(new)) is not None:
        raise Finding(f"the checksum of the record {name!r} is wrong")


def first_bad(path: Path) -> str | None:
    """Return the first record of a zip file whose checksum is wrong."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def check_other_files(path: Path, output: Path, with_tensors: set[Path]) -> None:
    """Raise Finding unless the files of a directory that hold no tensors are copied."""
    if path.is_file():
        return
    names, written = ([p.relative_to(folder) for p in members(folder)] for folder in (path, output))
    if names != written:
        raise Finding(f"the output has other files: {sorted(set(names) ^ set(written))[:5]}")
    for name in names:
        if path / name not in with_tensors and (path / name).read_bytes() != (output / name).read_bytes():
            raise Finding(f"{name} is not copied")


def check_count(tensor: TensorInfo, old: NDArray[np.uint8], new: NDArray[np.uint8], pruned: int) -> None:
    """Raise Finding unless as many weights changed as the report says."""
    changed = int((elements(old, tensor) != elements(new, tensor)).any(-1).sum())
    if changed != pruned:
        raise Finding(f"{changed:,} weights of {tensor.name!r} changed, and the report says {pruned:,}")


def check_values(
    selected: Sequence[TensorInfo],
    old: Sequence[NDArray[np.uint8]],
    new: Sequence[NDArray[np.uint8]],
    strategy: Strategy,
) -> bool:
    """Return whether NumPy computes what `strategy` keeps; raise Finding if the output keeps other weights."""
    weights = [Weights(t, values) for t in selected if (values := numbers(old[t.file], t)) is not None]
    if strategy.keep is None or len(weights) < len(selected):
        return False
    for one, keep in zip(weights, strategy.keep(weights), strict=True):
        changed = (elements(old[one.tensor.file], one.tensor) != elements(new[one.tensor.file], one.tensor)).any(-1)
        if (wrong := np.argwhere(changed != (~keep & (one.values != 0)))).size:
            raise Finding(f"{len(wrong):,} weights of {one.tensor.name!r} differ, first at {wrong[0].tolist()}")
    return True


# --- the command line


def number_of_bytes(text: str) -> int:
    """Return the bytes that "500M" means."""
    unit = UNITS.get(text[-1:].upper())
    return int(float(text[:-1]) * unit) if unit else int(text)


def run(folders: Sequence[Path], strategies: Sequence[str], limit: int | None) -> Results:
    """Try `strategies` on all checkpoints below `folders` of at most `limit` bytes."""
    results = Results()
    for path in (path for folder in folders for path in checkpoints(folder)):
        if limit is not None and size_of(path) > limit:
            results.too_large.append(path)
            continue
        with tempfile.TemporaryDirectory(prefix="prune-corpus-") as name:
            try_all(path, strategies, Path(name), results)
        print(f"{results.files:6,} files, {len(results.mismatches):,} mismatches: {path}", file=sys.stderr, flush=True)
    return results


def main(arguments: Sequence[str]) -> int:
    """Print the table; return 1 if anything differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="a folder, or a checkpoint")
    parser.add_argument("--limit-bytes", type=number_of_bytes, metavar="N", help="skip larger ones; K, M and G work")
    parser.add_argument("--strategy", action="append", choices=sorted(STRATEGIES), help="only this one; repeatable")
    options = parser.parse_args(arguments)
    if missing := [str(folder) for folder in options.folders if not folder.exists()]:
        parser.error(f"{missing[0]} does not exist")
    results = run(options.folders, options.strategy or list(STRATEGIES), options.limit_bytes)
    print(results.table())
    return int(bool(results.mismatches))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
