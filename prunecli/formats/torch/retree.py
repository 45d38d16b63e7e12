"""Write the object of a file of torch.save once more, into a new zip: with entries left out, and storages cast.

The pickle keeps its structure: classes, attributes, tied and strided tensors. Storages that no entry refers to are
left out. Nothing is unpickled.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from prunecli.checkpoint import TensorInfo
from prunecli.dtypes import BITS
from prunecli.errors import Argument, CheckpointError
from prunecli.formats.pickle.emit import Edits, emit, terms_below
from prunecli.formats.pickle.graph import BUILD, SET, Term, trace
from prunecli.formats.pickle.reader import read_pickle
from prunecli.formats.pickle.tree import prefixes
from prunecli.formats.torch.format import is_legacy
from prunecli.formats.torch.legacy import read_legacy
from prunecli.formats.torch.packed import open_zip
from prunecli.formats.torch.reader import zip_storages
from prunecli.formats.torch.records import resave, torch_archive
from prunecli.formats.torch.state_dict_pickle import TYPED
from prunecli.formats.torch.writer import NewStorage
from prunecli.io.arrangement import movable, raw
from prunecli.text.escape import printable, quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from prunecli.formats.torch.rebuild import Storage

_PERSISTENT = b"Q"


@dataclass(frozen=True, slots=True)
class Changes:
    """What is changed in a pickled object. Paths are dotted and lead from the object through dicts.

    Attributes:
        dropped: The paths of entries that are left out.
        renamed: The new paths of entries; only their last keys differ.
        casts: The new dtypes of storages and the names of tensors in them, by the start and the length of their bytes.
        replaced: The paths of entries that get the value of another path.
    """

    dropped: Collection[str] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    casts: Mapping[tuple[int, int], tuple[str, str]] = field(default_factory=dict)
    replaced: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The pickle and the storages of the new file."""

    pickle: bytes
    storages: tuple[NewStorage, ...]
    byteorder: str


def rebuild(file: BinaryIO, label: str, number: int, changes: Changes) -> Rebuilt:
    """Return the object of the torch file with `changes`; `number` is that of the file in its checkpoint.

    Raises CheckpointError, naming `label`, if the pickle cannot be written again.
    """
    data, storages, crcs, big_endian = _opened(file, label)
    try:
        root = trace(data).root
        tree = _Tree(root, changes, storages, crcs, number)
        pickle = emit(root, data[1], tree.edits)
    except (ValueError, TypeError) as problem:
        message = f"the pickle in {label} cannot be written again: {problem}"
        raise CheckpointError(message, hint=resave(label)) from problem
    return Rebuilt(pickle, tuple(tree.new.values()), "big" if big_endian else "little")


def _opened(file: BinaryIO, label: str) -> tuple[bytes, dict[str, Storage], dict[str, int], bool]:
    """Return the pickle, the storages by key, their known checksums by key, and whether they are big-endian."""
    file.seek(0)
    if is_legacy(file.read(64)):
        legacy = read_legacy(file, label)
        file.seek(legacy.object_span.start)
        data = file.read(legacy.object_span.length)
        return data, {storage.claim.key: storage for storage in legacy.storages.values()}, {}, False
    opened = open_zip(file, label)
    archive = torch_archive(opened.file, opened.records, label)
    data = archive.read("data.pkl")
    found = zip_storages(read_pickle(io.BytesIO(data), label), archive)
    storages = {storage.claim.key: storage for storage in found.values()}
    crcs = {key: archive.records[f"data/{key}"].crc for key in storages}
    return data, storages, crcs, archive.big_endian


