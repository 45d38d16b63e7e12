"""Open a directory of torch.distributed.checkpoint: each tensor is listed once, with its whole shape."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from prunecli.checkpoint import OUTSIDE, Checkpoint, TensorInfo
from prunecli.errors import CheckpointError
from prunecli.formats.config import model_type_in
from prunecli.formats.dcp.build import AssemblyBuilder, Described
from prunecli.formats.dcp.detect import metadata_names, sharded_names
from prunecli.formats.dcp.items import Locator
from prunecli.formats.dcp.metadata import read_metadata
from prunecli.formats.dcp.saved import from_headers, from_metadata
from prunecli.formats.listing import Listing
from prunecli.formats.model_files import SAVE_FULL
from prunecli.formats.pickle.reader import Persistent
from prunecli.formats.pickle.tensors import with_tensors
from prunecli.formats.shards import check_shard, file_names, other_files
from prunecli.text.escape import listed, printable, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from prunecli.formats.dcp.metadata import Metadata
    from prunecli.formats.dcp.saved import Saved

_COPIED = "each rank has stored a copy of its own"
_NAMED = 5  # files that a message lists before it counts the rest


def open_distributed(directory: Path, keys: Sequence[str]) -> Checkpoint:
    """Return the metadata of a distributed checkpoint; `keys` are paths in the dict that was saved, or globs over them.

    Raises CheckpointError where files are missing or damaged, or where chunks do not make whole tensors.
    """
    saved = read_saved(directory)
    builder = AssemblyBuilder(str(directory), len(saved.files))
    found: dict[str, Described] = {}
    paths: dict[str, tuple[object, ...]] = {}
    for tensor in saved.tensors:
        paths[tensor.name] = tensor.path
        found[tensor.name] = builder.add(tensor.name, tensor.dtype, tensor.shape, tensor.chunks)
    listing = with_tensors(
        Listing(saved.format, ()), _tree(paths), str(directory), keys, lambda name, leaf: _describe(found, name, leaf)
    )
    _check_extensions(directory, saved, listing, found)
    members = frozenset(file.path.relative_to(directory).as_posix() for file in saved.files)
    others, notes = other_files(directory, members)
    return Checkpoint(
        directory,
        listing.format,
        saved.files,
        listing.tensors,
        is_directory=True,
        other_files=others,
        keys=listing.keys,
        parts=listing.parts,
        notes=(*saved.notes, *listing.notes, *notes, *_stale(others)),
        unprunable_entries=listing.unprunable_entries,
        model_type=model_type_in(directory),
        assembly=builder.finished(Locator([str(file.path) for file in saved.files], saved.archives)),
    )


def read_saved(directory: Path) -> Saved:
    """Return what a distributed checkpoint has saved."""
    names = file_names(directory)
    if metadata := metadata_names(names):
        return from_metadata(directory, [_metadata(directory, name) for name in metadata])
    if sharded := sharded_names(directory, names):
        return from_headers(directory, sharded)
    raise CheckpointError(
        f"{directory} lacks the file .metadata, which says where the chunks of its tensors are",
        hint=f"copy it to {directory / '.metadata'} from where the checkpoint was saved",
    )


def _metadata(directory: Path, name: str) -> Metadata:
    check_shard(directory, name)
    path = directory / name
    try:
        with path.open("rb") as file:
            return read_metadata(file, str(path))
    except OSError as error:
        raise CheckpointError(f"cannot read {printable(str(path))}: {error.strerror}") from error


def _tree(paths: Mapping[str, tuple[object, ...]]) -> dict[object, object]:
    """Return the dict that was saved, with a leaf for each tensor; a flat one where two paths contradict each other."""
    root: dict[object, object] = {}
    for name, path in paths.items():
        node: object = root
        for part in path[:-1]:
            node = node.setdefault(part, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or not path or path[-1] in node:
            return {name: Persistent(name) for name in paths}
        node[path[-1]] = Persistent(name)
    return root


def _describe(found: Mapping[str, Described], name: str, leaf: object) -> TensorInfo | str:
    one = found[cast("str", cast("Persistent", leaf).pid)]
    if one.tensor is None:
        return one.kind
    return replace(one.tensor, name=name, unprunable_reason=_COPIED if one.copied else None)


def _check_extensions(directory: Path, saved: Saved, listing: Listing, found: Mapping[str, Described]) -> None:
    """Refuse tensors of the state_dict whose stored bytes are not their elements."""
    starts = {tensor.span.start for tensor in listing.tensors if tensor.unprunable_reason != OUTSIDE and tensor.numel}
    for name, extension in saved.extensions.items():
        one = found.get(name)
        if one is not None and one.tensor is not None and one.tensor.numel and one.tensor.span.start in starts:
            raise CheckpointError(
                f"{directory}: the tensor {quoted(name)} is stored through the extension {quoted(extension)}, which is"
                " not supported",
                hint=SAVE_FULL,
            )


def _stale(others: Iterable[Path]) -> tuple[str, ...]:
    names = [str(path) for path in others if path.suffix == ".distcp"]
    return (f"copied unchanged, because the metadata names them nowhere: {listed(names, _NAMED)}",) if names else ()
