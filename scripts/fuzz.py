"""Throw damaged checkpoints at the readers and at the whole tool, and keep those that do harm.

Any bytes must give a valid listing or a CheckpointError, and a whole run exit code 0 or 2: with 0 an output in which
nothing but selected weights and checksums changed, with 2 one sentence and no output; within SECONDS and MEGABYTES.

    python scripts/fuzz.py --minutes 20 --crashers crashers

Seeds are small checkpoints of every format, made here. They are damaged as bytes, and as what they are made of: the
records of a zip, the opcodes of a pickle, the words of a JSON header. What gave an answer not seen before is kept and
damaged further. The same --seed makes the same inputs.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import io
import json
import pickle
import pickletools
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save

from prunecli.checkpoint import open_checkpoint
from prunecli.cli import main as prune
from prunecli.errors import CheckpointError
from prunecli.safetensors_file import read_safetensors
from prunecli.torch_file import read_torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import FrameType

    from prunecli.tensors import Checksum, TensorInfo

SECONDS = 10
"""Longer than this, one input is a finding; four times as long, it ends the program."""

MEGABYTES = 400
"""An input that makes the process grow by more is a finding."""

ADDRESS_SPACE = 6 << 30
"""Bytes of address space: what would take more fails at once instead of filling the machine."""

CORPUS_LIMIT = 4000
"""Inputs worth damaging further that are remembered."""

COMMANDS = (
    ("global", "--amount", "0.5"),
    ("threshold", "--thr", "0.5"),
    ("threshold", "--thr-std", "0.5"),
    ("percentile", "--q", "60"),
    ("topk", "--pattern", "2:4"),
    ("topk", "--pattern", "1:3", "--dim", "-1", "--tail", "zero"),
    ("global", "--count", "3", "-i", "*"),
    ("threshold", "--thr", "0.5", "--strict", "--sha256"),
    ("percentile", "--q", "30", "--key", "state_dict"),
)
"""What is run on an input; the input's own bytes choose."""

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 64, 255, 256, 65535, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64)
"""Sizes that are close to some limit."""


class Finding(Exception):  # noqa: N818 - it is what the search is for
    """The tool did what it must never do."""


class TooSlow(BaseException):  # noqa: N818 - nothing between here and there may take it for its own error
    """The time for one input is over."""


# --- what must hold


def examine(data: bytes, folder: Path, name: str = "in.pth") -> str:
    """Give `data` to both readers, and as the file `name` in the empty `folder` to the tool; return what it answered.

    Raises Finding, or whatever escaped, where a promise does not hold.
    """
    _read(read_safetensors, data)
    _read(read_torch, data)
    path, output, report = folder / name, folder / "out", folder / "out.json"
    path.write_bytes(data)
    args = [*COMMANDS[zlib.crc32(data) % len(COMMANDS)], str(path), "-o", str(output), "--report", str(report)]
    code, said = _run(args)
    if path.read_bytes() != data:
        raise Finding("the input changed")
    if left := {p.name for p in folder.iterdir()} - {name, "out", "out.json"}:
        raise Finding(f"{left} are left over")
    if code == 0:
        _check_output(data, output.read_bytes(), path, output, json.loads(report.read_text(encoding="ascii")))
        return "pruned: " + _gist("; ".join(line for line in said.splitlines() if line[:8] in {"skipped ", "note    "}))
    _check_refusal(code, said)
    if output.exists() or report.exists():
        raise Finding("there is an output after an error")
    return _gist(said.replace(str(folder), ""))


def _gist(said: str) -> str:
    """Return a message without what comes from the input: two with one gist are one answer."""
    return re.sub(r"\d[\d,]*", "#", re.sub(r"'[^']*'|`[^`]*`|\"[^\"]*\"|\([^()]*\)", "_", said))[:300]


def _read(reader: Callable[[io.BytesIO, str], Any], data: bytes) -> None:
    try:
        listing = reader(io.BytesIO(data), "x")
    except CheckpointError as error:
        _check_sentence(f"{error}{error.hint or ''}".replace("\n", "\\n"))
        return
    for tensor in listing.tensors:
        _check_tensor(tensor, len(data))
    for checksum in getattr(listing, "checksums", ()):
        _check_checksum(checksum, data)


