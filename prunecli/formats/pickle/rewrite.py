"""Rename and remove dict entries of a pickle by editing its opcodes; nothing is unpickled.

All other opcodes keep their bytes. A value that is stored in the memo inside a removed entry and fetched later is
written where it is fetched first. The result is traced and compared with the original; if they differ, it is rejected.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from prunecli.errors import CheckpointError
from prunecli.formats.pickle.graph import SET, Entry, Term, holders, same_graph, trace
from prunecli.formats.pickle.writing import get_opcode, text_opcode
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prunecli.formats.pickle.graph import Memo, Trace

MAX_DEPTH = 32
"""The most levels of removed memo values that are made of other removed memo values."""

_SHORT_BINUNICODE, _BINUNICODE = b"\x8c", b"X"
_FRAME_SIZE = 9  # bytes of a FRAME opcode with its argument


@dataclass(frozen=True, slots=True)
class _Edit:
    """The bytes [start, end) of the old pickle are replaced with `text`."""

    start: int
    end: int
    text: bytes = b""


def rewrite_pickle(data: bytes, names: Mapping[str, str | None], label: str, *, hint: str) -> bytes:
    """Return the pickle `data` with dict entries renamed or removed.

    `names` maps the dotted path of each entry to its new path, or to None to remove it. A path leads from the pickled
    object through dicts; keys may contain dots, and only the last key of a path may change. Raises CheckpointError,
    naming `label` and with `hint`, if the pickle is damaged, if a path leads to no entry or to more than one, and if
    the result would not build the same objects; also if the value of a renamed entry is stored elsewhere too.
    """
    try:
        old = trace(data)
        chosen = _chosen(old, names)
        _refuse_shared(old, [entry for entry, key in chosen if key is not None], label)
        edits = sorted((_edit(data, old, entry, key) for entry, key in chosen), key=lambda edit: edit.start)
        new = _Writer(data, old, edits).written()
        _check_same(old, new, chosen)
    except ValueError as problem:
        raise CheckpointError(f"the pickle in {label} cannot be rewritten safely: {problem}", hint=hint) from problem
    return new


def _check_same(old: Trace, new: bytes, chosen: list[tuple[Entry, str | None]]) -> None:
    edits: dict[int, dict[int, str | None]] = {}
    for entry, key in chosen:
        edits.setdefault(id(entry.target), {})[entry.order] = key
    if not same_graph(old.root, trace(new).root, edits):
        raise ValueError("remaining values share parts with removed ones")


# --- the bytes to change


def _chosen(old: Trace, names: Mapping[str, str | None]) -> list[tuple[Entry, str | None]]:
    """Return the entry of each name and its new key, None if it is removed."""
    entries = {(id(entry.target), entry.order): entry for entry in old.entries}
    indexes: dict[int, dict[str, list[int]]] = {}
    chosen = []
    for name, new in names.items():
        places = list(_find(old.root, name, indexes, set()))
        if len(places) != 1:
            why = "is not an entry of a dict" if not places else "is the name of more than one entry"
            raise ValueError(f"{printable(name)!r} {why}")
        target, order, above = places[0]
        chosen.append((entries[id(target), order], None if new is None else new[above:]))
    return chosen


def _find(
    node: object,
    path: str,
    indexes: dict[int, dict[str, list[int]]],
    seen: set[tuple[int, int]],
    above: int = 0,
) -> Iterator[tuple[Term, int, int]]:
    """Yield (dict, number of the effect, characters of the path above it) for each entry at the dotted `path`.

    The first `above` characters of the path lead to `node`. `seen` stops repeated searches of dicts that a hostile
    pickle nests in each other.
    """
    if not isinstance(node, Term) or (id(node), above) in seen:
        return
    seen.add((id(node), above))
    if id(node) not in indexes:
        indexes[id(node)] = _index(node)
    index = indexes[id(node)]
    yield from ((node, order, above) for order in index.get(path[above:], ()))
    dot = path.find(".", above)
    while dot >= 0:
        for order in index.get(path[above:dot], ()):
            yield from _find(node.effects[order][2], path, indexes, seen, dot + 1)
        dot = path.find(".", dot + 1)


def _index(node: Term) -> dict[str, list[int]]:
    """Return the numbers of the effects that set each key of a dict."""
    index: dict[str, list[int]] = {}
    for order, effect in enumerate(node.effects):
        if effect[0] == SET and isinstance(effect[1], str):
            index.setdefault(effect[1], []).append(order)
    return index


def _refuse_shared(old: Trace, entries: list[Entry], label: str) -> None:
    values = {id(entry.target.effects[entry.order][2]) for entry in entries}
    places = {(id(entry.target), entry.order) for entry in entries}
    if any((id(term), order) not in places for term, order in holders(old.root, values)):
        raise CheckpointError(
            f"a weight in {label} cannot be folded: the file stores the same tensor elsewhere without a mask",
            hint="torch.nn.utils.prune.remove(module, name) in Python, then save again",
        )


def _edit(data: bytes, old: Trace, entry: Entry, key: str | None) -> _Edit:
    if key is None:
        return _Edit(entry.start, entry.end)
    text = _string(data, entry.start, key)
    memos = _within(old.memos, entry.start, entry.value)
    stored = len(memos) == 1 and memos[0].start == entry.start and memos[0].end == entry.value
    # The memo opcode after the key stays, because MEMOIZE numbers the entries after it. If the old key is
    # fetched later, the opcode is dropped: the old text is then written where it is fetched first.
    if stored and memos[0].definition not in old.fetched:
        return _Edit(entry.start, memos[0].offset, text)
    return _Edit(entry.start, entry.value, text)


def _string(data: bytes, start: int, text: str) -> bytes:
    """Return the opcode for `text`, of the same kind as the string at `start` or else of the pickle's protocol."""
    encoded = text.encode("utf-8", "surrogatepass")
    opcode = data[start : start + 1]
    short = opcode == _SHORT_BINUNICODE or (opcode != _BINUNICODE and data[1] >= 4)
    if short and len(encoded) < 256:
        return _SHORT_BINUNICODE + len(encoded).to_bytes(1, "little") + encoded
    return text_opcode(text)


