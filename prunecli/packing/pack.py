"""Pack a torch file: the same zip with its storages compressed. Unpack one: the original, byte for byte.

torch.load reads a packed file with nothing installed. Nothing is unpickled.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunecli.checkpoint import Checkpoint, CheckpointFile, PathLike
from prunecli.errors import Argument, Call, CheckpointError, Hint, UsageError
from prunecli.formats.open import open_checkpoint
from prunecli.formats.output_names import default_output, path_in_result, rewritten_target
from prunecli.formats.safetensors.format import SAFETENSORS
from prunecli.formats.torch.format import TORCH_LEGACY, TORCH_ZIP, TORCHSCRIPT
from prunecli.formats.torch.packed import MEMORY_LIMIT, gap_bytes, is_storage, open_zip, restore_record
from prunecli.formats.zip.directory import read_directory
from prunecli.io.files import Source, copy_range
from prunecli.io.limits import check_threads
from prunecli.io.output_files import output_files
from prunecli.io.targets import refuse_both
from prunecli.io.temporary import scratch_file
from prunecli.io.transfer import write_all
from prunecli.packing.deflate import check_stored, deflate_records
from prunecli.packing.layout import Scratch, packed_layout
from prunecli.progress import start
from prunecli.text.escape import printable
from prunecli.text.json import dump_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from prunecli.checkpoint import Span
    from prunecli.formats.zip.writer import ZipLayout
    from prunecli.packing.layout import Data
    from prunecli.progress import Progress

LEVEL, MOST = 6, 9
"""The default level of compression, which is that of gzip and zip, and the highest."""

LOADERS = (
    "torch.load reads it, also with weights_only=True",
    "torch.load(mmap=True) raises, and so does the .bin loader of transformers, which maps files",
)
"""Sentences on who reads a packed file."""


@dataclass(frozen=True, slots=True)
class PackResult:
    """The result of `pack` or `unpack`.

    Attributes:
        command: "pack" or "unpack".
        compressed: The number of records that are compressed in the packed file.
        storages: The number of storages of the file.
        level: The level of compression; None for `unpack`.
        restored: For `unpack`, whether the output is byte for byte the file that was packed; it is not if another
            program compressed the records. None for `pack`.
        notes: Sentences on who reads the output.
        input_path: The path of the input, or its label.
        output_path: The path of the output, "-" for a descriptor, None after a dry run.
        input_bytes: The size of the input.
        output_bytes: The size of the output.
    """

    command: str
    compressed: int
    storages: int
    level: int | None
    restored: bool | None
    notes: tuple[str, ...]
    input_path: str
    output_path: str | None
    input_bytes: int
    output_bytes: int

    def to_json(self) -> str:
        """Return the result as a JSON object with a line break at its end; `schema` is the version of its keys."""
        return dump_result(self.command, asdict(self))


def pack(  # noqa: PLR0913 - one keyword for each option
    path: PathLike,
    output: PathLike | int | None = None,
    *,
    level: int = LEVEL,
    threads: int = 0,
    force: bool = False,
    in_place: bool = False,
    dry_run: bool = False,
    label: str | None = None,
    progress: Progress | None = None,
) -> PackResult:
    """Write the torch file at `path` with its storages compressed, where that makes them smaller.

    The result is a zip that torch.load reads, also with weights_only=True. With mmap=True it raises. `unpack` restores
    the input byte for byte.

    Args:
        path: A zip file of torch.save or torch.jit.save.
        output: The path of the result, or an open and writable file descriptor. None means `ckpt.packed.pth` next to
            `ckpt.pth`.
        level: The effort of the compression, 1 (fast) to 9 (small).
        threads: The number of threads; 0 takes as many as help. The result does not depend on it.
        force: Whether an existing output is replaced.
        in_place: Whether the input is replaced.
        dry_run: Whether to compress without writing the result.
        label: The name of the input in messages. None means `path`.
        progress: Receives the progress.

    Returns:
        The sizes before and after.

    Raises:
        PruneError: If the file cannot be packed, would not become smaller or could not be loaded safely, or if the
            output cannot be written. No output is written then.
    """
    if not isinstance(level, int):
        raise UsageError(f"the level of compression is a whole number, not {level!r}", hint=Argument("level", LEVEL))
    if not 1 <= level <= MOST:
        hint = Argument("level", max(1, min(level, MOST)))
        raise UsageError(f"the level of compression is 1 to {MOST}, not {level:g}", hint=hint)
    default = partial(default_output, path, "packed")
    job = _Job.of(path, output, default, (threads, force, in_place, dry_run), label, progress)
    if job.file.inflated is not None:
        raise CheckpointError(f"{job.name} is compressed already", hint=Call("unpack", (str(path),)))
    return _pack(job, level)


def unpack(  # noqa: PLR0913 - one keyword for each option
    path: PathLike,
    output: PathLike | int | None = None,
    *,
    threads: int = 0,
    force: bool = False,
    in_place: bool = False,
    dry_run: bool = False,
    label: str | None = None,
    progress: Progress | None = None,
) -> PackResult:
    """Write the file that `pack` has packed, byte for byte.

    Of a zip that another program has compressed, a zip with the same records uncompressed is written.

    Args:
        path: The packed file.
        output: The path of the result, or an open and writable file descriptor. None means `ckpt.pth` next to
            `ckpt.packed.pth`, and `ckpt.unpacked.pth` next to any other `ckpt.pth`.
        threads: The number of threads; 0 takes as many as help.
        force: Whether an existing output is replaced.
        in_place: Whether the input is replaced.
        dry_run: Whether to check that the file can be unpacked without writing the result.
        label: The name of the input in messages. None means `path`.
        progress: Receives the progress.

    Returns:
        The sizes before and after.

    Raises:
        PruneError: If the file is damaged or has no compressed record, or if the output cannot be written. No output
            is written then.
    """
    job = _Job.of(path, output, partial(unpacked_output, path), (threads, force, in_place, dry_run), label, progress)
    if job.file.inflated is None:
        raise CheckpointError(
            f"{job.name} is not packed: none of its records is compressed", hint=Call("inspect", (str(path),))
        )
    return _unpack(job)


def unpacked_output(path: PathLike) -> Path:
    """Return the default output of `unpack`: the name without `.packed`, or with `.unpacked` before its suffix."""
    output = default_output(path, "unpacked")
    before, packed, after = output.name.rpartition(".packed.unpacked")
    return output.with_name(before + after) if packed and before else output


@dataclass(frozen=True, slots=True)
class _Job:
    """The file to read, and where and how the result is written."""

    checkpoint: Checkpoint
    label: str
    target: Path | int | None
    threads: int
    force: bool
    progress: Progress | None

    @classmethod
    def of(
        cls,
        path: PathLike,
        output: PathLike | int | None,
        default: Callable[[], Path],
        settings: tuple[int, bool, bool, bool],
        label: str | None,
        progress: Progress | None,
    ) -> _Job:
        """Check the arguments and open the file."""
        threads, force, in_place, dry_run = settings
        check_threads(threads)
        refuse_both(output, in_place=in_place)
        checkpoint = open_checkpoint(path, label=label)
        label = label or str(path)
        _check_kind(checkpoint, printable(label))
        target = None if dry_run else rewritten_target(checkpoint, output, default, force=force, in_place=in_place)
        return cls(checkpoint, label, target, threads, force or in_place, progress)

    @property
    def name(self) -> str:
        """The name of the input in messages."""
        return printable(self.label)

    @property
    def file(self) -> CheckpointFile:
        """The file."""
        return self.checkpoint.files[0]

    def source(self) -> closing[Source]:
        """Open the file as it is stored, until a block ends."""
        return closing(Source(self.file.path, self.file.stored_size, self.file.modified))

    def write(self, source: Source, size: int, fill: Callable[[int], None]) -> None:
        """Publish an output of `size` bytes that `fill` writes to a descriptor."""
        if self.target is None:
            source.check_unchanged()
            return
        with output_files(self.checkpoint, [source], self.target, [size], force=self.force) as (file,):
            with file.opened() as fd:
                fill(fd)
                _check_output(fd, self.name)
            source.check_unchanged()

    def result(self, **values: Any) -> PackResult:  # noqa: ANN401 - the attributes that differ
        """Return the result with the paths of this job."""
        output, size = path_in_result(self.target), self.file.stored_size
        return PackResult(input_path=self.label, output_path=output, input_bytes=size, **values)


def _check_kind(checkpoint: Checkpoint, name: str) -> None:
    if checkpoint.format in {TORCH_ZIP.name, TORCHSCRIPT.name}:
        if checkpoint.is_directory:
            raise CheckpointError(
                f"{name} has shards: one file of torch.save is packed at a time", hint="name one of its files"
            )
        return
    path = checkpoint.path
    hint: Hint = "save it again with torch.save"
    if checkpoint.format == TORCH_LEGACY.name:
        hint = Call("convert", (str(path), str(path.with_name(f"{path.stem}.zip.pth"))))
    if checkpoint.format == SAFETENSORS.name:
        hint = "zstd -3 compresses the file, and no loader reads it then"
    raise CheckpointError(
        f"{name} is {checkpoint.format}: only zip files of torch.save and torch.jit.save can be packed", hint=hint
    )


def _check_output(fd: int, name: str) -> None:
    """Read the headers of the output; CheckpointError if it is not the zip that it should be."""
    with os.fdopen(os.dup(fd), "rb") as stream:
        open_zip(stream, name)


# --- pack


def _pack(job: _Job, level: int) -> PackResult:
    with job.file.path.open("rb") as file:
        records = read_directory(file, job.name).records
        gaps = gap_bytes(records, job.file.size)
        restore = restore_record(file, job.file.size, records) if gaps <= MEMORY_LIMIT else b""
    if not 0 < len(restore) <= MEMORY_LIMIT:
        raise CheckpointError(f"{job.name} has {gaps:,} bytes besides the data of its records, which is too many")
    storages = [record for record in records if is_storage(record.name) and record.span.length]
    folder = job.target.absolute().parent if isinstance(job.target, Path) else None
    advance = start(job.progress, "packing", sum(record.span.length for record in storages))
    threads = job.threads or _threads()
    with job.source() as source, scratch_file(folder) as (fd, path):
        deflations = deflate_records(source, storages, level, fd, threads=threads, advance=advance)
        layout = packed_layout(records, deflations, restore, _extents(job.checkpoint))
        if layout.size >= job.file.size:
            raise CheckpointError(
                f"{job.name} would not become smaller: {layout.size:,} bytes instead of {job.file.size:,}",
                hint="prune it first: runs of zeros are what becomes small",
            )
        with closing(Source(path, os.fstat(fd).st_size)) as scratch:
            job.write(source, layout.size, lambda fd: _write(layout, source, scratch, fd))
    return job.result(
        command="pack",
        compressed=len(deflations),
        storages=len(storages),
        level=level,
        restored=None,
        notes=LOADERS,
        output_bytes=layout.size,
    )


def _threads() -> int:
    from prunecli.io.threads import default_threads  # noqa: PLC0415 - it imports kernels

    return default_threads()


def _extents(checkpoint: Checkpoint) -> dict[Span, int]:
    """Return the bytes of each storage up to the end of the tensor that reaches farthest."""
    extents: dict[Span, int] = {}
    for tensor in checkpoint.tensors:
        if tensor.numel:
            extents[tensor.span] = max(extents.get(tensor.span, 0), tensor.end - tensor.span.start)
    return extents


def _write(layout: ZipLayout[Data], source: Source, scratch: Source, fd: int) -> None:
    offset = 0
    for piece in layout.pieces:
        if isinstance(piece, bytes):
            write_all(fd, memoryview(piece), offset)
            offset += len(piece)
            continue
        origin, span = (scratch, piece.span) if isinstance(piece, Scratch) else (source, piece)
        copy_range(origin, fd, span.start, span.end, offset)
        offset += span.length


# --- unpack


def _unpack(job: _Job) -> PackResult:
    from prunecli.io.inflated import write_inflated  # noqa: PLC0415 - `pack` does not need it

    inflated = job.file.inflated
    if inflated is None:
        raise AssertionError  # checked by `unpack`
    advance = start(job.progress, "unpacking", inflated.size)
    with job.source() as source, job.file.path.open("rb") as file:
        opened = open_zip(file, job.name)
        for record in read_directory(file, job.name).records:
            if not record.compressed:
                check_stored(source, record)
        threads = job.threads or _threads()

        def fill(fd: int) -> None:
            write_inflated(source, inflated, fd, threads=threads, label=job.name, advance=advance)

        job.write(source, inflated.size, fill)
    return job.result(
        command="unpack",
        compressed=len(inflated.deflated),
        storages=sum(is_storage(record.name) for record in opened.records.values()),
        level=None,
        restored=opened.packed,
        notes=(),
        output_bytes=inflated.size,
    )
