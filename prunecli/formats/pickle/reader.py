"""A symbolic reader of pickles: it describes the object that a pickle would build, and builds nothing.

Containers become plain dicts, lists and tuples. Every global, call and persistent id becomes a value that names it;
byte strings become their positions. Nothing is imported or called, so a hostile pickle is only an odd description.
"""

from __future__ import annotations

from dataclasses import field
from types import MappingProxyType
from typing import IO, TYPE_CHECKING

from prunecli.errors import CheckpointError
from prunecli.formats.pickle.containers import MAKERS
from prunecli.formats.pickle.global_names import renamed
from prunecli.formats.pickle.keys import Key, encoded_key, key_of
from prunecli.formats.pickle.machine import StackMachine, opcodes_of
from prunecli.formats.pickle.opcodes import Blob
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["ODD_KEY", "Call", "Global", "Key", "Persistent", "Pickle", "read_pickle"]

ODD_KEY = "the key of a dict is neither text nor a number"
"""The doubt about a key whose equality with others is unknown."""

_EMPTY: Mapping[object, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Global:
    """The attribute `name` of `module`; it is never looked up."""

    module: str
    name: str


@dataclass(eq=False, slots=True)
class Call:
    """An object made by calling `func` with `args`, then given `state` (BUILD), `items` and `entries`.

    `func` and `args` are symbolic too. `items` were appended; `entries` were set by key. Compared by identity.
    """

    func: object
    args: tuple[object, ...]
    state: object = None
    items: Sequence[object] = ()
    entries: Mapping[object, object] = field(default_factory=lambda: _EMPTY)

    def parts(self) -> Iterator[tuple[object, object]]:
        """Yield the key, attribute or index, and the value, of all that the object was made of or given."""
        states = self.state if isinstance(self.state, tuple) else (self.state,)  # a tuple also has the slots
        yield from self.entries.items()
        yield from enumerate(self.items)
        for state in states:
            if isinstance(state, dict):
                yield from state.items()
        others = enumerate(state for state in states if not isinstance(state, dict))
        yield from ((index, state) for index, state in others if state is not None)
        yield from enumerate(self.args)


@dataclass(eq=False, frozen=True, slots=True)
class Persistent:
    """An object stored outside the pickle, under the persistent id `pid`. Compared by identity."""

    pid: object


@dataclass(frozen=True, slots=True)
class Pickle:
    """The description of one pickle.

    Attributes:
        value: The value that it builds.
        persistent: All persistent ids, in the order of their opcodes.
        calls: All calls, in the order of their opcodes.
        attributes: The states that containers are given: their items are attributes, which are no part of `value`.
        doubts: Reasons why a loader may see other values.
        globals: All globals.
        length: The bytes that were read, without long byte strings.
    """

    value: object
    persistent: tuple[Persistent, ...]
    calls: tuple[Call, ...] = ()
    attributes: tuple[object, ...] = ()
    doubts: tuple[str, ...] = ()
    globals: frozenset[Global] = frozenset()
    length: int = 0


def read_pickle(stream: IO[bytes], label: str) -> Pickle:
    """Read one pickle (protocol 2 to 5) from the seekable `stream`, and leave the stream after its STOP.

    Raises CheckpointError, naming `label`, where the pickle is damaged or truncated, exceeds a limit of the stack
    machine, or uses an opcode that no checkpoint needs.
    """
    machine = ValueMachine()
    try:
        value = machine.run(stream)
    except ValueError as error:
        raise CheckpointError(f"{label} is damaged or truncated: in its pickle, {error}") from error
    return Pickle(
        value,
        tuple(machine.persistent),
        tuple(machine.calls),
        tuple(machine.attributes),
        tuple(machine.doubts),
        frozenset(machine.globals),
        machine.tell(),
    )


class ValueMachine(StackMachine):
    """A stack machine whose items are symbolic values."""

    __slots__ = ("attributes", "calls", "copied", "doubts", "globals", "marked", "persistent")

    def __init__(self) -> None:
        super().__init__()
        self.persistent: list[Persistent] = []
        self.calls: list[Call] = []
        self.attributes: list[object] = []
        self.doubts: dict[str, None] = {}
        self.globals: set[Global] = set()
        self.marked: dict[int, object] = {}  # by id, the tuples that are fetched again
        self.copied = 0  # items copied from containers into others

    binfloat = StackMachine.push

    def byte_string(self, value: Blob) -> None:
        self.spend(2)
        self.stack.append(value)

    def python2_text(self, latin: str) -> None:
        # Python 2 wrote str as bytes; torch.load reads them as UTF-8.
        self.stack.append(latin.encode("latin-1").decode("utf-8", "backslashreplace"))

    def get(self, index: int) -> None:
        self._push_again(self.fetched(index))

    def dup(self, _: object) -> None:
        self._push_again(self.stack[-1])

    def _push_again(self, value: object) -> None:
        self.stack.append(value)
        pending = [value]
        while pending:
            item = pending.pop()
            if isinstance(item, Blob):
                item.reused = True
            elif isinstance(item, tuple) and id(item) not in self.marked:  # the state of an array holds its bytes
                self.spend(1)
                self.marked[id(item)] = item
                pending.extend(item)

    def empty_tuple(self, _: object) -> None:
        self.stack.append(())

    def empty_list(self, _: object) -> None:
        self.count_object()
        self.stack.append([])

    def empty_dict(self, _: object) -> None:
        self.count_object()
        self.stack.append({})

    def tuple_to_mark(self, _: object) -> None:
        items = tuple(self.pop_mark())
        self.spend(1)
        self.stack.append(items)

    def short_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        self.spend(1)
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def frozenset_to_mark(self, _: object) -> None:
        # A list: a set would have to hash its items, and tuples can nest deeper than C can hash.
        items = self.pop_mark()
        self.spend(1)
        self.stack.append(items)

    def append(self, _: object) -> None:
        item = self.stack.pop()
        _items_of(self.stack[-1]).append(item)

    def extend(self, _: object) -> None:
        items = self.pop_mark()
        _items_of(self.stack[-1]).extend(items)

    def setitem(self, _: object) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._set_entries(key, value)

    def setitems(self, _: object) -> None:
        items = self.pop_mark()
        if len(items) % 2:
            raise ValueError("a key has no value")
        self._set_entries(*items)

    def _set_entries(self, *items: object) -> None:
        entries = _entries_of(self.stack[-1])
        self.spend(len(items) // 2 + (not entries) * 2)  # a dict of one entry takes 230 bytes
        for key, value in zip(items[::2], items[1::2], strict=True):
            entries[self.key(key)] = value

    def named_global(self, module_and_name: str) -> None:
        self._push_global(*module_and_name.split(" ", 1))

    def stack_global(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("the name of a global is not text")
        self._push_global(module, name)

    def _push_global(self, module: str, name: str) -> None:
        self.spend(1)
        value = Global(*renamed(module, name))
        self.globals.add(value)
        self.stack.append(value)

    def call(self, _: object) -> None:
        self._make(0)

    def new(self, _: object) -> None:
        self._make(1)

    def _make(self, number: int) -> None:
        """Call a global, or its __new__ if `number` is 1, with the arguments on the stack."""
        args, func = self.stack.pop(), self.stack.pop()
        if not isinstance(args, tuple):
            raise TypeError("the arguments of a call are not a tuple")
        makers = MAKERS.get((func.module, func.name)) if isinstance(func, Global) else None
        self.stack.append(makers[number](self, args) if makers else self._call(func, args))

    def newobj_ex(self, _: object) -> None:
        keywords, args, cls = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append(self._call(cls, (args, keywords)))

    def _call(self, func: object, args: tuple[object, ...]) -> Call:
        self.count_object()
        self.spend(2)
        call = Call(func, args)
        self.calls.append(call)
        return call

    def build(self, _: object) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, Call):  # the state of a plain dict is an attribute such as OrderedDict._metadata
            self.attributes.append(state)
            return
        if target.state is not None:
            self.doubt("an object is given two states")
        target.state = state

    def binpersid(self, _: object) -> None:
        self.count_object()
        persistent = Persistent(self.stack.pop())
        self.persistent.append(persistent)
        self.stack.append(persistent)

    def count_copies(self, count: int) -> None:
        self.spend(count)
        self.copied += count
        if self.copied > self.opcode_count:  # each item was written by an opcode and may be copied once
            raise ValueError("the same items are copied too often")

    def doubt(self, reason: str) -> None:
        self.doubts[reason] = None

    def key(self, value: object) -> object:
        match value:
            case Call(func=Global(module="_codecs", name="encode"), args=args):
                key: object = encoded_key(value, args)
            case Global():
                key = Key(value, value)
            case Blob(content=bytes(content)):
                key = Key(value, ("bytes", content))
            case _:
                key = key_of(value)
        if isinstance(key, Key):
            self.spend(8)
            if not key.comparable:
                self.doubt(ODD_KEY)
        return key


ValueMachine.opcodes = opcodes_of(ValueMachine)


def _items_of(target: object) -> list[object]:
    if isinstance(target, list):
        return target
    if isinstance(target, Call):
        if not isinstance(target.items, list):
            target.items = []
        return target.items
    raise TypeError(f"items are added to a {type(target).__name__}")


def _entries_of(target: object) -> dict[object, object]:
    if isinstance(target, dict):
        return target
    if isinstance(target, Call):
        if not isinstance(target.entries, dict):
            target.entries = {}
        return target.entries
    # torch before 2.10 set keys on any object that a pickle named (CVE-2026-24747).
    raise TypeError(f"keys are set on a {type(target).__name__}")
