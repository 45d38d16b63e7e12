"""A symbolic reader of pickles: it says what a pickle would build, and builds nothing.

Containers become plain dicts, lists and tuples; every global, call and persistent id becomes a value that
names it; bytes become the place where they lie. Nothing is imported and nothing is called, so a hostile pickle
is only a strange description. Knows nothing about storages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any

from prunecli.errors import CheckpointError
from prunecli.formats.pickle.opcodes import ARGUMENTS, STOP, Blob, why_not

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MAX_OPCODES = 10_000_000
"""More than this is refused: about 250,000 tensors."""

MAX_OBJECTS = 2_000_000
"""More objects, dicts, lists and persistent ids than this are refused: a tensor takes three or five."""

MAX_MEMO = 4_000_000
"""More values than this cannot be kept to come back to: a tensor takes ten. All three together bound the memory."""

_NOTHING: Mapping[object, object] = MappingProxyType({})
_PLAIN_INT = 1 << 60  # below it an int is its own hash, so no file can make a dict's keys collide


@dataclass(frozen=True, slots=True)
class Global:
    """A module's attribute, by name; never looked up."""

    module: str
    name: str


@dataclass(eq=False, slots=True)
class Call:
    """An object made by calling `func` with `args`, then given `state` (BUILD), `items` and `entries`.

    `func` and `args` are symbolic too; `items` were appended, `entries` set by key. Compared by identity.
    """

    func: object
    args: tuple[object, ...]
    state: object = None
    items: Sequence[object] = ()
    entries: Mapping[object, object] = field(default_factory=lambda: _NOTHING)


@dataclass(eq=False, frozen=True, slots=True)
class Persistent:
    """An object kept outside the pickle, under `pid`. Compared by identity."""

    pid: object


@dataclass(eq=False, frozen=True, slots=True)
class Key:
    """A dict key other than str, small int, bool and None; compared by identity, so never hashed."""

    value: object


@dataclass(frozen=True, slots=True)
class Pickle:
    """What one pickle describes: its `value`, and every persistent id it mentions, in order."""

    value: object
    persistent: tuple[Persistent, ...]


def read_pickle(stream: IO[bytes], label: str) -> Pickle:
    """Read one pickle (protocol 2 to 5) from the seekable `stream`, leaving it just behind the STOP.

    Raises CheckpointError, naming `label`, where the pickle is damaged, truncated, longer than MAX_OPCODES,
    holds more than MAX_OBJECTS or MAX_MEMO, or uses an opcode that no checkpoint needs.
    """
    machine = _StackMachine()
    try:
        _run(machine, stream)
        return Pickle(machine.stack.pop(), tuple(machine.persistent))
    except IndexError:
        reason = "a value is missing from the stack"
    except KeyError as error:
        reason = f"memo {error.args[0]!r} was never stored"
    except (TypeError, ValueError) as error:
        reason = str(error)
    raise CheckpointError(f"{label} is damaged or truncated: in its pickle, {reason}")


@dataclass(slots=True)
class _StackMachine:
    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)
    persistent: list[Persistent] = field(default_factory=list)
    count: int = 0  # opcodes
    objects: int = 0
    copied: int = 0

    def pop_mark(self) -> list[Any]:
        """Return what lies above the last MARK, and take both off."""
        items = self.stack
        self.stack = self.marks.pop()
        return items


def _run(machine: _StackMachine, stream: IO[bytes]) -> None:
    code = b""
    while code != STOP:
        code = stream.read(1)
        if code not in _OPCODES:
            raise ValueError(why_not(code))
        argument, step = _OPCODES[code]
        step(machine, argument(stream) if argument else None)
        machine.count += 1
        if machine.count > MAX_OPCODES:
            raise ValueError(f"there are more than {MAX_OPCODES:,} opcodes")


def _push(machine: _StackMachine, value: object) -> None:
    machine.stack.append(value)


def _proto(_: _StackMachine, version: int) -> None:
    if not 2 <= version <= 5:
        raise ValueError(f"the protocol is {version}, not 2 to 5")


