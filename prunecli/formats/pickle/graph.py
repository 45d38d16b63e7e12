"""A pickle as a graph of terms that remember where in the bytes they were written, and whether two graphs are equal.

Where `pickle_reader` says what a checkpoint holds, this says how each value came to be, down to attributes and
hooks: enough to tell that a rewritten pickle still builds everything that the old one built. Runs nothing.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prunecli.errors import CheckpointError
from prunecli.formats.pickle.opcodes import ARGUMENTS, STOP, why_not
from prunecli.formats.pickle.reader import MAX_OPCODES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

SET, ADD, BUILD = "set", "add", "build"
"""What may happen to a value after it was made: a key was set, an item was added, a state was given."""


@dataclass(eq=False, slots=True)
class Term:
    """A value: the opcode that made it, that opcode's argument as it is spelled, its parts, and what happened to it.

    `effects` are (SET, key, value), (ADD, value) and (BUILD, state), in order. Text, whole numbers, truth values and
    None stand for themselves, without a Term.
    """

    code: str
    argument: bytes
    parts: tuple[object, ...] = ()
    effects: list[tuple[Any, ...]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Entry:
    """A key set on `target`, its `order`-th effect: the bytes [start, value) wrote the key, [value, end) the value.

    A SETITEM of its own is part of the entry's bytes; `alone` says so.
    """

    target: Term
    order: int
    start: int
    value: int
    end: int
    alone: bool


@dataclass(frozen=True, slots=True)
class Memo:
    """An opcode [at, end) about the memo.

    `definition` is the ordinal of the value it keeps or fetches, among all that are kept; `start` is where the bytes
    begin that wrote the value, for an opcode that keeps one, else -1.
    """

    at: int
    end: int
    definition: int
    start: int


@dataclass(slots=True)
class Trace:
    """What the bytes of one pickle build: its `root`, and where entries, memo opcodes and frames lie, in order.

    `slots` are the memo's numbers by definition; `counted` says of each whether it had none in the bytes (MEMOIZE).
    `fetched` are the definitions that are fetched at all.
    """

    root: object = None
    length: int = 0
    entries: list[Entry] = field(default_factory=list)
    memos: list[Memo] = field(default_factory=list)
    frames: list[tuple[int, int]] = field(default_factory=list)  # where the opcode is, and how long the frame
    slots: list[int] = field(default_factory=list)
    counted: list[bool] = field(default_factory=list)
    fetched: set[int] = field(default_factory=set)


def trace(data: bytes, label: str) -> Trace:
    """Trace the one pickle that `data` begins with; CheckpointError, naming `label`, where it makes no sense."""
    machine = _StackMachine(data)
    try:
        machine.run()
    except (IndexError, KeyError, TypeError, ValueError) as problem:
        raise CheckpointError(f"the pickle in {label} cannot be followed: {problem}") from problem
    return machine.trace


class _StackMachine:
    def __init__(self, data: bytes) -> None:
        self.data, self.trace = data, Trace()
        self.stack: list[object] = []
        self.starts: list[int] = []
        self.marks: list[tuple[list[object], list[int], int]] = []
        self.memo: dict[int, tuple[object, int]] = {}
        self.at = self.end = 0

    def run(self) -> None:
        stream, code, count = io.BytesIO(self.data), b"", 0
        while code != STOP:
            self.at = stream.tell()
            code = stream.read(1)
            name, argument = ARGUMENTS.get(code, ("", None))
            value = argument(stream) if argument else None
            self.end = stream.tell()
            if name not in _STEPS or self.end > len(self.data) or (count := count + 1) > MAX_OPCODES:
                raise ValueError(why_not(code) if count <= MAX_OPCODES else "it is too long")
            _STEPS[name](self, name, value)
        self.trace.root, self.trace.length = self.stack.pop(), self.end

    def push(self, value: object, start: int | None = None) -> None:
        self.stack.append(value)
        self.starts.append(self.at if start is None else start)

    def pop(self) -> tuple[object, int]:
        return self.stack.pop(), self.starts.pop()

    def pop_mark(self) -> tuple[list[object], list[int], int]:
        items, starts = self.stack, self.starts
        self.stack, self.starts, at = self.marks.pop()
        return items, starts, at

    def term(self, name: str, parts: tuple[object, ...], start: int, argument: bytes = b"") -> None:
        self.push(Term(name, argument, parts), start)

    def target(self) -> Term:
        target = self.stack[-1]
        if not isinstance(target, Term):
            raise TypeError("a plain value is changed")
        return target


def _nothing(_machine: _StackMachine, _name: str, _value: object) -> None:
    return


def _plain(machine: _StackMachine, _name: str, value: object) -> None:
    machine.push(value)


def _constant(value: object) -> Callable[[_StackMachine, str, object], None]:
    return lambda machine, _name, _value: machine.push(value)


def _spelled(machine: _StackMachine, name: str, _value: object) -> None:
    machine.term(name, (), machine.at, machine.data[machine.at : machine.end])


def _mark(machine: _StackMachine, _name: str, _value: object) -> None:
    machine.marks.append((machine.stack, machine.starts, machine.at))
    machine.stack, machine.starts = [], []


def _pop(machine: _StackMachine, _name: str, _value: object) -> None:
    if machine.stack:
        machine.pop()
    else:
        machine.pop_mark()


def _pop_mark(machine: _StackMachine, _name: str, _value: object) -> None:
    machine.pop_mark()


def _dup(machine: _StackMachine, _name: str, _value: object) -> None:
    machine.push(machine.stack[-1])


def _collect(machine: _StackMachine, name: str, _value: object) -> None:
    items, _, start = machine.pop_mark()
    machine.term(name, tuple(items), start)


def _combine(count: int) -> Callable[[_StackMachine, str, object], None]:
    def step(machine: _StackMachine, name: str, _value: object) -> None:
        if len(machine.stack) < count:
            raise IndexError("a value is missing from the stack")
        parts, start = tuple(machine.stack[-count:]), machine.starts[-count]
        del machine.stack[-count:], machine.starts[-count:]
        machine.term(name, parts, start)

    return step


def _add(machine: _StackMachine, name: str, _value: object) -> None:
    items = [machine.pop()[0]] if name == "APPEND" else machine.pop_mark()[0]
    machine.target().effects.extend((ADD, item) for item in items)


def _set_one(machine: _StackMachine, _name: str, _value: object) -> None:
    (item, value), (key, start) = machine.pop(), machine.pop()
    _set(machine, key, item, Entry(machine.target(), 0, start, value, machine.end, alone=True))


def _set_many(machine: _StackMachine, _name: str, _value: object) -> None:
    items, starts, _ = machine.pop_mark()
    if len(items) % 2:
        raise ValueError("a key has no value")
    ends = [*starts[1:], machine.at]
    target = machine.target()
    for i in range(0, len(items), 2):
        _set(machine, items[i], items[i + 1], Entry(target, 0, starts[i], ends[i], ends[i + 1], alone=False))


def _set(machine: _StackMachine, key: object, item: object, entry: Entry) -> None:
    effects = entry.target.effects
    if isinstance(key, str):
        placed = Entry(entry.target, len(effects), entry.start, entry.value, entry.end, entry.alone)
        machine.trace.entries.append(placed)
    effects.append((SET, key, item))


def _build(machine: _StackMachine, _name: str, _value: object) -> None:
    state, _ = machine.pop()
    machine.target().effects.append((BUILD, state))


def _put(machine: _StackMachine, name: str, index: Any) -> None:  # noqa: ANN401 - an opcode's argument
    counted = name == "MEMOIZE"
    slot = len(machine.memo) if counted else index
    trace = machine.trace
    machine.memo[slot] = (machine.stack[-1], len(trace.slots))
    trace.memos.append(Memo(machine.at, machine.end, len(trace.slots), machine.starts[-1]))
    trace.slots.append(slot)
    trace.counted.append(counted)


def _get(machine: _StackMachine, _name: str, index: Any) -> None:  # noqa: ANN401 - an opcode's argument
    if index not in machine.memo:
        raise ValueError(f"memo {index} was never stored")
    value, definition = machine.memo[index]
    machine.trace.memos.append(Memo(machine.at, machine.end, definition, -1))
    machine.trace.fetched.add(definition)
    machine.push(value)


def _frame(machine: _StackMachine, _name: str, length: Any) -> None:  # noqa: ANN401 - an opcode's argument
    machine.trace.frames.append((machine.at, length))


_STEPS: dict[str, Callable[[_StackMachine, str, Any], None]] = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4"), _plain),
    **dict.fromkeys(("BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE"), _plain),
    **dict.fromkeys(("BINFLOAT", "BINSTRING", "SHORT_BINSTRING", "GLOBAL"), _spelled),
    **dict.fromkeys(("BINBYTES", "BINBYTES8", "BYTEARRAY8", "SHORT_BINBYTES"), _spelled),
    **dict.fromkeys(("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_SET", "EMPTY_DICT"), _spelled),
    **dict.fromkeys(("TUPLE", "FROZENSET"), _collect),
    **dict.fromkeys(("TUPLE1", "BINPERSID"), _combine(1)),
    **dict.fromkeys(("TUPLE2", "STACK_GLOBAL", "REDUCE", "NEWOBJ"), _combine(2)),
    **dict.fromkeys(("TUPLE3", "NEWOBJ_EX"), _combine(3)),
    **dict.fromkeys(("APPEND", "APPENDS", "ADDITEMS"), _add),
    **dict.fromkeys(("PROTO", "STOP"), _nothing),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _get),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": _dup,
    "SETITEM": _set_one,
    "SETITEMS": _set_many,
    "BUILD": _build,
    "FRAME": _frame,
}


# --- questions to a graph


def holders(root: object, values: Collection[int]) -> Iterator[tuple[Term, int]]:
    """Yield each place below `root` that holds a term of which the identity is in `values`.

    A place is a term and the number of its effect, or -1 for its parts.
    """
    seen: set[int] = set()
    pending = [root]
    while pending:
        term = pending.pop()
        if not isinstance(term, Term) or id(term) in seen:
            continue
        seen.add(id(term))
        pending.extend(term.parts)
        if any(id(part) in values for part in term.parts):
            yield term, -1
        for order, effect in enumerate(term.effects):
            pending.extend(effect[1:])
            if any(id(part) in values for part in effect[1:]):
                yield term, order


def same(old: object, new: object, edits: Mapping[int, Mapping[int, str | None]]) -> bool:
    """Say whether the graph at `new` is the one at `old` but for `edits`, and shares the same values.

    `edits` tells, by the identity of a term of the old graph, which of its effects are gone (None) or have a new key.
    """
    partners: dict[int, int] = {}
    taken: set[int] = set()
    pending = [(old, new)]
    while pending:
        a, b = pending.pop()
        if not isinstance(a, Term) or not isinstance(b, Term):
            if type(a) is not type(b) or a != b:
                return False
            continue
        if id(a) in partners or id(b) in taken:
            if partners.get(id(a)) != id(b):
                return False
            continue
        partners[id(a)] = id(b)
        taken.add(id(b))
        effects = _edited(a, edits.get(id(a), {}))
        if (a.code, a.argument, len(a.parts), len(effects)) != (b.code, b.argument, len(b.parts), len(b.effects)):
            return False
        pending.extend(zip(a.parts, b.parts, strict=True))
        for before, after in zip(effects, b.effects, strict=True):
            if len(before) != len(after):
                return False
            pending.extend(zip(before, after, strict=True))
    return True


def _edited(term: Term, edits: Mapping[int, str | None]) -> list[tuple[Any, ...]]:
    """Return the effects of a term as they should be after `edits`."""
    if not edits:
        return term.effects
    kept = []
    for order, effect in enumerate(term.effects):
        key = edits.get(order, "")
        if key is not None:
            kept.append((SET, key, effect[2]) if key else effect)
    return kept
