"""Run damaged checkpoints through the readers and the command line, and keep those that do harm.

A reader must return a valid listing or raise CheckpointError. A run must end with exit code 0 and an output in which
only selected weights and checksums changed, or with exit code 2, one message and no output. Both must do so within
SECONDS and MEGABYTES.

    python scripts/fuzz.py --minutes 20 --crashers crashers

The first inputs are small checkpoints of every format. They are damaged as bytes and by structure: the records of a
zip, the opcodes of a pickle, the words of a JSON header. An input with a new answer is kept and damaged further. The
same --seed makes the same inputs.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import io
import json
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from byte_oracle import Finding, check_bytes, check_places, check_refusal, check_sentence
from fuzz_distributed import METADATA, check_distributed, write_distributed
from fuzz_inputs import Made, damaged, seeds
from typer.main import get_command

from prunecli.cli import main as cli
from prunecli.errors import CheckpointError
from prunecli.formats.gguf.reader import read_gguf
from prunecli.formats.hdf5.reader import read_hdf5
from prunecli.formats.npy.reader import read_npy, read_npz
from prunecli.formats.onnx.reader import read_onnx
from prunecli.formats.open import open_checkpoint
from prunecli.formats.safetensors.reader import read_safetensors
from prunecli.formats.torch.reader import read_torch_legacy, read_torch_zip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import FrameType

    from prunecli.checkpoint import TensorInfo

SECONDS = 10
"""An input that takes more CPU time is a finding. One that takes WAIT times as many seconds ends the program."""

WAIT = 60

MEGABYTES = 400
"""An input that takes more memory is a finding."""

ADDRESS_SPACE = 6 << 30
"""Bytes of address space, so that a huge allocation fails at once."""

CORPUS_LIMIT = 4000
"""The most inputs that are kept to be damaged further."""

COMMANDS = (
    ("global", "--amount", "0.5"),
    ("threshold", "--thr", "0.5"),
    ("threshold", "--thr-std", "0.5"),
    ("percentile", "--q", "60"),
    ("topk", "--pattern", "2:4"),
    ("topk", "--pattern", "1:3", "--dim", "-1", "--tail", "zero"),
    ("l1", "--amount", "0.4"),
    ("l1", "--amount", "0.5", "--scope", "row"),
    ("structured", "--amount", "0.5", "--n", "2"),
    ("structured", "--count", "1", "--dim", "1", "--n", "-inf"),
    ("block", "--amount", "0.5", "--shape", "2x3"),
    ("global", "--count", "3", "-i", "*"),
    ("threshold", "--thr", "0.5", "--strict", "--sha256"),
    ("percentile", "--q", "30", "--key", "state_dict"),
)
"""The command lines; the bytes of an input choose one."""


READERS: tuple[Callable[[io.BytesIO, str], Any], ...] = (
    *(read_safetensors, read_torch_zip, read_torch_legacy),
    *(read_npy, read_npz, read_gguf, read_onnx, read_hdf5),
)


class TooSlow(BaseException):
    """An input took too much time. It is no Exception, so that the code under test does not catch it."""


# --- the checks


def examine(data: bytes, folder: Path, name: str = "in.pth") -> str:
    """Run all READERS on `data`, and the command line on it as the file `name` in the empty `folder`.

    Returns the answer, in short. Raises Finding, or any error of the code under test, if a promise does not hold.
    """
    for reader in READERS:
        _read(reader, data)
    path, output, report = folder / name, folder / "out", folder / "out.json"
    if name == METADATA:
        return _examine_distributed(data, folder / "in", output, report)
    path.write_bytes(data)
    args = [*COMMANDS[zlib.crc32(data) % len(COMMANDS)], str(path), "-o", str(output), "--report", str(report)]
    code, said = _run(args)
    if path.read_bytes() != data:
        raise Finding("the input changed")
    if names := {p.name for p in folder.iterdir()} - {name, "out", "out.json"}:
        raise Finding(f"temporary files are not removed: {names}")
    if code == 0:
        _check_output(data, output.read_bytes(), path, output, json.loads(report.read_text(encoding="ascii")))
        return _pruned(said)
    return _refused(code, said, output, report)


def _examine_distributed(data: bytes, path: Path, output: Path, report: Path) -> str:
    """Run the command line on a distributed checkpoint with the metadata `data`; see `examine`."""
    write_distributed(path, data)
    args = [*COMMANDS[zlib.crc32(data) % len(COMMANDS)], str(path), "-o", str(output), "--report", str(report)]
    code, said = _run(args)
    if (path / METADATA).read_bytes() != data:
        raise Finding("the input changed")
    if code == 0:
        check_distributed(path, output, json.loads(report.read_text(encoding="ascii")))
        return _pruned(said)
    return _refused(code, said, output, report)


def _pruned(said: str) -> str:
    return _gist("pruned: " + "; ".join(line for line in said.splitlines() if line[:8] in {"skipped ", "note    "}))


def _refused(code: int, said: str, output: Path, report: Path) -> str:
    """Return the answer of a run that ended with an error."""
    check_refusal(code, said)
    if output.exists() or report.exists():
        raise Finding("there is an output after an error")
    return _gist(said.replace(str(output.parent), ""))


def _gist(said: str) -> str:
    """Return a message without the parts that come from the input, so that equal answers are equal texts."""
    quoted = r"'[^']*'|`[^`]*`|\"[^\"]*\"|\([^()]*\)"
    numbers = r"\b(0x)?[0-9a-f]{2}\b|\b[0-9a-f]{8}\b|\d[\d,]*"
    return re.sub(numbers, "#", re.sub(quoted, "_", said.partition("\n")[0]))[:300]


def _read(reader: Callable[[io.BytesIO, str], Any], data: bytes) -> None:
    try:
        listing = reader(io.BytesIO(data), "x")
    except CheckpointError as error:
        check_sentence(f"{error}{error.hint or ''}".replace("\n", "\\n"))
        return
    for tensor in listing.tensors:
        _check_tensor(tensor, len(data))
    for checksum in getattr(listing, "checksums", ()):
        check_places(checksum, data)


def _check_tensor(tensor: TensorInfo, size: int) -> None:
    tensor.name.encode()
    span = tensor.span
    if not 0 <= span.start <= span.end <= size or len(tensor.shape) != len(tensor.strides):
        raise Finding(f"{tensor} is not in the file of {size} bytes")
    if tensor.numel and tensor.unprunable_reason is None and not span.start <= tensor.start <= tensor.end <= span.end:
        raise Finding(f"{tensor} looks outside its storage")


def _run(args: Sequence[str]) -> tuple[int, str]:
    """Run the command line; return the exit code, and standard output if it is 0, else standard error.

    Its streams are files, because it may use their descriptors.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with redirect_stdout(out), redirect_stderr(err):
            code = cli.main(args)
        out.seek(0)
        err.seek(0)
        return code, err.read() if code else out.read()


