"""The default paths of a pruned checkpoint and its report, next to the input."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.checkpoint import PathLike
from prunecli.errors import Argument, CheckpointError, OutputError, UsageError
from prunecli.formats.gguf.format import GGUF
from prunecli.formats.hdf5.format import HDF5
from prunecli.formats.npy.format import NPY, NPZ
from prunecli.formats.onnx.format import ONNX
from prunecli.formats.registry import family_of
from prunecli.formats.safetensors.format import SAFETENSORS
from prunecli.formats.shards import is_index
from prunecli.io.targets import check_checkpoint_output, output_target
from prunecli.remote.path import as_path, named_locally
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from prunecli.checkpoint import Checkpoint

_TORCH = (".pth", ".bin", ".ckpt", ".pt", ".tar", ".th")  # pickles of other programs have them too
SUFFIXES = {
    SAFETENSORS.family: (".safetensors",),
    NPZ.family: (".npz",),
    NPY.family: (".npy",),
    GGUF.family: (".gguf",),
    ONNX.family: (".onnx",),
    HDF5.family: (".h5", ".hdf5", ".keras"),
}
"""The suffixes of each family of formats that has its own, the usual one first; the others have those of torch."""

_KNOWN = frozenset({*_TORCH, *(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)})
_FOREIGN = frozenset(
    {".pt2", ".pdparams", ".gguf", ".onnx", ".h5", ".hdf5", ".keras", ".msgpack", ".tflite", ".pb", ".mlmodel"}
)


def default_output(checkpoint_path: PathLike, word: str = "pruned", *, suffix: str | None = None) -> Path:
    """Return the output path: a dot and `word` before a file's suffix, or at the end of a directory's name.

    `suffix` takes the place of that of a file. An index of shards stands for its directory, and so does a model with
    numbers in other files. Raises CheckpointError if the path has no name, such as `/`.
    """
    path = as_path(checkpoint_path)
    named = path.parent if is_index(path) or has_data_files(path) else path
    is_directory, folder = named.is_dir(), named_locally(named)
    if folder.name in {"", ".."}:
        folder = Path(os.path.realpath(folder))
    if not folder.name:
        raise CheckpointError(f"{folder} has no name to derive the output name from", hint=Argument("output", "OUTPUT"))
    if is_directory:
        return folder.with_name(f"{folder.name}.{word}")
    own = _suffix(folder.name)
    return folder.with_name(f"{folder.name.removesuffix(own)}.{word}{own if suffix is None else suffix}")


def has_data_files(path: Path) -> bool:
    """Return whether `path` is an ONNX model with numbers in other files."""
    if path.suffix.lower() != ".onnx" or not path.is_file():
        return False
    with path.open("rb") as file:
        return bool(ONNX.read(file, str(path), ()).data_files)


def default_report(output: PathLike) -> Path:
    """Return the report path: the whole name of the output and `.report.json`, so that no two outputs share one."""
    path = Path(output)
    if path.name in {"", ".."}:
        path = Path(os.path.realpath(path))
    return path.with_name(f"{path.name}.report.json") if path.name else path / "report.json"


def check_mask_suffix(mask: PathLike) -> None:
    """Raise UsageError for a mask whose suffix belongs to another format: a mask is a safetensors file."""
    path = Path(mask)
    others = (_KNOWN | _FOREIGN).difference(SUFFIXES[SAFETENSORS.family])
    if path.suffix.lower() in others:
        raise UsageError(
            f"{printable(str(path))} would not be what its suffix says: a mask is a safetensors file",
            hint=Argument("mask_out", printable(str(path.with_suffix(".safetensors")))),
        )


def check_format(checkpoint: Checkpoint, output: Path) -> None:
    """Raise OutputError for an output whose suffix belongs to another format: the output has that of the input.

    The suffix of the input itself is always accepted.
    """
    suffix, family = output.suffix.lower(), family_of(checkpoint.format)
    if checkpoint.is_directory or suffix == checkpoint.path.suffix.lower():
        return
    if suffix in _KNOWN.difference(SUFFIXES.get(family, _TORCH)):
        own = checkpoint.path.suffix or SUFFIXES.get(family, _TORCH)[0]
        raise OutputError(
            f"{printable(str(output))} would not be what its suffix says: the output has the format of the input, "
            f"{checkpoint.format}",
            hint=Argument("output", printable(str(output.with_suffix(own)))),
        )


def rewritten_target(
    checkpoint: Checkpoint, output: PathLike | int | None, default: Callable[[], Path], *, force: bool, in_place: bool
) -> Path | int:
    """Return the path or descriptor of a file that is written once more in its format, after checking it."""
    target = output_target(checkpoint, output, default, in_place=in_place)
    if isinstance(target, Path):
        check_format(checkpoint, target)
        check_checkpoint_output(checkpoint, target, force=force or in_place, in_place=in_place)
    return target


def path_in_result(target: Path | int | None) -> str | None:
    """Return an output as results name it: "-" for a descriptor, None if nothing is written."""
    return None if target is None else "-" if isinstance(target, int) else str(target)


def suffix_of(path: Path, checkpoint: Checkpoint | None) -> str:
    """Return the suffix of a file in lower case, such as `.pth`; "" if there is none that says a format.

    The name of a directory may have any dots in it: if `checkpoint` is one, only the suffix of a known format counts.
    """
    suffix = _suffix(path.name).lower()
    suffix = suffix.removesuffix(".tar") or suffix
    if checkpoint is not None and checkpoint.is_directory and suffix not in _KNOWN | _FOREIGN:
        return ""
    return suffix


def _suffix(name: str) -> str:
    """Return `.pth`, `.pth.tar` and the like, or "" if the text after the last dot is part of a version number."""
    stem, dot, last = name.rpartition(".")
    if not stem or not last[:1].isalpha() or last == "pruned":
        return ""
    return f"{_suffix(stem)}.tar" if last == "tar" else dot + last
