"""A pickle as a graph of terms that record how and where in the bytes each value is built.

`reader` describes the contents of a checkpoint; a graph describes every step, including attributes and hooks.
Comparing two graphs therefore proves that a rewritten pickle builds the same objects. No code is executed.
"""

from __future__ import annotations

import io
from array import array
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from prunecli.formats.pickle.machine import StackMachine, opcodes_of
from prunecli.formats.pickle.opcodes import bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

SET, ADD, BUILD = "set", "add", "build"
"""The effects on a value after it is made: a key is set, items are added, a state is given."""


@dataclass(eq=False, slots=True)
class Term:
    """A value: the bytes of the opcode that made it (argument included), the values it is made of, and its effects.

    `effects` are (SET, key, value), (ADD, *values) and (BUILD, state), in order. Text, integers, booleans and None
    stand for themselves, without a Term. `partner` is the equal term of the other graph while two are compared.
    """

    opcode: bytes
    parts: tuple[object, ...] = ()
    effects: Sequence[tuple[Any, ...]] = ()
    partner: Term | None = None

    def add(self, effects: Iterable[tuple[Any, ...]]) -> None:
        """Add effects; most terms have none, and no list for them."""
        if not isinstance(self.effects, list):
            self.effects = []
        self.effects.extend(effects)


@dataclass(frozen=True, slots=True)
class Entry:
    """A key set on `target`, by its effect number `order`: bytes [start, value) build the key, [value, end) the value.

    An entry with a SETITEM opcode of its own has it among its bytes.
    """

    target: Term
    order: int
    start: int
    value: int
    end: int


@dataclass(frozen=True, slots=True)
class Memo:
    """A memo opcode in the bytes [offset, end).

    `definition` is the ordinal, among all stored values, of the value that it stores or fetches. `start` is the offset
    where the bytes begin that build a stored value; it is -1 for an opcode that fetches.
    """

    offset: int
    end: int
    definition: int
    start: int


@dataclass(slots=True)
class Trace:
    """The value that one pickle builds (`root`), and the positions of entries, memo opcodes and frames, in order.

    `slots` are the memo indices by definition. `implicit` holds, by definition, whether the opcode names no index
    (MEMOIZE). `fetched` are the definitions that are fetched at least once. `frames` are (offset of the FRAME opcode,
    length of the frame) pairs.
    """

    root: object = None
    length: int = 0
    entries: list[Entry] = field(default_factory=list)
    memos: list[Memo] = field(default_factory=list)
    frames: list[tuple[int, int]] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    implicit: list[bool] = field(default_factory=list)
    fetched: set[int] = field(default_factory=set)


def trace(data: bytes) -> Trace:
    """Trace the pickle at the start of `data`; ValueError, with the reason, if it is damaged or exceeds a limit."""
    machine = _TermMachine(data)
    machine.trace.root = machine.run(machine.stream)
    machine.trace.length = machine.end
    return machine.trace


