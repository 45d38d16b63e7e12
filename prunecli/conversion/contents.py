"""What goes into a new checkpoint: the tensors by name, those that are tied, and the contents besides them."""

from __future__ import annotations

from dataclasses import field, replace
from itertools import islice
from typing import TYPE_CHECKING

from prunecli.checkpoint import OUTSIDE
from prunecli.errors import Argument, CheckpointError, SameCallWith
from prunecli.formats.extras import Extras
from prunecli.formats.registry import family_of, format_of
from prunecli.formats.safetensors.format import SAFETENSORS
from prunecli.formats.safetensors.writer import NewTensor
from prunecli.formats.shards import read_index
from prunecli.formats.torch.state_dict_pickle import TORCH_NAMES
from prunecli.text.escape import listed, printable, quoted
from prunecli.text.numbers import counted
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo

_NAMED = 6  # entries that a message lists before it counts the rest
_MOST_OTHERS = 1000
_CONVERTED_VIEWS = ("conjugate view", "negative view")
_FORMAT, _LIBRARY = "format", "pt"  # the key of the metadata that names the library; loaders of the Hub require it


@dataclass(frozen=True, slots=True)
class Contents:
    """What goes into a new checkpoint.

    Attributes:
        tensors: The tensors in the order of the input, tied ones as well.
        texts: Numbers and strings by dotted name.
        rest: The name and kind of everything else.
        tied: The kept name of each tied name, as the metadata of safetensors has it.
    """

    tensors: tuple[NewTensor, ...]
    texts: Mapping[str, str] = field(default_factory=dict)
    rest: tuple[tuple[str, str], ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)


def contents_of(checkpoint: Checkpoint) -> Contents:
    """Return the contents of a checkpoint; headers are read again, and no tensor."""
    inside = checkpoint.inside
    blocks = tuple((t.name, f"{t.packed.format} blocks") for t in inside if t.packed is not None and _has_blocks(t))
    inside = [tensor for tensor in inside if not _has_blocks(tensor)]
    for tensor in inside:
        if tensor.unprunable_reason in _CONVERTED_VIEWS:
            raise CheckpointError(
                f"{quoted(tensor.name)} is a {tensor.unprunable_reason}: the stored numbers are not its values",
                hint="in Python, save tensor.resolve_conj().resolve_neg()",
            )
    is_safe = family_of(checkpoint.format) == SAFETENSORS.family
    if is_safe:
        inside.sort(key=lambda tensor: (tensor.file, tensor.span.start, tensor.span.length))
    extras = _merged(_extras_of_files(checkpoint, inside))
    tensors = tuple(NewTensor(tensor.name, tensor.codes, tensor.dtype) for tensor in inside)
    contents = Contents(tensors, extras.texts, (*blocks, *extras.rest))
    return _with_stored_once(contents) if is_safe else _with_own_format(contents)


def _has_blocks(tensor: TensorInfo) -> bool:
    """Return whether the tensor has quantized blocks of GGUF, which are bytes without a meaning in another format."""
    return tensor.packed is not None and tensor.packed.format.startswith("GGUF ")


def full_name(checkpoint: Checkpoint, tensor: TensorInfo) -> str:
    """Return the dotted path of a tensor from the top of its file on."""
    inside = tensor.unprunable_reason != OUTSIDE
    return f"{checkpoint.key}.{tensor.name}" if checkpoint.key and inside else tensor.name


def _extras_of_files(checkpoint: Checkpoint, inside: Sequence[TensorInfo]) -> Iterable[Extras]:
    if checkpoint.assembly is not None:
        from prunecli.formats.dcp.contents import distributed_contents

        yield _listed(checkpoint, distributed_contents(checkpoint))
    for number, file in enumerate(checkpoint.files if checkpoint.assembly is None else ()):
        own = [tensor for tensor in inside if tensor.file == number]
        format_ = format_of(file)
        with file.path.open("rb") as stream:
            if format_.extras is not None:
                yield format_.extras(stream, str(file.path), [full_name(checkpoint, tensor) for tensor in own])
            else:
                spans = {tensor.span for tensor in own}
                yield _listed(checkpoint, format_.contents(stream, str(file.path), spans))
    if checkpoint.index is not None:
        yield Extras(read_index(checkpoint.path / checkpoint.index).metadata)