class _Tree:
    """The edits of the graph, and the storages that the new pickle refers to by their old keys."""

    def __init__(
        self, root: object, changes: Changes, storages: Mapping[str, Storage], crcs: Mapping[str, int], number: int
    ) -> None:
        self.changes, self.storages, self.crcs, self.number = changes, storages, crcs, number
        self.new: dict[str, NewStorage] = {}
        self.parts: dict[int, tuple[object, ...]] = {}
        self.effects = _kept(root, changes)
        self.keys: dict[str, str] = {}
        self.globals: dict[str, Term] = {}
        self.edits = Edits(self.parts, self.effects)
        found = list(terms_below(root, self.edits))
        for term in found:
            if term.opcode == _PERSISTENT:
                self._persistent(term)
        for term in found:
            self._view(term)

    def _persistent(self, term: Term) -> None:
        match term.parts:
            case (Term(parts=("storage", Term() as kind, str(key), location, int(length), *_)) as pid,):
                storage = self.storages[key]
            case _:
                raise ValueError("it stores more than tensors outside the pickle, such as the source of a class")
        if key not in self.new:
            self.keys[key] = str(len(self.new))
            self.new[key] = self._storage(storage)
        dtype = self._dtype(storage)
        if dtype != storage.claim.dtype:
            kind = self.globals.setdefault(dtype, Term(f"ctorch\n{TYPED[dtype]}\n".encode()))
        self.parts[id(pid)] = ("storage", kind, self.keys[key], location, length)

    def _dtype(self, storage: Storage) -> str:
        return self._cast(storage)[0]

    def _cast(self, storage: Storage) -> tuple[str, str]:
        """Return the new dtype of a storage, and a name for messages."""
        span, claim = storage.span, storage.claim
        return self.changes.casts.get((span.start, span.length), (claim.dtype, f"storage {claim.key}"))

    def _storage(self, storage: Storage) -> NewStorage:
        claim, span, dtype = storage.claim, storage.span, self._dtype(storage)
        if dtype == claim.dtype:
            crc = self.crcs.get(claim.key)
            return NewStorage(raw(span, self.number), "U8", span.length, f"storage {claim.key}", crc, span)
        tensor = TensorInfo("", claim.dtype, (claim.length,), (1,), self.number, span, big_endian=storage.big_endian)
        return NewStorage(movable(tensor), dtype, claim.length * BITS[dtype] // 8, self._cast(storage)[1])

    def _view(self, term: Term) -> None:
        """Add the start of a view of a storage, which the format before torch 1.6 has, to the tensor's offset."""
        match term.parts:
            case (Term(opcode=b"Q", parts=(Term(parts=("storage", _, _, _, _, Term() as view)),)), int(offset), *rest):
                first = view.parts[1]
            case _:
                return
        if isinstance(first, int) and first:
            self.parts[id(term)] = (term.parts[0], offset + first, *rest)


def _kept(root: object, changes: Changes) -> dict[int, list[tuple[Any, ...]]]:
    """Return the effects of the dicts from which entries are left out, or whose entries get other keys or values."""
    if not changes.dropped and not changes.renamed and not changes.replaced:
        return {}
    values = _values(root, changes.replaced.values())
    edited: dict[int, list[tuple[Any, ...]]] = {}
    above = prefixes([*changes.dropped, *changes.renamed, *changes.replaced])
    found: set[str] = set()
    stack: list[tuple[str, object]] = [("", root)]
    while stack:
        path, term = stack.pop()
        if not isinstance(term, Term) or id(term) in edited:
            continue
        edited[id(term)] = kept = []
        keys = {}
        for name, effect in _named(path, term):
            if _is_below(name, changes.dropped):
                continue
            if name in changes.renamed or name in changes.replaced:
                found.add(name)
                key = _new_key(path, name, changes)
                keys[effect[1]] = key
                kept.append((SET, key, values.get(changes.replaced.get(name, ""), effect[2])))
                continue
            kept.append(effect)
            if name in above:
                stack.append((name, effect[2]))
        edited |= _renamed_versions(term, keys)
    if missing := sorted(changes.renamed.keys() - found):
        raise _not_renamed(missing[0])
    if missing := sorted(changes.replaced.keys() - found):
        raise ValueError(f"{printable(repr(missing[0]))} is not an entry of a dict")
    return edited


def _new_key(path: str, name: str, changes: Changes) -> str:
    """Return the new key of the entry `name` of the dict at `path`; CheckpointError if it moves to another dict."""
    new, prefix = changes.renamed.get(name, name), f"{path}." if path else ""
    if not new.startswith(prefix):
        raise _not_renamed(name)
    return new[len(prefix) :]


def _not_renamed(name: str) -> CheckpointError:
    return CheckpointError(
        f"the prefix of a wrapper cannot be removed from {quoted(name)}: it is not part of a key",
        hint=("keep the prefixes: ", Argument("unwrap", False)),
    )


def _is_below(name: str, roots: Collection[str]) -> bool:
    """Return whether a path is one of `roots` or below one; a key may have dots."""
    return name in roots or not prefixes([name]).isdisjoint(roots)


def _named(path: str, term: Term) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the effects of a dict, each with the path of its entry, or "" if it sets none."""
    for effect in term.effects:
        named = effect[0] == SET and isinstance(effect[1], (str, int))
        yield (f"{path}.{effect[1]}" if path else str(effect[1])) if named else "", effect


def _values(root: object, paths: Collection[str]) -> dict[str, object]:
    """Return the values at dotted paths; ValueError for one that leads nowhere."""
    above, found = prefixes(paths), dict[str, object]()
    stack: list[tuple[str, object]] = [("", root)] if paths else []
    while stack:
        path, term = stack.pop()
        for name, effect in _named(path, term) if isinstance(term, Term) else ():
            if name in paths:
                found[name] = effect[2]
            elif name in above:
                stack.append((name, effect[2]))
    missing = sorted(set(paths) - found.keys())
    if missing:
        raise ValueError(f"{printable(repr(missing[0]))} is not an entry of a dict")
    return found


def _renamed_versions(term: Term, keys: Mapping[object, str]) -> dict[int, list[tuple[Any, ...]]]:
    """Return the effects of the attribute `_metadata` of a state_dict with the names of modules as in `keys`.

    torch keeps the version of each module there, by its name, and load_state_dict looks it up.
    """
    modules: dict[str, str] = {}
    for old, new in keys.items():
        if isinstance(old, str):
            modules.update(zip(_modules_of(old), _modules_of(new), strict=False))
    edited: dict[int, list[tuple[Any, ...]]] = {}
    for state in [effect[1] for effect in term.effects if effect[0] == BUILD] if modules else ():
        for versions in [e[2] for e in state.effects if e[:2] == (SET, "_metadata")] if isinstance(state, Term) else ():
            if isinstance(versions, Term):
                kept = {modules.get(e[1], e[1]): e for e in versions.effects if e[0] == SET and isinstance(e[1], str)}
                edited[id(versions)] = [(SET, name, effect[2]) for name, effect in kept.items()]
    return edited


def _modules_of(name: str) -> list[str]:
    """Return the names of the modules that hold a tensor, from the inside to the outside, and the model: ""."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, -1, -1)]