def _text(machine: _StackMachine, latin: str) -> None:
    # Python 2 wrote str as bytes; torch.load reads them as UTF-8
    machine.stack.append(latin.encode("latin-1").decode("utf-8", "backslashreplace"))


def _mark(machine: _StackMachine, _: object) -> None:
    machine.marks.append(machine.stack)
    machine.stack = []


def _pop(machine: _StackMachine, _: object) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _pop_mark(machine: _StackMachine, _: object) -> None:
    machine.pop_mark()


def _empty_list(machine: _StackMachine, _: object) -> None:
    _count_object(machine)
    machine.stack.append([])


def _empty_dict(machine: _StackMachine, _: object) -> None:
    _count_object(machine)
    machine.stack.append({})


def _put(machine: _StackMachine, index: int | None) -> None:
    if len(machine.memo) >= MAX_MEMO:
        raise ValueError(f"more than {MAX_MEMO:,} values are kept")
    machine.memo[len(machine.memo) if index is None else index] = machine.stack[-1]


def _get(machine: _StackMachine, index: int) -> None:
    _push_again(machine, machine.memo[index])


def _dup(machine: _StackMachine, _: object) -> None:
    _push_again(machine, machine.stack[-1])


def _push_again(machine: _StackMachine, value: object) -> None:
    if isinstance(value, Blob):
        value.reused = True
    machine.stack.append(value)


def _tuple(machine: _StackMachine, _: object) -> None:
    items = tuple(machine.pop_mark())
    machine.stack.append(items)


def _short_tuple(count: int) -> Callable[[_StackMachine, object], None]:
    def step(machine: _StackMachine, _: object) -> None:
        if len(machine.stack) < count:
            raise IndexError
        machine.stack[-count:] = [tuple(machine.stack[-count:])]

    return step


def _frozenset(machine: _StackMachine, _: object) -> None:
    # a set would have to hash what it holds, and a tuple can nest deeper than C can hash
    items = machine.pop_mark()
    machine.stack.append(items)


def _append(machine: _StackMachine, _: object) -> None:
    item = machine.stack.pop()
    _items_of(machine.stack[-1]).append(item)


def _appends(machine: _StackMachine, _: object) -> None:
    items = machine.pop_mark()
    _items_of(machine.stack[-1]).extend(items)


def _items_of(target: object) -> list[object]:
    if isinstance(target, list):
        return target
    if isinstance(target, Call):
        if not isinstance(target.items, list):
            target.items = []
        return target.items
    raise TypeError(f"items are added to a {type(target).__name__}")


def _setitem(machine: _StackMachine, _: object) -> None:
    value = machine.stack.pop()
    key = machine.stack.pop()
    _entries_of(machine.stack[-1])[_key(key)] = value


def _setitems(machine: _StackMachine, _: object) -> None:
    items = machine.pop_mark()
    entries = _entries_of(machine.stack[-1])
    for key, value in zip(items[::2], items[1::2], strict=True):
        entries[_key(key)] = value


def _entries_of(target: object) -> dict[object, object]:
    if isinstance(target, dict):
        return target
    if isinstance(target, Call):
        if not isinstance(target.entries, dict):
            target.entries = {}
        return target.entries
    raise TypeError(f"keys are set on a {type(target).__name__}")


def _key(key: object) -> object:
    if key is None or isinstance(key, str):
        return key
    return key if isinstance(key, int) and abs(key) < _PLAIN_INT else Key(key)


def _global(machine: _StackMachine, pair: str) -> None:
    module, _, name = pair.partition(" ")
    machine.stack.append(Global(module, name))


def _stack_global(machine: _StackMachine, _: object) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise TypeError("STACK_GLOBAL names something that is no text")
    machine.stack.append(Global(module, name))


