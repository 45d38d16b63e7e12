"""A pickle with some dict entries renamed and others taken out, by editing its opcodes: nothing is unpickled.

Every other opcode stays as it is spelled. What was kept in the memo inside an entry that goes, and is fetched later,
is written out where it is fetched first. The result is traced again and compared with the original, so it is right
or it is refused. Knows nothing about tensors and files.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from prunecli.errors import CheckpointError
from prunecli.formats.pickle.graph import SET, Entry, Term, holders, same, trace
from prunecli.formats.torch.records import resave
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prunecli.formats.pickle.graph import Memo, Trace

MAX_DEPTH = 32
"""Values kept for later that are made of values kept for later, one in the other, more than this are refused."""

_SHORT_BINUNICODE, _BINUNICODE, _BINGET, _LONG_BINGET, _FRAME_SIZE = b"\x8c", b"X", b"h", b"j", 9

_Edits = dict[int, dict[int, "str | None"]]


@dataclass(frozen=True, slots=True)
class _Zone:
    """The bytes [start, end) of the old pickle that give way to `text`."""

    start: int
    end: int
    text: bytes = b""


def rewrite_pickle(data: bytes, names: Mapping[str, str | None], label: str) -> bytes:
    """Return the pickle `data` with the entries at the dotted paths `names` renamed, or gone where the name is None.

    A path leads from the pickled object through dicts; a key may have dots, and of a new path only the last key may
    differ. Raises CheckpointError, naming `label`, where an entry is not there exactly once, where the value of one to
    rename is in other places too, and where the result would not build what the old pickle builds.
    """
    old = trace(data, label)
    chosen = _chosen(old, names, label)
    _refuse_shared(old, [entry for entry, key in chosen if key is not None], label)
    zones = [_zone(data, old, entry, key) for entry, key in chosen]
    edits: _Edits = {}
    for entry, key in chosen:
        edits.setdefault(id(entry.target), {})[entry.order] = key
    try:
        new = _Writer(data, old, sorted(zones, key=lambda zone: zone.start)).written()
        right = same(old.root, trace(new, label).root, edits)
    except (CheckpointError, ValueError) as problem:
        raise _unproven(label, str(problem)) from problem
    if not right:
        raise _unproven(label, "values that stay are shared with those that go")
    return new


def _unproven(label: str, why: str) -> CheckpointError:
    return CheckpointError(f"the pickle in {label} cannot be rewritten with certainty: {why}", hint=resave(label))


# --- which bytes


def _chosen(old: Trace, names: Mapping[str, str | None], label: str) -> list[tuple[Entry, str | None]]:
    """Return the entry of each name and its new key, None where it goes."""
    entries = {(id(entry.target), entry.order): entry for entry in old.entries}
    indexes: dict[int, dict[str, list[int]]] = {}
    chosen = []
    for name, new in names.items():
        found = list(_find(old.root, name, indexes, set()))
        if len(found) != 1:
            why = "is in no dict by that name" if not found else "is there more than once"
            raise _unproven(label, f"{printable(name)!r} {why}")
        target, order, above = found[0]
        chosen.append((entries[id(target), order], None if new is None else new[above:]))
    return chosen


def _find(
    node: object,
    path: str,
    indexes: dict[int, dict[str, list[int]]],
    seen: set[tuple[int, int]],
    above: int = 0,
) -> Iterator[tuple[Term, int, int]]:
    """Yield each (dict, effect, length of the path above it) at the dotted `path`, whose first characters are above.

    `seen` keeps hostile dicts, which lead to each other in countless ways, from being searched again.
    """
    if not isinstance(node, Term) or (id(node), above) in seen:
        return
    seen.add((id(node), above))
    index = indexes.get(id(node))
    if index is None:
        index = indexes[id(node)] = {}
        for order, effect in enumerate(node.effects):
            if effect[0] == SET and isinstance(effect[1], str):
                index.setdefault(effect[1], []).append(order)
    yield from ((node, order, above) for order in index.get(path[above:], ()))
    dot = path.find(".", above)
    while dot >= 0:
        for order in index.get(path[above:dot], ()):
            yield from _find(node.effects[order][2], path, indexes, seen, dot + 1)
        dot = path.find(".", dot + 1)


def _refuse_shared(old: Trace, entries: list[Entry], label: str) -> None:
    values = {id(entry.target.effects[entry.order][2]) for entry in entries}
    places = {(id(entry.target), entry.order) for entry in entries}
    if any((id(term), order) not in places for term, order in holders(old.root, values)):
        raise CheckpointError(
            f"a weight in {label} cannot be folded: another place in the file holds the same tensor, and is not pruned",
            hint="torch.nn.utils.prune.remove(module, name) in Python, then save again",
        )


def _zone(data: bytes, old: Trace, entry: Entry, key: str | None) -> _Zone:
    if key is None:
        return _Zone(entry.start, entry.end)
    text = _string(data, entry.start, key)
    memos = _within(old.memos, entry.start, entry.value)
    keeps = len(memos) == 1 and memos[0].start == entry.start and memos[0].end == entry.value
    if keeps and memos[0].definition not in old.fetched:
        return _Zone(entry.start, memos[0].at, text)
    return _Zone(entry.start, entry.value, text)


def _string(data: bytes, at: int, text: str) -> bytes:
    """Spell `text` as the string at `at` is spelled, or as the pickle's protocol would."""
    encoded = text.encode("utf-8", "surrogatepass")
    short = data[at : at + 1] == _SHORT_BINUNICODE or (data[at : at + 1] != _BINUNICODE and data[1] >= 4)
    if short and len(encoded) < 256:
        return _SHORT_BINUNICODE + len(encoded).to_bytes(1, "little") + encoded
    return _BINUNICODE + len(encoded).to_bytes(4, "little") + encoded