def _check_tensor(tensor: TensorInfo, size: int) -> None:
    tensor.name.encode()
    span = tensor.span
    if not 0 <= span.start <= span.end <= size or len(tensor.shape) != len(tensor.strides):
        raise Finding(f"{tensor} is not in the file of {size} bytes")
    if tensor.numel and tensor.fixed is None and not span.start <= tensor.start <= tensor.end <= span.end:
        raise Finding(f"{tensor} looks outside its storage")


def _check_checksum(checksum: Checksum, data: bytes) -> None:
    for place in checksum.places:
        if data[place : place + 4] != checksum.value.to_bytes(4, "little"):
            raise Finding(f"{checksum} is not where it should be")


def _run(args: Sequence[str]) -> tuple[int, str]:
    """Run the command line; return the exit code and what it said on standard error, or on its output if all went well.

    Its streams are files, because it may want their descriptors.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with redirect_stdout(out), redirect_stderr(err):
            code = prune(args)
        out.seek(0)
        err.seek(0)
        return code, err.read() if code else out.read()


def _check_refusal(code: int, said: str) -> None:
    lines = said.splitlines()
    if code != 2 or not 1 <= len(lines) <= 2 or not lines[0].startswith("error: "):
        raise Finding(f"exit code {code} with {said[:2000]!r}")
    if lines[1:] and not lines[1].startswith("hint: "):
        raise Finding(f"{lines[1]!r} is no hint")
    for line in lines:
        _check_sentence(line)


def _check_sentence(line: str) -> None:
    if len(line) > 20_000:
        raise Finding(f"a message has {len(line)} characters: {line[:200]}")


def _check_output(data: bytes, result: bytes, path: Path, output: Path, report: dict[str, Any]) -> None:
    """Check that only weights of selected tensors changed, to zero, and checksums to what they should be."""
    before, after = open_checkpoint(path, key=report["input"]["key"]), open_checkpoint(output)
    selected = {row["name"] for row in report["tensors"] if row["selected"]}
    old, new = (np.frombuffer(raw, np.uint8) for raw in (data, result))
    if len(old) != len(new):
        raise Finding(f"{len(new)} bytes came out of {len(old)}")
    may_change = np.zeros(len(old), bool)
    for tensor in before.tensors:
        if tensor.name in selected:
            _mark(tensor, may_change, old != new, new)
    for checksum in after.files[0].checksums:
        _check_checksum(checksum, result)
        if checksum.value != zlib.crc32(result[checksum.span.start : checksum.span.end]) and selected:
            untouched = data[checksum.span.start : checksum.span.end] == result[checksum.span.start : checksum.span.end]
            if not untouched:
                raise Finding(f"the new {checksum} is wrong")
        for place in checksum.places:
            may_change[place : place + 4] = True
    if (wrong := np.flatnonzero((old != new) & ~may_change)).size:
        raise Finding(f"bytes changed that must not: {wrong[:10].tolist()}")


def _mark(tensor: TensorInfo, may_change: np.ndarray[Any, Any], changed: np.ndarray[Any, Any], new: Any) -> None:  # noqa: ANN401
    shape = (*tensor.shape, tensor.itemsize)
    strides = (*(s * tensor.itemsize for s in tensor.strides), 1)

    def elements(array: Any) -> Any:  # noqa: ANN401 - of bools or bytes
        return np.lib.stride_tricks.as_strided(array[tensor.start :], shape, strides)

    elements(may_change)[...] = True
    if (elements(new)[elements(changed).any(-1)] != 0).any():
        raise Finding(f"a weight of {tensor.name!r} became something else than zero")


# --- seeds


@dataclass(frozen=True, slots=True)
class Made:
    """An input and what it is made of: the records of a zip, else a single record without a name."""

    name: str
    records: tuple[tuple[str, bytes], ...]

    def bytes(self) -> bytes:
        """Return the file."""
        if not self.records[0][0]:
            return self.records[0][1]
        buffer = io.BytesIO()
        with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
            warnings.simplefilter("ignore")  # duplicate names are meant
            for name, content in self.records:
                archive.writestr(name, content)
        return buffer.getvalue()


def seeds() -> list[Made]:
    """Make a small checkpoint of each format."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(6, 8, generator=generator)
    odd = torch.tensor([[float("nan"), float("inf"), -0.0, 1e-45, -1.0, 2.0]])
    flat = {"fc.weight": w, "fc.bias": w[0].clone(), "odd.weight": odd, "n": torch.tensor(3)}
    dtypes = [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8]
    every = {f"{i}.weight": (w[i:] * 3).to(dtype) for i, dtype in enumerate(dtypes)}
    views = {"a.weight": w, "tied.weight": w, "t.weight": torch.randn(4, 6).t(), "e.weight": torch.ones(1, 8).expand(3, 8)}
    nested = {"epoch": 1, "state_dict": flat, "optimizer": {"state": {0: {"exp_avg": w * 2}}, "lr": 0.1}}
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch_values: list[object] = [flat, every, views, nested, module, [flat, (w,)], {"np": np.ones(3), **flat}]
    made = [Made("in.safetensors", (("", save(value)),)) for value in (flat, every)]
    made.append(Made("in.safetensors", (("", save(flat, {"format": "pt", "a": "b"})),)))
    for value in torch_values:
        made += [_zipped(_saved(value, protocol=protocol)) for protocol in (2, 4)]
        made += [Made("in.pth", (("", _saved(value, legacy=legacy)),)) for legacy in (False, True)]
    script, program = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module.eval()), script)
        torch.export.save(torch.export.export(module.eval(), (torch.ones(2, 3),)), program)
    made += [_zipped(raw.getvalue()) for raw in (script, program)]
    made += [Made("in.pth", (("", raw.getvalue()),)) for raw in (script, program)]
    return made