def _within(memos: list[Memo], start: int, end: int) -> list[Memo]:
    first = bisect_left(memos, start, key=lambda memo: memo.offset)
    return memos[first : bisect_left(memos, end, key=lambda memo: memo.offset)]


# --- the new pickle


class _Writer:
    """Copies a pickle with `edits` applied, and updates memo indices and frame lengths."""

    def __init__(self, data: bytes, old: Trace, edits: list[_Edit]) -> None:
        self.data, self.old, self.edits = data, old, edits
        self.out = bytearray()
        self.puts = {memo.definition: memo for memo in old.memos if memo.start >= 0}
        self.slots: dict[int, int] = {}  # the memo index of each definition that was written
        self.marks: list[tuple[int, int]] = []  # (offset in the old pickle, offset in the new one)
        self.headers: list[tuple[int, int]] = []  # (new offset of a FRAME opcode, old end of its frame)
        if any(a.end > b.start for a, b in pairwise(edits)):
            raise ValueError("its entries overlap")
        # MEMOIZE takes the next free number, which an edit changes. Numbers that are written out do not change.
        if len(set(old.implicit)) > 1:
            raise ValueError("only some of its memo opcodes name an index")

    def written(self) -> bytes:
        """Return the new pickle; ValueError if it cannot be written."""
        offset = 0
        for edit in self.edits:
            self._copy_with_frames(offset, edit.start)
            for frame, length in self._frames(edit.start, edit.end):
                self._copy_header(frame, length)
            self.out += edit.text
            offset = edit.end
        self._copy_with_frames(offset, self.old.length)
        self._update_frames()
        return bytes(self.out)

    def _frames(self, start: int, end: int) -> list[tuple[int, int]]:
        first = bisect_left(self.old.frames, (start, -1))
        return self.old.frames[first : bisect_left(self.old.frames, (end, -1))]

    def _copy_with_frames(self, start: int, end: int) -> None:
        """Copy the old bytes [start, end), which are in no edit."""
        for frame, length in self._frames(start, end):
            self._copy(start, frame)
            self._copy_header(frame, length)
            start = frame + _FRAME_SIZE
        self._copy(start, end)

    def _copy_header(self, frame: int, length: int) -> None:
        self.marks.append((frame, len(self.out)))
        self.headers.append((len(self.out), frame + _FRAME_SIZE + length))
        self.out += self.data[frame : frame + _FRAME_SIZE]
        self.marks.append((frame + _FRAME_SIZE, len(self.out)))

    def _copy(self, start: int, end: int) -> None:
        for memo in _within(self.old.memos, start, end):
            self._copy_bytes(start, memo.offset)
            self._write_memo(memo, 0)
            start = memo.end
        self._copy_bytes(start, end)

    def _copy_bytes(self, start: int, end: int) -> None:
        offset = len(self.out)
        self.out += self.data[start:end]
        if self.old.frames:
            self.marks += ((start, offset), (end, len(self.out)))

    def _write_memo(self, memo: Memo, depth: int) -> None:
        if memo.start >= 0:
            implicit = self.old.implicit[memo.definition]
            self.slots[memo.definition] = len(self.slots) if implicit else self.old.slots[memo.definition]
            self.out += self.data[memo.offset : memo.end]
        elif memo.definition in self.slots:
            self._fetch(memo, self.slots[memo.definition])
        else:
            self._define(self.puts[memo.definition], depth + 1)

    def _fetch(self, memo: Memo, slot: int) -> None:
        if memo.start < 0 and slot == self.old.slots[memo.definition]:
            self.out += self.data[memo.offset : memo.end]
        else:
            self.out += get_opcode(slot)

    def _define(self, put: Memo, depth: int) -> None:
        """Write a value of a removed entry where it is first fetched; its parts that exist already are fetched."""
        index = bisect_right(self.edits, put.offset, key=lambda edit: edit.start) - 1
        inside = index >= 0 and self.edits[index].start <= put.start and put.end <= self.edits[index].end
        if not inside or depth > MAX_DEPTH or self._frames(put.start, put.end):
            raise ValueError("a remaining value was built together with a removed one")
        start = put.start
        memos = _within(self.old.memos, put.start, put.end)
        known = [memo for memo in memos if memo.start >= put.start and memo.definition in self.slots]
        for memo in sorted(known, key=lambda memo: (memo.start, -memo.end)):
            if memo.start >= start:
                self._copy_removed(start, memo.start, depth)
                self._fetch(memo, self.slots[memo.definition])
                start = memo.end
        self._copy_removed(start, put.end, depth)

    def _copy_removed(self, start: int, end: int, depth: int) -> None:
        for memo in _within(self.old.memos, start, end):
            self.out += self.data[start : memo.offset]
            self._write_memo(memo, depth)
            start = memo.end
        self.out += self.data[start:end]

    def _update_frames(self) -> None:
        ends = [self._new_offset(end) for _, end in self.headers]
        limits = [*(offset for offset, _ in self.headers), len(self.out)][1:]
        for (offset, _), end, limit in zip(self.headers, ends, limits, strict=True):
            length = end - offset - _FRAME_SIZE
            if length < 0 or end > limit:
                raise ValueError("its frames overlap")
            self.out[offset + 1 : offset + _FRAME_SIZE] = length.to_bytes(8, "little")

    def _new_offset(self, old: int) -> int:
        """Return the new offset of the old byte `old`, or of the byte after it that was copied."""
        index = bisect_right(self.marks, old, key=lambda mark: mark[0]) - 1
        before, after = self.marks[index]
        moved = after + old - before
        return min(moved, self.marks[index + 1][1]) if index + 1 < len(self.marks) else moved