def _check_output(data: bytes, result: bytes, path: Path, output: Path, report: dict[str, Any]) -> None:
    """Check that selected weights became zero, that checksums are correct, and that no other byte changed."""
    before, after = open_checkpoint(path, key=report["input"]["key"]), open_checkpoint(output)
    selected = {row["name"] for row in report["tensors"] if row["selected"]}
    old, new = (np.frombuffer(raw, np.uint8) for raw in (data, result))
    check_bytes(old, new, [t for t in before.tensors if t.name in selected], after.files[0].checksums)


# --- the search


def search(
    goes_on: Callable[[int], bool], crashers: Path, rng: random.Random, say: Callable[[str], object] = print
) -> list[Path]:
    """Examine inputs while `goes_on(number of inputs)`; keep harmful ones in `crashers` and return their paths."""
    crashers.mkdir(parents=True, exist_ok=True)
    corpus, answers, findings, count = list(seeds()), set[str](), dict[str, Path](), 0
    reported = time.monotonic()
    waiting = list(corpus)
    while goes_on(count):
        made = waiting.pop() if waiting else damaged(_favoured(corpus, rng), rng, corpus)
        count += 1
        answer, harm = _examined(made, crashers)
        if harm and answer not in findings:
            findings[answer] = _keep(made, crashers, answer, harm)
            say(f"found {findings[answer]}: {answer}")
        elif answer not in answers and len(corpus) < CORPUS_LIMIT:
            answers.add(answer)
            corpus.append(made)
        if time.monotonic() > reported + 60:
            reported = time.monotonic()
            say(f"{count:,} inputs, {len(answers):,} different answers, {len(findings)} findings")
    say(f"{count:,} inputs, {len(answers):,} different answers, {len(findings)} findings")
    return list(findings.values())


