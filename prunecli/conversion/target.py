"""Which format an output has: its suffix says it, and a directory or a size of shards asks for shards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.errors import Argument, OutputError, UsageError
from prunecli.formats.model_files import TORCH_SUFFIXES, is_index_name
from prunecli.formats.output_names import SUFFIXES as OWN_SUFFIXES
from prunecli.formats.output_names import suffix_of
from prunecli.formats.registry import family_of
from prunecli.formats.safetensors.format import SAFETENSORS
from prunecli.formats.torch.format import TORCH_EXPORT, TORCH_ZIP, TORCHSCRIPT
from prunecli.text.escape import printable
from prunecli.values import dataclass

if TYPE_CHECKING:
    from prunecli.checkpoint import Checkpoint

MAX_SHARD_SIZE = 5 * 10**9
"""The bytes of a shard if the user names none, as in the libraries of Hugging Face."""

SUFFIXES = {".safetensors": SAFETENSORS.family, **dict.fromkeys((*TORCH_SUFFIXES, ".tar"), TORCH_ZIP.family)}
"""The families of formats that are written, by suffix."""

FORMATS = {"safetensors": SAFETENSORS.family, "torch": TORCH_ZIP.family}
"""The families by the names that users give."""

_OWN = {".pt": TORCHSCRIPT.family, ".pt2": TORCH_EXPORT.family}
_OTHER = {
    ".gguf": (
        "GGUF",
        "python convert_hf_to_gguf.py MODEL_DIR, of llama.cpp, writes it from a directory of safetensors",
    ),
    ".onnx": ("ONNX", "torch.onnx.export writes it where the model is made"),
    ".npz": ("NumPy", "numpy.savez writes it from safetensors.numpy.load_file(path)"),
    ".npy": ("NumPy", "numpy.save writes it from safetensors.numpy.load_file(path)"),
    ".h5": ("HDF5", "model.save_weights writes it where the model is made"),
    ".hdf5": ("HDF5", "model.save_weights writes it where the model is made"),
    ".keras": ("Keras", "model.save writes it where the model is made"),
    ".pdparams": ("Paddle", "paddle.save writes it where the model is made"),
    ".msgpack": ("Flax", "flax.serialization.to_bytes writes it where the model is made"),
    ".tflite": ("TensorFlow Lite", "a converter of TensorFlow writes it"),
    ".pb": ("TensorFlow", "a converter of TensorFlow writes it"),
    ".mlmodel": ("Core ML", "coremltools writes it"),
    ".pt2": ("torch.export", "torch.export.save writes it where the model is made"),
}
"""Formats that are not written, and what writes them."""

_SIZE = r"(?i)(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?"
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True, slots=True)
class Target:
    """The form of an output: the family of its format, and for a directory the most bytes of a shard."""

    family: str
    shard_size: int | None = None

    @property
    def is_directory(self) -> bool:
        """Whether the output is a directory of shards."""
        return self.shard_size is not None


def parse_size(value: str | int) -> int:
    """Return a size such as "5GB" (powers of 1000), "2GiB" or 1000 in bytes; UsageError for other values."""
    found = re.fullmatch(_SIZE, str(value).strip())
    size = 0
    if found and len(found[1]) < 20:
        size = int(float(found[1]) * (1024 if found[3] else 1000) ** _POWERS[found[2].lower()])
    if size <= 0:
        message = f"max_shard_size is a size such as 5GB or 500MB, not {printable(repr(value))}"
        raise UsageError(message, hint=Argument("max_shard_size", "5GB"))
    return size


def target_of(
    checkpoint: Checkpoint,
    output: Path | int | None,
    *,
    folder: bool,
    max_shard_size: str | int | None,
    own: bool,
    format_: str | None,
) -> Target | None:
    """Return the form of the output, or None if it has the format and the files of the input.

    Args:
        checkpoint: The input.
        output: Its path, None for a default name next to the input, or a descriptor.
        folder: Whether the user named a directory, by a slash at the end.
        max_shard_size: The most bytes of a shard.
        own: Whether the output may have the format and the files of the input without being written anew.
        format_: "safetensors" or "torch", if the user named it.

    Raises:
        OutputError: The suffix belongs to a format that is not written, or contradicts the rest.
        UsageError: A value is wrong.
    """
    shard_size = None if max_shard_size is None else parse_size(max_shard_size)
    named = None if format_ is None else _family(format_)
    suffix = suffix_of(output, checkpoint) if isinstance(output, Path) else ""
    if isinstance(output, Path):
        _check_suffix(checkpoint, output, suffix, named, own=own)
    family = named or SUFFIXES.get(suffix)
    directory = folder or shard_size is not None or (isinstance(output, Path) and not suffix and not own)
    if isinstance(output, Path) and suffix and directory:
        raise _no_file(output)
    if shard_size is not None and not isinstance(output, Path):
        raise UsageError("shards need a directory", hint=(Argument("output", "DIRECTORY"), " names it"))
    if own and named in {None, family_of(checkpoint.format)}:
        if not directory and _is_own(checkpoint, suffix):
            return None
        if directory and checkpoint.is_directory and shard_size is None:
            return None
    if directory or (checkpoint.is_directory and not suffix and output is not None and not isinstance(output, int)):
        default = _default_family(checkpoint) if own else SAFETENSORS.family
        return Target(family or default, shard_size or MAX_SHARD_SIZE)
    return Target(family or _default_family(checkpoint))


def new_suffix(checkpoint: Checkpoint, format_: str | None) -> str | None:
    """Return the suffix of a file of the format that the user named; None if that is the format of the input."""
    family = None if format_ is None else _family(format_)
    if family in {None, family_of(checkpoint.format)}:
        return None
    return next(suffix for suffix, known in SUFFIXES.items() if known == family)


def own_target(checkpoint: Checkpoint) -> Target:
    """Return the form of a checkpoint itself; OutputError if it has a format that is not written anew."""
    family = family_of(checkpoint.format)
    if family not in SUFFIXES.values():
        raise OutputError(
            f"{checkpoint.format} is not written anew: choose safetensors or torch by the suffix of the output",
            hint=Argument("output", "OUTPUT.safetensors"),
        )
    return Target(family, MAX_SHARD_SIZE if checkpoint.is_directory else None)


def _family(format_: str) -> str:
    if format_ not in FORMATS:
        message = f"a format is one of {', '.join(FORMATS)}, not {printable(repr(format_))}"
        raise UsageError(message, hint=Argument("format", "safetensors"))
    return FORMATS[format_]


def _default_family(checkpoint: Checkpoint) -> str:
    own = family_of(checkpoint.format)
    return own if own in SUFFIXES.values() else SAFETENSORS.family


def _is_own(checkpoint: Checkpoint, suffix: str) -> bool:
    """Return whether an output with this suffix, or without one, has the format and the files of the input."""
    if not suffix or checkpoint.is_directory:
        return not suffix
    family = family_of(checkpoint.format)
    same = suffix == suffix_of(checkpoint.path, None)
    return same or suffix in OWN_SUFFIXES.get(family, ()) or family in {SUFFIXES.get(suffix), _OWN.get(suffix)}


def _check_suffix(checkpoint: Checkpoint, output: Path, suffix: str, named: str | None, *, own: bool) -> None:
    """Raise OutputError for a suffix that no format has that is written, or that contradicts the named format.

    `own` is whether the output may have the format of the input where that is not written anew.
    """
    if named is not None and SUFFIXES.get(suffix, named) != named:
        raise OutputError(
            f"the suffix of {printable(str(output))} is that of another format than {named}",
            hint=Argument("output", printable(str(output.with_suffix(".safetensors" if named != "torch" else ".pth")))),
        )
    if is_index_name(output.name):
        raise OutputError(
            f"{printable(str(output))} is the name of an index, which is written with its shards",
            hint=Argument("output", printable(str(output.parent / output.name.partition(".")[0]))),
        )
    may_be_own = own or family_of(checkpoint.format) in SUFFIXES.values()
    if not suffix or suffix in SUFFIXES or (may_be_own and _is_own(checkpoint, suffix)):
        return
    if checkpoint.is_directory and suffix in OWN_SUFFIXES.get(family_of(checkpoint.format), ()):
        raise OutputError(
            f"{printable(str(output))} would be a directory: the model and its weights are in several files",
            hint=Argument("output", printable(str(output.with_suffix("")))),
        )
    name, how = _OTHER.get(suffix, ("", ""))
    if name:
        raise OutputError(
            f"{printable(str(output))} would be {name}, which is not written: {how}", hint=_instead(output)
        )
    raise OutputError(
        f"no checkpoint format has the suffix {printable(suffix)} of {printable(str(output))}", hint=_instead(output)
    )


def _instead(output: Path) -> tuple[Argument, str, Argument]:
    safe, torch = (printable(str(output.with_suffix(suffix))) for suffix in (".safetensors", ".pth"))
    return Argument("output", safe), " or ", Argument("output", torch)


def _no_file(output: Path) -> OutputError:
    return OutputError(
        f"{printable(str(output))} has the suffix of a file, and shards are written into a directory",
        hint=Argument("output", printable(str(output.with_suffix("")))),
    )