def _saved(value: object, *, protocol: int = 2, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def _zipped(data: bytes) -> Made:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return Made("in.pth", tuple((info.filename, archive.read(info)) for info in archive.infolist()))


# --- damage


def damaged(made: Made, rng: random.Random, corpus: Sequence[Made]) -> Made:
    """Return `made` with a few things about it changed."""
    records = list(made.records)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 6))):
        if records[0][0] and rng.random() < 0.15:
            records = _shuffled(records, rng)
        at = _which(records, rng)
        name, content = records[at]
        records[at] = name, _changed(name, content, rng, rng.choice(corpus))
    if records[0][0] and rng.random() < 0.1:
        return Made(made.name, (("", _bytes(Made(made.name, tuple(records)).bytes(), rng)),))
    return Made(made.name, tuple(records))


def _which(records: Sequence[tuple[str, bytes]], rng: random.Random) -> int:
    """Choose a record, most often one that is read as a pickle or as text."""
    telling = [at for at, (name, _) in enumerate(records) if name.endswith((".pkl", ".json"))]
    return rng.choice(telling) if telling and rng.random() < 0.8 else rng.randrange(len(records))


def _shuffled(records: list[tuple[str, bytes]], rng: random.Random) -> list[tuple[str, bytes]]:
    """Drop, repeat, swap or rename a record."""
    at, other = rng.randrange(len(records)), rng.randrange(len(records))
    name, content = records[at]
    match rng.randrange(4):
        case 0:
            return records[:at] + records[at + 1 :] or records
        case 1:
            return [*records[:other], (name, content), *records[other:]]
        case 2:
            return [*records[:at], (records[other][0], content), *records[at + 1 :]]
        case _:
            new = rng.choice(("x/data.pkl", f"../{name}", name.replace("archive", "a\x1b[1m"), name.upper(), f"{name}/"))
            return [*records[:at], (new, content), *records[at + 1 :]]


def _changed(name: str, content: bytes, rng: random.Random, other: Made) -> bytes:
    if rng.random() < 0.1:  # part of another input in place of a part of this one
        piece, (a, b) = rng.choice(other.records)[1], sorted(rng.randrange(len(content) + 1) for _ in range(2))
        start = rng.randrange(len(piece) + 1)
        return content[:a] + piece[start : start + rng.randrange(64)] + content[b if rng.random() < 0.5 else a :]
    if name.endswith(".json") or content[8:9] == b"{":
        return _json(content, rng)
    if content[:1] == b"\x80" and rng.random() < 0.8:
        return _opcodes(content, rng)
    return _bytes(content, rng)


