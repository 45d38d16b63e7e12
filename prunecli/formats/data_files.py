"""Files with the numbers of a model that lie next to it, such as the external data of ONNX."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from prunecli.checkpoint import CheckpointFile
from prunecli.errors import CheckpointError
from prunecli.formats.shards import check_link
from prunecli.text.escape import quoted
from prunecli.text.member_names import leaves_its_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from prunecli.checkpoint import TensorInfo
    from prunecli.formats.listing import Listing


def find_data_files(model: Path, listing: Listing) -> tuple[CheckpointFile, ...]:
    """Return the files that `listing`, of the file `model`, names.

    Raises CheckpointError for a path that leaves the model's directory, a missing file, and a tensor that ends outside
    of its file.
    """
    files = []
    for number, name in enumerate(listing.data_files, 1):
        _check_name(model, name)
        path = model.parent / name
        check_link(model.parent, path)
        if path.samefile(model) if path.exists() else False:
            raise CheckpointError(f"{model} names itself as the file with its weights")
        file = _file(model, path, listing.format)
        _check_places(file, [tensor for tensor in listing.tensors if tensor.file == number])
        files.append(file)
    return tuple(files)


def _check_name(model: Path, name: str) -> None:
    if leaves_its_folder(name):
        raise CheckpointError(f"{model} has weights in {quoted(name)}, which is not a plain path inside its directory")


def _file(model: Path, path: Path, format_name: str) -> CheckpointFile:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise CheckpointError(
            f"{model} has its weights in {path.name}, which is missing", hint=f"download or copy it to {path}"
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is not a regular file")
    return CheckpointFile(path, status.st_size, (), status.st_mtime_ns, format_name)


def _check_places(file: CheckpointFile, tensors: Sequence[TensorInfo]) -> None:
    for tensor in tensors:
        if tensor.span.end > file.size:
            raise CheckpointError(
                f"{file.path} is truncated: the tensor {quoted(tensor.name)} ends at byte {tensor.span.end} and the "
                f"file at {file.size}",
                hint="download or copy the file again",
            )