class _TermMachine(StackMachine):
    """A stack machine that also knows, for each item, the offset where the bytes begin that build it.

    The offsets are in `starts`, apart from the items: a pair for each item would take ten times the memory.
    """

    __slots__ = (
        *("data", "definitions", "end", "item_starts", "mark_start", "mark_starts"),
        *("opcodes_seen", "start", "starts", "stream", "trace"),
    )
    bytes_per_unit = 2  # a tensor takes 30 units

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data, self.stream = data, bounded(io.BytesIO(data), len(data))
        self.trace = Trace()
        self.opcodes_seen: dict[bytes, bytes] = {}  # equal bytes are stored once
        self.definitions: dict[int, int] = {}  # by memo index
        self.starts = array("q")  # of the items on the stack
        self.mark_starts: list[tuple[int, array[int]]] = []  # the offset of each open MARK, and the starts below it
        self.mark_start = 0  # the offset of the MARK that was removed last
        self.item_starts = self.starts  # of the items above it
        self.start = self.end = 0  # the bytes of the current opcode

    def push(self, value: object) -> None:
        self._push(value, self.start)

    def _push(self, value: object, start: int) -> None:
        self.stack.append(value)
        self.starts.append(start)

    def pop(self, _: object) -> None:
        if self.stack:
            self._pop()
        else:
            self.pop_mark()

    def _pop(self) -> tuple[object, int]:
        """Remove the top item; return it and the offset where its bytes begin."""
        return self.stack.pop(), self.starts.pop()

    def _term(self, parts: tuple[object, ...], start: int) -> None:
        self.spend(2)
        opcode = self.data[self.start : self.end]
        self._push(Term(self.opcodes_seen.setdefault(opcode, opcode), parts), start)

    def _literal(self, _: object) -> None:
        self._term((), self.start)

    byte_string = python2_text = binfloat = named_global = _literal
    empty_tuple = empty_list = empty_dict = _literal

    def short_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        items, start = tuple(self.stack[-count:]), self.starts[-count]
        del self.stack[-count:], self.starts[-count:]
        self._term(items, start)

    binpersid = StackMachine.tuple1
    stack_global = call = new = StackMachine.tuple2
    newobj_ex = StackMachine.tuple3

    def mark(self, _: object) -> None:
        super().mark(None)
        self.mark_starts.append((self.start, self.starts))
        self.starts = array("q")

    def pop_mark(self) -> list[Any]:
        items = super().pop_mark()
        self.item_starts = self.starts
        self.mark_start, self.starts = self.mark_starts.pop()
        return items

    def tuple_to_mark(self, _: object) -> None:
        items = tuple(self.pop_mark())
        self._term(items, self.mark_start)

    frozenset_to_mark = tuple_to_mark

    def dup(self, _: object) -> None:
        self.push(self.stack[-1])

    def _target(self) -> Term:
        target = self.stack[-1]
        if not isinstance(target, Term):
            raise TypeError(f"items or keys are set on a {type(target).__name__}")
        return target

    def append(self, _: object) -> None:
        item, _ = self._pop()
        self._target().add([(ADD, item)])

    def extend(self, _: object) -> None:
        items = self.pop_mark()
        self._target().add([(ADD, *items)])

    def setitem(self, _: object) -> None:
        (item, value), (key, start) = self._pop(), self._pop()
        self._set(key, item, Entry(self._target(), 0, start, value, self.end))

    def setitems(self, _: object) -> None:
        items = self.pop_mark()
        if len(items) % 2:
            raise ValueError("a key has no value")
        starts = self.item_starts
        starts.append(self.start)
        target = self._target()
        for i in range(0, len(items), 2):
            start, value, end = starts[i : i + 3]
            self._set(items[i], items[i + 1], Entry(target, 0, start, value, end))

    def _set(self, key: object, item: object, entry: Entry) -> None:
        if isinstance(key, str):
            self.trace.entries.append(replace(entry, order=len(entry.target.effects)))
        entry.target.add([(SET, key, item)])

    def build(self, _: object) -> None:
        state, _ = self._pop()
        self._target().add([(BUILD, state)])

    def put(self, index: int | None) -> None:
        slot = self.memo_count if index is None else index
        super().put(slot)
        self.spend(1)
        definition = self.definitions[slot] = len(self.trace.slots)
        self.trace.memos.append(Memo(self.start, self.end, definition, self.starts[-1]))
        self.trace.slots.append(slot)
        self.trace.implicit.append(index is None)

    def get(self, index: int) -> None:
        value = self.fetched(index)
        definition = self.definitions[index]
        self.trace.memos.append(Memo(self.start, self.end, definition, -1))
        self.trace.fetched.add(definition)
        self.push(value)

    def frame(self, length: int) -> None:
        self.trace.frames.append((self.start, length))


def _located(step: Callable[[_TermMachine, Any], object]) -> Callable[[_TermMachine, Any], None]:
    """Return `step` with `start` and `end` of the machine set to the bytes of the opcode."""

    def located(machine: _TermMachine, argument: object) -> None:
        machine.start, machine.end = machine.end, machine.stream.tell()
        step(machine, argument)

    return located


_TermMachine.opcodes = {code: (argument, _located(step)) for code, (argument, step) in opcodes_of(_TermMachine).items()}


def holders(root: object, values: Collection[int]) -> Iterator[tuple[Term, int]]:
    """Yield each place in the graph of `root` that holds one of the terms whose ids are `values`.

    A place is a term and the number of its effect, or -1 for its parts.
    """
    seen: set[int] = set()
    pending = [root]
    while pending:
        term = pending.pop()
        if not isinstance(term, Term) or id(term) in seen:
            continue
        seen.add(id(term))
        for order, parts in enumerate((term.parts, *(effect[1:] for effect in term.effects)), -1):
            pending.extend(part for part in parts if isinstance(part, Term))
            if any(id(part) in values for part in parts):
                yield term, order


def same_graph(old: object, new: object, edits: Mapping[int, Mapping[int, str | None]]) -> bool:
    """Return whether the graph of `new` equals the graph of `old` with `edits` applied, including shared values.

    `edits` maps the id of a term of the old graph to its changed effects: the new key of a SET, or None if the effect
    is removed.
    """
    pending = [(old, new)]
    while pending:
        a, b = pending.pop()
        if not isinstance(a, Term) or not isinstance(b, Term):
            if type(a) is not type(b) or a != b:
                return False
            continue
        if a.partner is not None or b.partner is not None:
            if a.partner is not b:
                return False
            continue
        a.partner, b.partner = b, a
        effects = _edited(a, edits.get(id(a), {}))
        if a.opcode != b.opcode or [len(a.parts), *map(len, effects)] != [len(b.parts), *map(len, b.effects)]:
            return False
        for before, after in zip((a.parts, *effects), (b.parts, *b.effects), strict=True):
            # Pairs without a term are compared at once: a list may have millions of them.
            pending.extend(pair for pair in zip(before, after, strict=True) if not _same_value(*pair))
    return True


def _same_value(a: object, b: object) -> bool:
    """Return whether two values without a term are equal."""
    return type(a) is type(b) and not isinstance(a, Term) and a == b


def _edited(term: Term, edits: Mapping[int, str | None]) -> Sequence[tuple[Any, ...]]:
    """Return the effects of a term with `edits` applied."""
    if not edits:
        return term.effects
    kept = []
    for order, effect in enumerate(term.effects):
        key = edits.get(order, "")
        if key is not None:
            kept.append((SET, key, effect[2]) if key else effect)
    return kept
