"""Lay out the files of a new checkpoint: one file or shards, safetensors or torch."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.checkpoint import row_major
from prunecli.conversion.contents import check_rest, check_torch, contents_of, identity, metadata_of, with_tied_once
from prunecli.conversion.sharding import divided, file_names, index_of
from prunecli.errors import CheckpointError
from prunecli.formats.model_files import is_index_name
from prunecli.formats.registry import family_of
from prunecli.formats.safetensors.format import SAFETENSORS
from prunecli.formats.safetensors.writer import arrange_safetensors
from prunecli.formats.torch.format import TORCH_ZIP
from prunecli.formats.torch.retree import Changes, rebuild
from prunecli.formats.torch.state_dict_pickle import StoredTensor, pickled_state_dict
from prunecli.formats.torch.writer import NewStorage, arrange_torch, folder_of
from prunecli.io.arrangement import Arrangement, movable
from prunecli.text.escape import listed, printable, quoted
from prunecli.text.numbers import counted
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import Checkpoint
    from prunecli.conversion.contents import Contents
    from prunecli.conversion.stripping import Stripped
    from prunecli.conversion.target import Target
    from prunecli.formats.safetensors.writer import NewTensor
    from prunecli.io.arrangement import Move, OutputFile

_NAMED = 6


@dataclass(frozen=True, slots=True)
class Choices:
    """What a user decides about a conversion: tied names get tensors of their own; what does not fit is left out."""

    untie: bool = False
    drop_rest: bool = False


@dataclass(frozen=True, slots=True)
class Converted:
    """A planned conversion: the arrangement, and sentences about what it changes.

    `left_out` are the names and kinds of what the new format cannot hold; `tied` the names that are stored once.
    """

    arrangement: Arrangement
    tensors: int
    facts: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    texts: tuple[str, ...] = ()
    tied: dict[str, str] = field(default_factory=dict)


def converted(checkpoint: Checkpoint, target: Target, output: Path | None, choices: Choices) -> Converted:
    """Return the plan of `checkpoint` in the form `target`; CheckpointError if that cannot hold it."""
    if _keeps_object(checkpoint, target) and not choices.untie:
        expected = [(tensor.name, tensor.dtype, tensor.shape) for tensor in checkpoint.tensors]
        return _same_object(checkpoint, output, Changes(), expected)
    contents = contents_of(checkpoint)
    return flat(checkpoint, contents, target, output, choices)


def _keeps_object(checkpoint: Checkpoint, target: Target) -> bool:
    """Return whether the pickled object of the input is written as it is: from one torch file to another."""
    family = family_of(checkpoint.format)
    return not target.is_directory and not checkpoint.is_directory and family == target.family == TORCH_ZIP.family


def stripped_to(
    checkpoint: Checkpoint, stripped: Stripped, target: Target, output: Path | None, choices: Choices
) -> Converted:
    """Return the plan of what is left of `checkpoint` in the form `target`."""
    if _keeps_object(checkpoint, target) and not checkpoint.is_module and not choices.untie:
        expected = [(new.name, new.dtype, new.tensor.shape) for new in stripped.contents.tensors]
        return _same_object(checkpoint, output, stripped.changes, expected)
    return flat(checkpoint, stripped.contents, target, output, choices)


def _same_object(
    checkpoint: Checkpoint,
    output: Path | None,
    changes: Changes,
    expected: Sequence[tuple[str, str, tuple[int, ...]]],
) -> Converted:
    (file,) = checkpoint.files
    with file.path.open("rb") as stream:
        built = rebuild(stream, str(file.path), 0, changes)
    made, moves = arrange_torch(
        built.pickle, built.storages, name="", folder=folder_of(output), output=0, byteorder=built.byteorder
    )
    arrangement = Arrangement(TORCH_ZIP.name, (made,), tuple(moves), expected=frozenset(expected), keys=checkpoint.keys)
    return Converted(arrangement, len(expected))


def flat(
    checkpoint: Checkpoint, contents: Contents, target: Target, output: Path | None, choices: Choices
) -> Converted:
    """Return the plan of a dict of tensors, with the other contents as far as the format holds them."""
    safe = target.family == SAFETENSORS.family
    if not contents.tensors:
        raise CheckpointError(f"{printable(str(checkpoint.path))} has no tensors to convert")
    if not safe:
        check_torch(contents.tensors)
    elif not choices.untie:
        contents = with_tied_once(contents)
    shards = divided(contents.tensors, target.shard_size) if target.shard_size else [list(contents.tensors)]
    # Shards of torch have their texts in the index, which a single one does not have.
    holds_texts = safe or len(shards) > 1
    left_out = check_rest(contents, _where(target), drop_rest=choices.drop_rest, texts=holds_texts)
    names = file_names(target.family, len(shards)) if target.is_directory else [""]
    metadata = metadata_of(contents, from_safetensors=family_of(checkpoint.format) == SAFETENSORS.family)
    outputs: list[OutputFile] = []
    moves: list[Move] = []
    for number, (name, shard) in enumerate(zip(names, shards, strict=True)):
        if safe:
            own = metadata if len(shards) == 1 else {k: v for k, v in metadata.items() if k == "format"}
            made, moved = arrange_safetensors(shard, own, name=name, output=number)
        else:
            folder = folder_of(Path(name) if name else output)
            made, moved = _torch(shard, name, folder, number, untie=choices.untie)
        outputs.append(made)
        moves += moved
    arrangement = Arrangement(
        SAFETENSORS.name if safe else TORCH_ZIP.name,
        tuple(outputs),
        tuple(moves),
        target.is_directory,
        _index(target, names, shards, {k: v for k, v in metadata.items() if k != "format"}),
        _other_files(checkpoint, names) if target.is_directory else (),
        frozenset((new.name, new.dtype, new.tensor.shape) for new in contents.tensors),
    )
    texts = tuple(name for name in contents.texts if name != "format") if holds_texts else ()
    facts = tuple(_facts(checkpoint, contents, target, left_out, texts))
    tied = dict(contents.tied)
    return Converted(arrangement, len(contents.tensors) + len(tied), facts, left_out, texts, tied)


def _where(target: Target) -> str:
    if target.family == SAFETENSORS.family:
        return "safetensors"
    return "shards of torch" if target.is_directory else "a torch file of tensors"


def _index(
    target: Target, names: Sequence[str], shards: Sequence[Sequence[NewTensor]], metadata: dict[str, str]
) -> tuple[tuple[str, bytes], ...]:
    return (index_of(target.family, names, shards, metadata),) if len(shards) > 1 else ()


def _other_files(checkpoint: Checkpoint, names: Sequence[str]) -> tuple[Path, ...]:
    """Return the files of the input directory that belong to the output too: not its index."""
    taken = set(names)
    return tuple(
        file
        for file in checkpoint.other_files
        if file != checkpoint.index
        and file.as_posix() not in taken
        and not is_index_name(file.name)
        and (checkpoint.assembly is None or not file.name.startswith("."))
    )


def _facts(
    checkpoint: Checkpoint,
    contents: Contents,
    target: Target,
    left_out: Sequence[tuple[str, str]],
    texts: Sequence[str],
) -> list[str]:
    """Return sentences about what changes besides the format."""
    facts = []
    if texts and family_of(checkpoint.format) != SAFETENSORS.family:
        facts.append(f"in the metadata, as texts: {listed([printable(name) for name in texts], _NAMED)}")
    if contents.tied:
        pairs = [f"{quoted(name)} as {quoted(kept)}" for name, kept in contents.tied.items()]
        facts.append(f"stored once, with the other name in the metadata: {listed(pairs, _NAMED)}")
    strided = sum(not tensor.tensor.contiguous for tensor in contents.tensors)
    if strided:
        facts.append(f"{counted(strided, 'strided tensor is', 'strided tensors are')} written in row-major order")
    if left_out:
        facts.append(
            f"left out: {listed([f'{printable(name)} ({printable(kind)})' for name, kind in left_out], _NAMED)}"
        )
    others = _other_files(checkpoint, ())
    if others and not target.is_directory:
        facts.append(f"not copied: {counted(len(others), 'other file')} of the directory")
    return facts


def _torch(
    tensors: Sequence[NewTensor], name: str, folder: str, output: int, *, untie: bool
) -> tuple[OutputFile, list[Move]]:
    """Return a torch file with a dict of these tensors; tensors that are the same elements share a storage."""
    keys: dict[object, str] = {}
    storages: list[NewStorage] = []
    stored: list[StoredTensor] = []
    for new in tensors:
        identified = new.name if untie else identity(new)
        if identified not in keys:
            keys[identified] = str(len(storages))
            elements = movable(new.tensor)
            dtype = elements.dtype if new.dtype == new.tensor.dtype else new.dtype
            storages.append(NewStorage(elements, dtype, new.nbytes, new.name))
        shape = new.tensor.shape
        key = keys[identified]
        stored.append(StoredTensor(new.name, new.dtype, shape, row_major(shape), 0, key, new.tensor.numel))
    return arrange_torch(pickled_state_dict(stored), storages, name=name, folder=folder, output=output)