def _favoured(corpus: Sequence[Made], rng: random.Random) -> Made:
    """Choose an input to damage; late ones are chosen more often."""
    return rng.choice(corpus[-200:]) if rng.random() < 0.4 else rng.choice(corpus)


def _examined(made: Made, crashers: Path) -> tuple[str, str]:
    """Return the answer and the harm, if any; the input is in `crashers` during the run, in case the process ends."""
    data, running = made.bytes(), crashers / "running"
    running.write_bytes(data)
    faulthandler.dump_traceback_later(WAIT * SECONDS, exit=True)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    before = _peak()
    try:
        with tempfile.TemporaryDirectory(dir=_fast()) as folder:
            answer, harm = examine(data, Path(folder), made.name), ""
        if (grown := _peak() - before) > MEGABYTES:
            answer, harm = f"memory {grown // 100}", f"the process grew by {grown} megabytes"
    except (Exception, TooSlow, SystemExit) as error:  # noqa: BLE001 - the search is for such errors
        where = traceback.extract_tb(error.__traceback__)[-1]
        answer = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
        harm = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
    running.unlink()
    return answer, harm


def _fast() -> str | None:
    """Return a folder in memory, if there is one, because thousands of outputs are flushed to the disk."""
    folder = Path("/dev/shm")  # noqa: S108 - only to make temporary folders in
    return str(folder) if folder.is_dir() else None


def _peak() -> int:
    """Return the peak memory of this process in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform != "darwin" else 1 << 20)


def _keep(made: Made, crashers: Path, answer: str, harm: str) -> Path:
    data = made.bytes()
    path = crashers / f"{hashlib.sha256(data).hexdigest()[:12]}-{made.name}"
    path.write_bytes(data)
    path.with_name(f"{path.name}.txt").write_text(f"{answer}\n\n{harm}", encoding="utf-8", errors="backslashreplace")
    return path


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise TooSlow


def _build_once() -> None:
    """Build the command line once: Typer builds it for every call, which takes longer than a run."""
    cli.register(sorted({words[0] for words in COMMANDS}))
    program = get_command(cli.app)
    cli._program = lambda _: program  # type: ignore[assignment, return-value] # noqa: SLF001 - there is no other way


def main(args: Iterable[str]) -> int:
    """Search, or examine files again; return 1 if there is a finding."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="examine these again, instead of searching")
    parser.add_argument("--minutes", type=float, default=1, help="how long to search (default 1)")
    parser.add_argument("--crashers", type=Path, default=Path("crashers"), help="the folder for findings")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the random damage")
    options = parser.parse_args(list(args))
    warnings.simplefilter("error")
    signal.signal(signal.SIGPROF, _too_slow)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.getrlimit(resource.RLIMIT_AS)[1]))
    _build_once()
    seeds()  # takes seconds, which are not those of the search
    end = time.monotonic() + 60 * options.minutes
    if not options.files:
        return int(bool(search(lambda _: time.monotonic() < end, options.crashers, random.Random(options.seed))))
    for path in options.files:
        with tempfile.TemporaryDirectory() as folder:
            print(examine(path.read_bytes(), Path(folder), path.name[13:] or "in.pth"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
