"""A symbolic reader of pickles: it describes the object that a pickle would build, and builds nothing.

Containers become plain dicts, lists and tuples. Every global, call and persistent id becomes a value that names it;
byte strings become their positions. Nothing is imported or called, so a hostile pickle is only an odd description.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import IO, TYPE_CHECKING

from prunecli.errors import CheckpointError
from prunecli.formats.pickle.machine import StackMachine, opcodes_of
from prunecli.formats.pickle.opcodes import Blob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_EMPTY: Mapping[object, object] = MappingProxyType({})
_PLAIN_INT = 1 << 60  # a smaller int is its own hash, so a file cannot make the keys of a dict collide


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


@dataclass(eq=False, frozen=True, slots=True)
class Key:
    """A dict key that is no str, small int, bool or None. Compared by identity, so that its value is never hashed."""

    value: object


@dataclass(frozen=True, slots=True)
class Pickle:
    """The description of one pickle: its `value`, and all persistent ids in the order of their opcodes."""

    value: object
    persistent: tuple[Persistent, ...]


def read_pickle(stream: IO[bytes], label: str) -> Pickle:
    """Read one pickle (protocol 2 to 5) from the seekable `stream`, and leave the stream after its STOP.

    Raises CheckpointError, naming `label`, where the pickle is damaged or truncated, exceeds a limit of the stack
    machine, or uses an opcode that no checkpoint needs.
    """
    machine = _ValueMachine()
    try:
        value = machine.run(stream)
    except ValueError as error:
        raise CheckpointError(f"{label} is damaged or truncated: in its pickle, {error}") from error
    return Pickle(value, tuple(machine.persistent))


class _ValueMachine(StackMachine):
    """A stack machine whose items are symbolic values."""

    __slots__ = ("copied", "persistent")

    def __init__(self) -> None:
        super().__init__()
        self.persistent: list[Persistent] = []
        self.copied = 0  # items copied from lists of pairs into dicts

    byte_string = binfloat = StackMachine.push

    def python2_text(self, latin: str) -> None:
        # Python 2 wrote str as bytes; torch.load reads them as UTF-8.
        self.stack.append(latin.encode("latin-1").decode("utf-8", "backslashreplace"))

    def get(self, index: int) -> None:
        self._push_again(self.memo[index])

    def dup(self, _: object) -> None:
        self._push_again(self.stack[-1])

    def _push_again(self, value: object) -> None:
        if isinstance(value, Blob):
            value.reused = True
        self.stack.append(value)

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
        self.stack.append(items)

    def short_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def frozenset_to_mark(self, _: object) -> None:
        # A list: a set would have to hash its items, and tuples can nest deeper than C can hash.
        items = self.pop_mark()
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
        _entries_of(self.stack[-1])[_key(key)] = value

    def setitems(self, _: object) -> None:
        items = self.pop_mark()
        if len(items) % 2:
            raise ValueError("a key has no value")
        entries = _entries_of(self.stack[-1])
        for key, value in zip(items[::2], items[1::2], strict=True):
            entries[_key(key)] = value

    def named_global(self, module_and_name: str) -> None:
        module, _, name = module_and_name.partition(" ")
        self.stack.append(Global(module, name))

    def stack_global(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("the name of a global is not text")
        self.stack.append(Global(module, name))

    def call(self, _: object) -> None:
        args, func = self.stack.pop(), self.stack.pop()
        if not isinstance(args, tuple):
            raise TypeError("the arguments of a call are not a tuple")
        maker = _MAKERS.get((func.module, func.name)) if isinstance(func, Global) else None
        self.stack.append(maker(self, args) if maker else self._call(func, args))

    def newobj_ex(self, _: object) -> None:
        keywords, args, cls = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append(self._call(cls, (args, keywords)))

    def _call(self, func: object, args: tuple[object, ...]) -> Call:
        self.count_object()
        return Call(func, args)

    def build(self, _: object) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Call):  # the state of a plain dict is an attribute such as OrderedDict._metadata
            target.state = state

    def binpersid(self, _: object) -> None:
        self.count_object()
        persistent = Persistent(self.stack.pop())
        self.persistent.append(persistent)
        self.stack.append(persistent)


_ValueMachine.opcodes = opcodes_of(_ValueMachine)


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


def _key(key: object) -> object:
    if key is None or isinstance(key, str):
        return key
    return key if isinstance(key, int) and abs(key) < _PLAIN_INT else Key(key)


def _make_dict(machine: _ValueMachine, args: tuple[object, ...]) -> dict[object, object]:
    source = args[-1] if args else None  # the other argument of a defaultdict is its factory
    if isinstance(source, dict):
        return source
    machine.count_object()
    made: dict[object, object] = {}
    if isinstance(source, (list, tuple)):  # Python 2 wrote OrderedDict([[key, value], ...])
        machine.copied += len(source)
        if machine.copied > machine.opcode_count:  # each item was written by an opcode and may be copied once
            raise ValueError("the same items are copied too often")
        made.update((_key(pair[0]), pair[1]) for pair in source if isinstance(pair, (list, tuple)))
    return made


def _make_list(_: _ValueMachine, args: tuple[object, ...]) -> object:
    return args[0] if args and isinstance(args[0], (list, tuple)) else []


_BUILTINS = ("builtins", "__builtin__")  # of Python 3 and Python 2

_MAKERS: dict[tuple[str, str], Callable[[_ValueMachine, tuple[object, ...]], object]] = {
    ("collections", "OrderedDict"): _make_dict,
    ("collections", "defaultdict"): _make_dict,
    ("collections", "Counter"): _make_dict,
    ("torch", "Size"): _make_list,
    **{(module, "dict"): _make_dict for module in _BUILTINS},
    **{(module, name): _make_list for module in _BUILTINS for name in ("list", "tuple", "set", "frozenset")},
}
