"""The containers that a pickle makes by calls: copies of dicts, lists and tuples, as Python makes them.

The copies are counted: a few bytes of a pickle can ask for many copies of a large container.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable


class Machine(Protocol):
    """What the makers need of a stack machine."""

    def count_object(self) -> None:
        """Count an object; ValueError if there are too many."""

    def count_copies(self, count: int) -> None:
        """Count copied items; ValueError if there are too many."""

    def doubt(self, reason: str) -> None:
        """Note a reason why a loader may see other values than this machine."""

    def key(self, value: object) -> object:
        """Return the key of a dict for a value."""


Maker: TypeAlias = "Callable[[Machine, tuple[object, ...]], object]"
"""Makes a container from the arguments of a call."""


def _dict(machine: Machine, args: tuple[object, ...]) -> dict[object, object]:
    """Make a dict from nothing, from a dict, or from pairs: Python 2 wrote OrderedDict([[key, value], ...])."""
    machine.count_object()
    match args:
        case ():
            return {}
        case (dict(source),):
            machine.count_copies(len(source))
            return source.copy()
        case (list(pairs) | tuple(pairs),):
            return _from_pairs(machine, pairs)
        case _:
            machine.doubt("a dict is made from other values than keys and values")
            return {}


def _from_pairs(machine: Machine, pairs: list[object] | tuple[object, ...]) -> dict[object, object]:
    machine.count_copies(len(pairs))
    made: dict[object, object] = {}
    for pair in pairs:
        if isinstance(pair, (list, tuple)) and len(pair) == 2:
            made[machine.key(pair[0])] = pair[1]
        else:
            machine.doubt("a dict is made from other values than keys and values")
    return made


def _default_dict(machine: Machine, args: tuple[object, ...]) -> dict[object, object]:
    return _dict(machine, args[1:])  # the first argument is the factory of missing values


def _counter(machine: Machine, args: tuple[object, ...]) -> dict[object, object]:
    if args and not isinstance(args[0], dict):
        # Counter(items) counts them: the items are the keys.
        machine.doubt("a Counter is made from other values than counts")
        args = ()
    return _dict(machine, args)


def _list(machine: Machine, args: tuple[object, ...]) -> list[object]:
    machine.count_object()
    match args:
        case ():
            return []
        case (list(source) | tuple(source),):
            machine.count_copies(len(source))
            return [*source]
        case _:
            machine.doubt("a list is made from other values than a list")
            return []


def _set(machine: Machine, args: tuple[object, ...]) -> list[object]:
    # A list: a set would have to hash its items, and tuples can nest deeper than C can hash.
    return list({id(item): item for item in _list(machine, args)}.values())


def _tuple(machine: Machine, args: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(_list(machine, args))


def _new_dict(machine: Machine, _: tuple[object, ...]) -> dict[object, object]:
    return _dict(machine, ())  # dict.__new__ ignores its arguments


def _new_list(machine: Machine, _: tuple[object, ...]) -> list[object]:
    return _list(machine, ())


_BUILT_IN: dict[str, tuple[Maker, Maker]] = {
    "dict": (_dict, _new_dict),
    "list": (_list, _new_list),
    "set": (_set, _new_list),
    "frozenset": (_set, _set),
    "tuple": (_tuple, _tuple),
}

MAKERS: dict[tuple[str, str], tuple[Maker, Maker]] = {
    ("collections", "OrderedDict"): (_dict, _new_dict),
    ("collections", "defaultdict"): (_default_dict, _new_dict),
    ("collections", "Counter"): (_counter, _new_dict),
    ("torch", "Size"): (_tuple, _tuple),
    **{("builtins", name): makers for name, makers in _BUILT_IN.items()},
}
"""The classes of containers: what a call of the class makes, and what its __new__ makes."""