def _within(memos: list[Memo], start: int, end: int) -> list[Memo]:
    first = bisect_left(memos, start, key=lambda memo: memo.at)
    return memos[first : bisect_left(memos, end, key=lambda memo: memo.at)]


# --- writing


class _Writer:
    """Copies a pickle but for its zones, and keeps the memo and the frames right."""

    def __init__(self, data: bytes, old: Trace, zones: list[_Zone]) -> None:
        self.data, self.old, self.zones = data, old, zones
        self.out = bytearray()
        self.puts = {memo.definition: memo for memo in old.memos if memo.start >= 0}
        self.slots: dict[int, int] = {}  # of the definitions that were written
        self.marks: list[tuple[int, int]] = []  # where bytes of the old pickle are in the new one
        self.headers: list[tuple[int, int]] = []  # where a frame's opcode is now, and where the frame ended
        if any(a.end > b.start for a, b in pairwise(zones)):
            raise ValueError("the entries lie in each other")
        if len(set(old.counted)) > 1:
            raise ValueError("its memo is numbered in two ways")

    def written(self) -> bytes:
        """Return the new pickle; ValueError where it cannot be made."""
        at = 0
        for zone in self.zones:
            self._stretch(at, zone.start)
            for frame, length in self._frames(zone.start, zone.end):
                self._header(frame, length)
            self.out += zone.text
            at = zone.end
        self._stretch(at, self.old.length)
        self._fix_frames()
        return bytes(self.out)

    def _frames(self, start: int, end: int) -> list[tuple[int, int]]:
        first = bisect_left(self.old.frames, (start, -1))
        return self.old.frames[first : bisect_left(self.old.frames, (end, -1))]

    def _stretch(self, start: int, end: int) -> None:
        """Write the old bytes [start, end), which are in no zone."""
        for frame, length in self._frames(start, end):
            self._copy(start, frame)
            self._header(frame, length)
            start = frame + _FRAME_SIZE
        self._copy(start, end)

    def _header(self, frame: int, length: int) -> None:
        self.marks.append((frame, len(self.out)))
        self.headers.append((len(self.out), frame + _FRAME_SIZE + length))
        self.out += self.data[frame : frame + _FRAME_SIZE]
        self.marks.append((frame + _FRAME_SIZE, len(self.out)))

    def _copy(self, start: int, end: int) -> None:
        for memo in _within(self.old.memos, start, end):
            self._verbatim(start, memo.at)
            self._memo(memo, 0)
            start = memo.end
        self._verbatim(start, end)

    def _verbatim(self, start: int, end: int) -> None:
        now = len(self.out)
        self.out += self.data[start:end]
        if self.old.frames:
            self.marks += ((start, now), (end, len(self.out)))

    def _memo(self, memo: Memo, depth: int) -> None:
        if memo.start >= 0:
            slot = len(self.slots) if self.old.counted[memo.definition] else self.old.slots[memo.definition]
            self.slots[memo.definition] = slot
            self.out += self.data[memo.at : memo.end]
        elif memo.definition in self.slots:
            self._fetch(memo, self.slots[memo.definition])
        else:
            self._define(self.puts[memo.definition], depth + 1)

    def _fetch(self, memo: Memo, slot: int) -> None:
        if memo.start < 0 and slot == self.old.slots[memo.definition]:
            self.out += self.data[memo.at : memo.end]
        elif slot < 256:
            self.out += _BINGET + slot.to_bytes(1, "little")
        else:
            self.out += _LONG_BINGET + slot.to_bytes(4, "little")

    def _define(self, put: Memo, depth: int) -> None:
        """Write a value that was kept in a zone where it is fetched first; parts of it that exist are fetched."""
        at = bisect_right(self.zones, put.at, key=lambda zone: zone.start) - 1
        inside = at >= 0 and self.zones[at].start <= put.start and put.end <= self.zones[at].end
        if not inside or depth > MAX_DEPTH or self._frames(put.start, put.end):
            raise ValueError("a value that stays was made together with one that goes")
        start = put.start
        memos = _within(self.old.memos, put.start, put.end)
        known = [memo for memo in memos if memo.start >= put.start and memo.definition in self.slots]
        for memo in sorted(known, key=lambda memo: (memo.start, -memo.end)):
            if memo.start >= start:
                self._moved_run(start, memo.start, depth)
                self._fetch(memo, self.slots[memo.definition])
                start = memo.end
        self._moved_run(start, put.end, depth)

    def _moved_run(self, start: int, end: int, depth: int) -> None:
        for memo in _within(self.old.memos, start, end):
            self.out += self.data[start : memo.at]
            self._memo(memo, depth)
            start = memo.end
        self.out += self.data[start:end]

    def _fix_frames(self) -> None:
        """Give each frame its new length."""
        ends = [self._moved(end) for _, end in self.headers]
        limits = [*(at for at, _ in self.headers), len(self.out)][1:]
        for (at, _), end, limit in zip(self.headers, ends, limits, strict=True):
            length = end - at - _FRAME_SIZE
            if length < 0 or end > limit:
                raise ValueError("its frames do not follow each other")
            self.out[at + 1 : at + _FRAME_SIZE] = length.to_bytes(8, "little")

    def _moved(self, old: int) -> int:
        """Return where the byte `old` of the old pickle is now, or where what follows it is."""
        at = bisect_right(self.marks, old, key=lambda mark: mark[0]) - 1
        before, now = self.marks[at]
        moved = now + old - before
        return min(moved, self.marks[at + 1][1]) if at + 1 < len(self.marks) else moved