def _listed(checkpoint: Checkpoint, others: Iterable[tuple[str, str]]) -> Extras:
    return Extras(rest=(*checkpoint.unprunable_entries, *islice(others, _MOST_OTHERS)))


def _merged(all_extras: Iterable[Extras]) -> Extras:
    """Return the contents of all files; a text that differs between files is one that cannot be held."""
    texts: dict[str, str] = {}
    rest: dict[str, str] = {}
    for extras in all_extras:
        rest.update(extras.rest)
        for name, text in extras.texts.items():
            if texts.setdefault(name, text) != text:
                rest[name] = "another text in another file"
    return Extras(texts, tuple(rest.items()))


def _with_stored_once(contents: Contents) -> Contents:
    """Add the tensors that the metadata names as tied to a stored one."""
    stored = {tensor.name: tensor for tensor in contents.tensors}
    pairs = {name: kept for name, kept in contents.texts.items() if kept in stored and name not in stored}
    texts = {name: text for name, text in contents.texts.items() if name not in pairs}
    added = tuple(replace(stored[kept], name=name) for name, kept in pairs.items())
    return replace(contents, tensors=(*contents.tensors, *added), texts=texts)


def _with_own_format(contents: Contents) -> Contents:
    """Move a text under the key that loaders of the Hub read to what cannot be held, unless it is what they read."""
    if contents.texts.get(_FORMAT, _LIBRARY) == _LIBRARY:
        return contents
    texts = {name: text for name, text in contents.texts.items() if name != _FORMAT}
    return replace(contents, texts=texts, rest=(*contents.rest, (_FORMAT, "text under a key that loaders read")))


def with_tied_once(contents: Contents) -> Contents:
    """Return the contents with one tensor for the names that are the same elements: the first one by name."""
    groups: dict[object, list[NewTensor]] = {}
    for tensor in contents.tensors:
        groups.setdefault(identity(tensor), []).append(tensor)
    tied: dict[str, str] = {}
    for group in groups.values():
        first, *others = sorted(tensor.name for tensor in group)
        tied.update(dict.fromkeys(others, first))
    return replace(contents, tensors=tuple(t for t in contents.tensors if t.name not in tied), tied=tied)


def identity(new: NewTensor) -> object:
    """Return what tensors have in common that are the same elements."""
    tensor = new.tensor
    if not tensor.numel:
        return new.name
    return tensor.file, tensor.span.start, tensor.offset, tensor.dtype, new.dtype, tensor.shape, tensor.strides


def metadata_of(contents: Contents, *, from_safetensors: bool) -> dict[str, str]:
    """Return the metadata of a safetensors file: the texts, the tied names, and the library that the file is for."""
    given = {} if from_safetensors and not contents.tied else {_FORMAT: _LIBRARY}
    return {**given, **contents.texts, **contents.tied}


def check_rest(contents: Contents, where: str, *, drop_rest: bool, texts: bool) -> tuple[tuple[str, str], ...]:
    """Return what the format `where` cannot hold; CheckpointError if that is to be an error.

    `texts` is whether it holds numbers and strings.
    """
    rest = contents.rest
    if not texts:
        rest = (*rest, *((name, "text") for name in contents.texts if name != _FORMAT))
    if rest and not drop_rest:
        names = [f"{printable(name)} ({printable(kind)})" for name, kind in rest]
        raise CheckpointError(
            f"{where} cannot hold {counted(len(rest), 'entry', 'entries')}: {listed(names, _NAMED)}",
            hint=(SameCallWith(Argument("drop_rest", True)), " leaves them out"),
        )
    return rest


def check_torch(tensors: Sequence[NewTensor]) -> None:
    """Raise CheckpointError for a tensor of a dtype that torch has not."""
    for tensor in tensors:
        if tensor.dtype not in TORCH_NAMES:
            raise CheckpointError(
                f"a torch file cannot hold {quoted(tensor.name)}: torch stores no {tensor.dtype}",
                hint=("write safetensors: ", Argument("output", "OUTPUT.safetensors")),
            )
