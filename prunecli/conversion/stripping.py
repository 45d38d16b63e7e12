"""Strip a checkpoint: decide which tensors stay, under which names and dtypes, and what goes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from prunecli.checkpoint import OUTSIDE
from prunecli.conversion.averages import averages_of, ema_names
from prunecli.conversion.contents import Contents, contents_of, full_name
from prunecli.conversion.roles import OTHER, is_gradient, role_of, unwrapped_names
from prunecli.dtypes import BITS, CASTABLE
from prunecli.errors import Argument, CheckpointError
from prunecli.formats.pickle.tree import prefixes
from prunecli.formats.torch.retree import Changes
from prunecli.selection.patterns import matching_any
from prunecli.strategies.strip import EMA
from prunecli.text.escape import listed, quoted
from prunecli.text.numbers import counted, format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.strategies.strip import Strip

_NAMED = 6
_WEIGHTS = "weights"


@dataclass(frozen=True, slots=True)
class Dropped:
    """What goes with one entry: its name, its role, its tensors and the bytes that only these use."""

    name: str
    role: str
    tensors: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Stripped:
    """A stripped checkpoint.

    Attributes:
        checkpoint: The input with the tensors that stay, under their new names.
        contents: What stays, for an output of another format.
        changes: What changes in the pickled object, for an output of torch.
        dropped: What goes.
        casts: The bytes that casts save, and the number of cast tensors, by the dtypes before and after.
        unwrapped: The number of names that lost a prefix.
        allow_overflow: Whether finite weights may become infinite by a cast.
    """

    checkpoint: Checkpoint
    contents: Contents
    changes: Changes
    dropped: tuple[Dropped, ...]
    casts: Mapping[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    unwrapped: int = 0
    allow_overflow: bool = False

    @property
    def facts(self) -> tuple[str, ...]:
        """Sentences about what goes and what is cast, for a report."""
        parts = [f"{quoted(one.name)} ({describe(one)})" for one in self.dropped]
        dropped = (f"dropped: {listed(parts, _NAMED)}",) if parts else ()
        cast = (f"{counted(n, 'tensor')} cast from {a} to {b}" for (a, b), (n, _) in self.casts.items())
        wrapped = (f"{counted(self.unwrapped, 'name')} without the prefix of a wrapper",) if self.unwrapped else ()
        return (*dropped, *cast, *wrapped)


def describe(dropped: Dropped) -> str:
    """Return the role and the size of what goes, in a few words."""
    size = f", {format_bytes(dropped.nbytes)}" if dropped.nbytes else ""
    return f"{dropped.role}, {counted(dropped.tensors, 'tensor')}{size}" if dropped.tensors else dropped.role


def stripped(checkpoint: Checkpoint, strip: Strip) -> Stripped:
    """Return what `strip` makes of a checkpoint; PruneError if it leaves nothing, or if names collide."""
    averages = averages_of(checkpoint) if strip.word == EMA else {}
    kept = _kept(checkpoint, strip)
    names = _new_names(kept) if strip.unwrap else {}
    sources = {tensor.name: averages.get(tensor.name, tensor) for tensor in kept}
    contents = contents_of(checkpoint)
    stays = _entries_that_stay(checkpoint, contents, kept)
    dtypes = _dtypes(checkpoint, sources, strip)
    roots = _roots(checkpoint, contents, kept, stays)
    dropped = _rows(checkpoint, kept, sources, roots)
    tensors = [_placed(tensor, sources[tensor.name], names) for tensor in kept]
    return Stripped(
        replace(checkpoint, tensors=tuple(tensors)),
        _contents(contents, sources, names, dtypes, stays),
        _changes(checkpoint, kept, sources, names, dtypes, roots),
        dropped,
        _casts(sources.values(), dtypes),
        len(names),
        strip.allow_overflow,
    )


def _kept(checkpoint: Checkpoint, strip: Strip) -> list[TensorInfo]:
    """Return the tensors of the state_dict that stay, under whose names the output has tensors."""
    inside = checkpoint.inside
    if strip.patterns:
        matched = matching_any("keep", strip.patterns, inside)
        return [inside[index] for index in sorted(matched)]
    ema = ema_names(checkpoint)
    kept = [tensor for tensor in inside if tensor.name not in ema and not is_gradient(tensor.name)]
    if not kept:
        message = f"there are no weights besides moving averages in {checkpoint.path}"
        raise CheckpointError(message, hint=("keep them: ", Argument("keep", ["*"])))
    return kept


def _new_names(kept: Sequence[TensorInfo]) -> dict[str, str]:
    """Return the new name of each tensor whose name has the part of a wrapper."""
    by_key: dict[str, list[TensorInfo]] = {}
    for tensor in kept:
        by_key.setdefault(tensor.key, []).append(tensor)
    names: dict[str, str] = {}
    for key, own in by_key.items():
        prefix = f"{key}." if key else ""
        names |= {prefix + old: prefix + new for old, new in unwrapped_names([t.local_name for t in own]).items()}
    final = [names.get(tensor.name, tensor.name) for tensor in kept]
    if len(set(final)) < len(final):
        twice = next(name for name in final if final.count(name) > 1)
        raise CheckpointError(
            f"without the prefixes of wrappers, two tensors have the name {quoted(twice)}",
            hint=("keep the prefixes: ", Argument("unwrap", False)),
        )
    return names


def _placed(kept: TensorInfo, source: TensorInfo, names: Mapping[str, str]) -> TensorInfo:
    """Return a kept tensor with its new name and the elements of its source."""
    name = names.get(kept.name, kept.name)
    if source is kept:
        return kept if name == kept.name else replace(kept, name=name)
    reason = None if source.unprunable_reason == OUTSIDE else source.unprunable_reason
    return replace(source, name=name, unprunable_reason=reason, key=kept.key, layout=kept.layout)


# --- what goes


def _entries_that_stay(checkpoint: Checkpoint, contents: Contents, kept: Sequence[TensorInfo]) -> frozenset[str]:
    """Return the names of entries without tensors that are not of the training, such as the epoch."""
    above = prefixes(full_name(checkpoint, tensor) for tensor in kept)
    names = [*contents.texts, *(name for name, _ in contents.rest)]
    with_tensors = {_root(tensor.name, above) for tensor in checkpoint.outside}
    return frozenset(
        name for name in names if (root := _root(name, above)) not in with_tensors and role_of(root) == OTHER
    )


def _roots(
    checkpoint: Checkpoint, contents: Contents, kept: Sequence[TensorInfo], stays: frozenset[str]
) -> frozenset[str]:
    """Return the paths of the entries that go."""
    names = {tensor.name for tensor in kept}
    above = prefixes(full_name(checkpoint, tensor) for tensor in kept)
    gone = [full_name(checkpoint, tensor) for tensor in checkpoint.tensors if tensor.name not in names]
    others = (name for name in (*contents.texts, *(name for name, _ in contents.rest)) if name not in stays)
    return frozenset(_root(name, above) for name in (*gone, *others))


def _rows(
    checkpoint: Checkpoint, kept: Sequence[TensorInfo], sources: Mapping[str, TensorInfo], roots: frozenset[str]
) -> tuple[Dropped, ...]:
    """Return what goes: the tensors of which the output has no elements, by entry, and entries without tensors."""
    above = prefixes(full_name(checkpoint, tensor) for tensor in kept)
    stay = {id(tensor) for tensor in sources.values()}
    groups: dict[str, list[TensorInfo]] = {}
    for tensor in checkpoint.tensors:
        if id(tensor) not in stay:
            groups.setdefault(_root(full_name(checkpoint, tensor), above), []).append(tensor)
    used = {_root(full_name(checkpoint, tensor), above) for tensor in sources.values()}
    seen = {(tensor.file, tensor.span) for tensor in sources.values()}
    rows = []
    for root, tensors in (groups | {root: groups.get(root, []) for root in sorted(roots - used)}).items():
        storages = {(tensor.file, tensor.span) for tensor in tensors} - seen
        seen |= storages
        inside = any(tensor.unprunable_reason != OUTSIDE for tensor in tensors)
        role = role_of(root)
        role = _WEIGHTS if role == OTHER and inside else role
        rows.append(Dropped(root, role, len(tensors), sum(span.length for _, span in storages)))
    return tuple(_joined(rows))


def _joined(rows: Sequence[Dropped]) -> list[Dropped]:
    """Join the single tensors of one dict that have the same role."""
    joined: dict[tuple[str, str], Dropped] = {}
    for row in rows:
        single = row.tensors == 1 and "." in row.name
        key = (row.role, _first(row.name) if single else row.name)
        old = joined.get(key)
        tensors, nbytes = (0, 0) if old is None else (old.tensors, old.nbytes)
        joined[key] = Dropped(key[1], row.role, tensors + row.tensors, nbytes + row.nbytes)
    return list(joined.values())


def _first(name: str) -> str:
    return f"{name.partition('.')[0]}.*"


def _root(name: str, above: frozenset[str]) -> str:
    """Return the shortest start of a dotted name below which nothing stays."""
    for index, character in enumerate(name):
        if character == "." and name[:index] not in above:
            return name[:index]
    return name


# --- what changes


def _dtypes(checkpoint: Checkpoint, sources: Mapping[str, TensorInfo], strip: Strip) -> dict[str, str]:
    """Return the new dtype of each tensor that is cast, by the name of the kept tensor; scales stay as they are."""
    if strip.dtype is None:
        return {}
    scales = {t.scale.tensor.name for t in checkpoint.tensors if t.scale is not None}
    return {
        name: strip.dtype
        for name, tensor in sources.items()
        if tensor.dtype in CASTABLE and tensor.dtype != strip.dtype and tensor.name not in scales
    }


def _contents(
    contents: Contents,
    sources: Mapping[str, TensorInfo],
    names: Mapping[str, str],
    dtypes: Mapping[str, str],
    stays: frozenset[str],
) -> Contents:
    tensors = [
        replace(
            new,
            name=names.get(new.name, new.name),
            tensor=sources[new.name].codes,
            dtype=dtypes.get(new.name, sources[new.name].dtype),
        )
        for new in contents.tensors
        if new.name in sources
    ]
    texts = {name: text for name, text in contents.texts.items() if name in stays or name == "format"}
    rest = tuple((name, kind) for name, kind in contents.rest if name in stays)
    return Contents(tuple(tensors), texts, rest)


def _changes(
    checkpoint: Checkpoint,
    kept: Sequence[TensorInfo],
    sources: Mapping[str, TensorInfo],
    names: Mapping[str, str],
    dtypes: Mapping[str, str],
    roots: frozenset[str],
) -> Changes:
    """Return the changes of the pickled object: entries that go, new keys, and tensors that take another's place."""
    full = {tensor.name: full_name(checkpoint, tensor) for tensor in kept}
    renamed = {full[old]: full[old][: -len(old)] + new for old, new in names.items()}
    replaced = {
        full[tensor.name]: full_name(checkpoint, sources[tensor.name])
        for tensor in kept
        if sources[tensor.name] is not tensor
    }
    casts = {(t.span.start, t.span.length): (dtypes[name], name) for name, t in sources.items() if name in dtypes}
    return Changes(roots, renamed, casts, replaced)


def _casts(sources: Iterable[TensorInfo], dtypes: Mapping[str, str]) -> dict[tuple[str, str], tuple[int, int]]:
    """Return the number of cast tensors and the bytes saved, by the dtypes before and after."""
    casts: dict[tuple[str, str], tuple[int, int]] = {}
    to = next(iter(dtypes.values()), "")
    for tensor in sources:
        if to and tensor.dtype in CASTABLE and tensor.dtype != to:
            count, saved = casts.get((tensor.dtype, to), (0, 0))
            saved += tensor.numel * (BITS[tensor.dtype] - BITS[to]) // 8
            casts[tensor.dtype, to] = count + 1, saved
    return casts