def _reduce(machine: _StackMachine, _: object) -> None:
    args, func = machine.stack.pop(), machine.stack.pop()
    if not isinstance(args, tuple):
        raise TypeError("a call's arguments are no tuple")
    maker = _MAKERS.get((func.module, func.name)) if isinstance(func, Global) else None
    machine.stack.append(maker(machine, args) if maker else _call(machine, func, args))


def _call(machine: _StackMachine, func: object, args: tuple[object, ...]) -> Call:
    _count_object(machine)
    return Call(func, args)


def _count_object(machine: _StackMachine) -> None:
    machine.objects += 1
    if machine.objects > MAX_OBJECTS:
        raise ValueError(f"there are more than {MAX_OBJECTS:,} objects")


def _new_with_keywords(machine: _StackMachine, _: object) -> None:
    keywords, args, cls = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    machine.stack.append(_call(machine, cls, (args, keywords)))


def _build(machine: _StackMachine, _: object) -> None:
    state = machine.stack.pop()
    target = machine.stack[-1]
    if isinstance(target, Call):  # a plain dict's state is an attribute such as OrderedDict._metadata
        target.state = state


def _binpersid(machine: _StackMachine, _: object) -> None:
    _count_object(machine)
    persistent = Persistent(machine.stack.pop())
    machine.persistent.append(persistent)
    machine.stack.append(persistent)


def _make_dict(machine: _StackMachine, args: tuple[object, ...]) -> dict[object, object]:
    source = args[-1] if args else None  # a defaultdict's only other argument is its factory
    if isinstance(source, dict):
        return source
    _count_object(machine)
    made: dict[object, object] = {}
    if isinstance(source, (list, tuple)):  # Python 2 wrote OrderedDict([[key, value], ...])
        machine.copied += len(source)
        if machine.copied > machine.count:  # what was written once may be copied once
            raise ValueError("the same items are copied too often")
        made.update((_key(pair[0]), pair[1]) for pair in source if isinstance(pair, (list, tuple)))
    return made


def _make_list(_: _StackMachine, args: tuple[object, ...]) -> object:
    return args[0] if args and isinstance(args[0], (list, tuple)) else []


_MAKERS: dict[tuple[str, str], Callable[[_StackMachine, tuple[object, ...]], object]] = {
    ("collections", "OrderedDict"): _make_dict,
    ("collections", "defaultdict"): _make_dict,
    ("collections", "Counter"): _make_dict,
    ("torch", "Size"): _make_list,
    **{(module, "dict"): _make_dict for module in ("builtins", "__builtin__")},
    **{
        (module, name): _make_list
        for module in ("builtins", "__builtin__")
        for name in ("list", "tuple", "set", "frozenset")
    },
}

_PUSHED = (
    *("BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1", "LONG4"),
    *("BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE"),
    *("BINBYTES", "BINBYTES8", "BYTEARRAY8", "SHORT_BINBYTES"),
)

_STEPS: dict[str, Callable[[_StackMachine, Any], None]] = {
    **dict.fromkeys(_PUSHED, _push),
    "PROTO": _proto,
    "FRAME": lambda _machine, _length: None,
    "STOP": lambda _machine, _none: None,
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "BINSTRING": _text,
    "SHORT_BINSTRING": _text,
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": _dup,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": _put,
    "BINGET": _get,
    "LONG_BINGET": _get,
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "EMPTY_LIST": _empty_list,
    "EMPTY_SET": _empty_list,
    "EMPTY_DICT": _empty_dict,
    "TUPLE": _tuple,
    "TUPLE1": _short_tuple(1),
    "TUPLE2": _short_tuple(2),
    "TUPLE3": _short_tuple(3),
    "FROZENSET": _frozenset,
    "APPEND": _append,
    "APPENDS": _appends,
    "ADDITEMS": _appends,
    "SETITEM": _setitem,
    "SETITEMS": _setitems,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_with_keywords,
    "BUILD": _build,
    "BINPERSID": _binpersid,
}

_OPCODES = {code: (argument, _STEPS[name]) for code, (name, argument) in ARGUMENTS.items() if name in _STEPS}