def _bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip, insert, remove, repeat or cut off bytes, or put a number where another was."""
    if not content:
        return rng.randbytes(rng.randrange(9))
    at, length = rng.randrange(len(content)), rng.choice((1, 1, 2, 4, 8, 30))
    match rng.randrange(7):
        case 0:
            return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
        case 1:
            return content[:at] + rng.randbytes(length) + content[at + length :]
        case 2:
            return content[:at] + rng.randbytes(length) + content[at:]
        case 3:
            return content[:at] + content[at + length :]
        case 4:
            return content[:at] + content[at : at + length] * rng.choice((2, 3, 50)) + content[at + length :]
        case 5:
            return content[:at]
        case _:
            number = struct.pack("<Q", rng.choice(NUMBERS) % 2**64)[: rng.choice((1, 2, 4, 8))]
            return content[:at] + number + content[at + len(number) :]


def _json(content: bytes, rng: random.Random) -> bytes:
    """Change a word of JSON text, with a length before it (safetensors) or without."""
    start = 8 if content[8:9] == b"{" else 0
    end = 8 + int.from_bytes(content[:8], "little") if start else len(content)
    words = re.findall(rb'"(?:[^"\\]|\\.)*"|-?[0-9]+|[a-z]+|[^\s]|\s+', content[start:end])
    if not words:
        return _bytes(content, rng)
    at, other = rng.randrange(len(words)), rng.choice(words)
    pool = [str(rng.choice(NUMBERS)).encode(), b"-1", b"1.5", b"1e9", b"null", b"[]", b"{}", b'"\\ud800"', b'"F4"', b'"C64"']
    pool += [other, other, other, b'"__metadata__"', b'"F8_E8M0"', b'"a\\u0000\\u001b[1m\\u202e.weight"', b"[" * 2000]
    match rng.randrange(4):
        case 0:
            del words[at]
        case 1:
            words.insert(at, rng.choice(pool))
        case 2:
            words[at : at + 1] = words[at : at + 3] * 2
        case _:
            words[at] = rng.choice(pool)
    text = b"".join(words)
    return (struct.pack("<Q", len(text)) if start and rng.random() < 0.9 else content[:start]) + text + content[end:]


def _opcodes(content: bytes, rng: random.Random) -> bytes:
    """Remove, repeat, move or replace opcodes of the first pickles in `content`."""
    cuts = _cuts(content)
    if len(cuts) < 3:
        return _bytes(content, rng)
    parts = [content[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
    match rng.randrange(6):
        case 0:
            del parts[at]
        case 1:
            parts.insert(at, parts[other])
        case 2:
            parts[at], parts[other] = parts[other], parts[at]
        case 3:
            parts.insert(at, _opcode(rng))
        case 4:
            parts[at:at] = parts[other : other + rng.randrange(1, 40)] * rng.choice((1, 2, 30))
        case _:
            parts[at] = _opcode(rng)
    return b"".join(parts) + content[cuts[-1] :]


def _cuts(content: bytes) -> list[int]:
    """Return where the opcodes of the pickles at the start of `content` begin, and where the last one ends."""
    stream, cuts = io.BytesIO(content), [0]
    try:
        while stream.tell() < len(content):
            cuts += [place for _, _, place in pickletools.genops(stream) if place]
            cuts.append(stream.tell())
    except Exception:  # noqa: BLE001, S110 - damaged further than pickletools can follow: what it saw will do
        pass
    return sorted(set(cuts))


def _opcode(rng: random.Random) -> bytes:
    """Return an opcode with a sensible argument, or a number, or any byte."""
    names = ("torch FloatStorage", "torch._utils _rebuild_tensor_v2", "collections OrderedDict", "torch Size")
    names += ("torch._utils _rebuild_parameter", "builtins list", "posix system", "torch._tensor _rebuild_from_type_v2")
    number = rng.choice(NUMBERS) * rng.choice((1, 1, 1, -1))
    choices = (
        b"c" + rng.choice(names).replace(" ", "\n").encode() + b"\n",
        pickle.dumps(number, 2)[2:-1],
        pickle.dumps(rng.choice(("state_dict", "0", "storage", "cpu", "a.weight", "\x1b[1m", 1.5, True, b"x")), 4)[11:-2],
        bytes([rng.choice(b"()]}l\x8f0125abetsuQRN\x81\x92\x85\x86\x87\x88\x93\x94io.\x82P\x97")]),
        rng.choice((b"h\0", b"q\0", b"h\1", b"q\1", b"j\xff\xff\xff\xff", b"X\xff\xff\xff\xff", b"\x8b\xff\xff\xff\x7f")),
        bytes([rng.randrange(256)]),
    )
    return rng.choice(choices)


# --- the search


def search(minutes: float, crashers: Path, rng: random.Random, say: Callable[[str], object] = print) -> list[Path]:
    """Examine damaged inputs for `minutes`; keep what does harm in the folder `crashers` and return the paths."""
    crashers.mkdir(parents=True, exist_ok=True)
    corpus, answers, found, count = seeds(), set[str](), dict[str, Path](), 0
    until, told = time.monotonic() + minutes * 60, time.monotonic()
    waiting = list(corpus)
    while time.monotonic() < until:
        made = waiting.pop() if waiting else damaged(_favoured(corpus, rng), rng, corpus)
        count += 1
        answer, harm = _examined(made, crashers)
        if harm and answer not in found:
            found[answer] = _keep(made, crashers, answer, harm)
            say(f"found {found[answer]}: {answer}")
        elif answer not in answers and len(corpus) < CORPUS_LIMIT:
            answers.add(answer)
            corpus.append(made)
        if time.monotonic() > told + 60:
            told = time.monotonic()
            say(f"{count:,} inputs, {len(answers):,} different answers, {len(found)} findings")
    say(f"{count:,} inputs, {len(answers):,} different answers, {len(found)} findings")
    return list(found.values())


def _favoured(corpus: Sequence[Made], rng: random.Random) -> Made:
    """Choose an input to damage, a late one more often than an early one."""
    return rng.choice(corpus[-200:]) if rng.random() < 0.4 else rng.choice(corpus)


def _examined(made: Made, crashers: Path) -> tuple[str, str]:
    """Return what the tool answered, and "" or, where it did harm, in what way; the input lies in `crashers` meanwhile."""
    data, running = made.bytes(), crashers / "running"
    running.write_bytes(data)
    faulthandler.dump_traceback_later(4 * SECONDS, exit=True)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    before = _peak()
    try:
        with tempfile.TemporaryDirectory(dir=_fast()) as folder:
            answer, harm = examine(data, Path(folder), made.name), ""
        if (grown := _peak() - before) > MEGABYTES:
            answer, harm = f"memory {grown // 100}", f"the process grew by {grown} megabytes"
    except (Exception, TooSlow, SystemExit) as error:  # noqa: BLE001 - that is what is looked for
        where = traceback.extract_tb(error.__traceback__)[-1]
        answer = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
        harm = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
    running.unlink()
    return answer, harm


def _fast() -> str | None:
    """Return a folder in memory, where there is one: thousands of outputs are made durable."""
    folder = Path("/dev/shm")  # noqa: S108 - only to make temporary folders in
    return str(folder) if folder.is_dir() else None


def _peak() -> int:
    """Return the most memory this process has held so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform != "darwin" else 1 << 20)


