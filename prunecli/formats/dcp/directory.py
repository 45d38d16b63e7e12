"""Open a directory of torch.distributed.checkpoint: each tensor is listed once, with its whole shape."""

from __future__ import annotations

import re
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
from prunecli.formats.pickle.tree import BYTES_PER_CONTAINER
from prunecli.formats.shards import check_shard, file_names, other_files
from prunecli.io.read_errors import read_errors
from prunecli.text.escape import listed, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from prunecli.formats.dcp.metadata import Metadata
    from prunecli.formats.dcp.saved import Saved

_COPIED = "each rank has stored a copy of its own"
_OPTIMIZER = re.compile(r"optim(izer)?s?(_\w+)?")  # the first part of flat names
_NAMED = 5  # files that a message lists before it counts the rest


def open_distributed(directory: Path, keys: Sequence[str]) -> Checkpoint:
    """Return the metadata of a distributed checkpoint; `keys` are paths in the dict that was saved, or globs over them.

    Raises CheckpointError where files are missing or damaged, or where chunks do not make whole tensors.
    """
    saved = read_saved(directory)
    builder = AssemblyBuilder(len(saved.files))
    found: dict[str, Described] = {}
    paths: dict[str, tuple[object, ...]] = {}
    for tensor in saved.tensors:
        paths[tensor.name] = tensor.path
        found[tensor.name] = builder.add(tensor.name, tensor.dtype, tensor.shape, tensor.chunks)
    for name, extension in saved.extensions.items():
        if name in found:
            problem = f"is stored through the extension {quoted(extension)}, which is not supported"
            found[name] = replace(found[name], problem=problem)
    listing = _listing(directory, saved, found, _tree(paths), keys)
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
    with read_errors(path), path.open("rb") as file:
        return read_metadata(file, str(path))


def _tree(paths: Mapping[str, tuple[object, ...]]) -> dict[object, object]:
    """Return the dict that was saved, with a leaf for each tensor; a flat one where two paths contradict each other."""
    root: dict[object, object] = {}
    for name, path in paths.items():
        node: object = root
        for part in path[:-1]:
            node = node.setdefault(part, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or not path or path[-1] in node:
            return _training_apart({name: Persistent(name) for name in paths})
        node[path[-1]] = Persistent(name)
    return _training_apart(root)


def _training_apart(root: Mapping[object, object]) -> dict[object, object]:
    """Return a dict with the flat names of an optimizer, such as "optimizer.state.x", in a dict of their own."""
    apart: dict[object, object] = {}
    for key, value in root.items():
        head, dot, rest = key.partition(".") if isinstance(key, str) else ("", "", "")
        inner = apart.setdefault(head, {}) if dot and _OPTIMIZER.fullmatch(head) and head not in root else None
        if isinstance(inner, dict) and isinstance(value, Persistent):
            inner[rest] = value
        else:
            apart[key] = value
    return apart


def _listing(
    directory: Path, saved: Saved, found: Mapping[str, Described], root: object, keys: Sequence[str]
) -> Listing:
    """Return the tensors below `root`, and as other entries those outside of the state_dict that are not whole."""
    names: dict[str, str] = {}

    def describe(name: str, leaf: object) -> TensorInfo | str:
        names[name] = saved_name = cast("str", cast("Persistent", leaf).pid)
        one = found[saved_name]
        if one.tensor is None:
            return one.kind
        return replace(one.tensor, name=name, unprunable_reason=_COPIED if one.copied else None)

    size = len(found) * BYTES_PER_CONTAINER  # every name may have a container of its own
    listing = with_tensors(Listing(saved.format, ()), root, str(directory), keys, describe, size)
    broken = {t.name: found[names[t.name]].problem for t in listing.tensors if found[names[t.name]].problem}
    for tensor in listing.tensors:
        if tensor.name in broken and tensor.unprunable_reason != OUTSIDE:
            message = f"{directory}: the tensor {quoted(names[tensor.name])} {broken[tensor.name]}"
            raise CheckpointError(message, hint=SAVE_FULL)
    whole = tuple(tensor for tensor in listing.tensors if tensor.name not in broken)
    others = tuple((name, f"tensor that {problem}") for name, problem in broken.items())
    return replace(listing, tensors=whole, unprunable_entries=(*listing.unprunable_entries, *others))


def _stale(others: Iterable[Path]) -> tuple[str, ...]:
    names = [str(path) for path in others if path.suffix == ".distcp"]
    return (f"copied unchanged, because the metadata names them nowhere: {listed(names, _NAMED)}",) if names else ()