def _keep(made: Made, crashers: Path, answer: str, harm: str) -> Path:
    data = made.bytes()
    path = crashers / f"{hashlib.sha256(data).hexdigest()[:12]}-{made.name}"
    path.write_bytes(data)
    path.with_name(f"{path.name}.txt").write_text(f"{answer}\n\n{harm}", encoding="utf-8", errors="backslashreplace")
    return path


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise TooSlow


def main(args: Iterable[str]) -> int:
    """Run the search as `args` say, or examine files again; return 1 where something was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="examine these again, instead of searching")
    parser.add_argument("--minutes", type=float, default=1, help="how long to search (default 1)")
    parser.add_argument("--crashers", type=Path, default=Path("crashers"), help="where findings are kept")
    parser.add_argument("--seed", type=int, default=0, help="another one makes other inputs")
    chosen = parser.parse_args(list(args))
    warnings.simplefilter("error")
    signal.signal(signal.SIGALRM, _too_slow)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.getrlimit(resource.RLIMIT_AS)[1]))
    if not chosen.files:
        return int(bool(search(chosen.minutes, chosen.crashers, random.Random(chosen.seed))))
    for path in chosen.files:
        with tempfile.TemporaryDirectory() as folder:
            print(examine(path.read_bytes(), Path(folder), path.name[13:] or "in.pth"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
