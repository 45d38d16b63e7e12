"""A decorator for frozen dataclasses that is quick to import.

`dataclasses.dataclass` writes and compiles six methods for each class, which for the hundred classes of a small run
takes a fifth of its time. Here only the constructor is compiled. Everything else is the same: fields, `replace`,
equality, hashes, text, errors on assignment, and copies.

The constructor of Python's classes calls a function for each field, which for ten thousand tensors takes longer than
their weights. Here, a class with many fields is derived from one whose fields can be assigned, and a new object is of
that class until it has all of them.
"""

from __future__ import annotations

import dataclasses
import sys
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass
else:

    def dataclass(cls: type | None = None, **options: bool) -> Any:  # noqa: ANN401 - a class, or a decorator of it
        """Return a dataclass as `dataclasses.dataclass` does; one that is frozen and has slots in less time."""
        if not (options.get("frozen") and options.get("slots")) or set(options) - _KNOWN:
            return dataclasses.dataclass(cls, **options)
        return lambda cls: _frozen(cls, eq=options.get("eq", True), text=options.get("repr", True))


_KNOWN = {"frozen", "slots", "eq", "repr"}

_REFUSED = {"__eq__", "__hash__", "__setattr__", "__delattr__"}

_MANY = 4
"""The fewest fields for which another class is worth its time."""

_FACTORY = object()
"""The default of a parameter whose field has a factory."""


def _frozen(cls: type, *, eq: bool, text: bool) -> type:
    """Return the dataclass of `cls`, with the methods below unless it has its own."""
    own = set(vars(cls))
    if own & _REFUSED:
        raise TypeError(f"{cls.__name__} has methods of its own for which dataclasses.dataclass is needed")
    made: type[Any] = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    fields = dataclasses.fields(made)
    if not all(field.init and not field.kw_only and field.hash is None for field in fields):
        raise TypeError(f"{cls.__name__} has fields for which dataclasses.dataclass is needed")
    names = tuple(field.name for field in fields)
    opened, made = made, _derived(made) if len(fields) >= _MANY else made
    methods: dict[str, Any] = {"__init__": _constructor(opened, made, fields), **_STATE}
    if eq:
        methods |= _comparisons(tuple(field.name for field in fields if field.compare))
    if text:
        methods["__repr__"] = _repr_of(tuple(field.name for field in fields if field.repr))
    methods |= _assignments(made, frozenset(names))
    for name, method in methods.items():
        if name not in own:
            setattr(made, name, method)
    return made


def _derived(opened: type) -> type[Any]:
    """Return a class without fields of its own that looks like `opened`, from which it is derived."""
    copied = {name: value for name in _COPIED if (value := vars(opened).get(name)) is not None}
    made = type(opened)(opened.__name__, (opened,), {**copied, "__slots__": ()})
    made.__slots__ = opened.__slots__  # type: ignore[attr-defined]
    return made


_COPIED = ("__annotations__", "__doc__", "__module__", "__qualname__")


def _constructor(opened: type, cls: type, fields: tuple[dataclasses.Field[Any], ...]) -> Callable[..., None]:
    """Compile `__init__` of `cls`, whose fields can be assigned while an object is of the class `opened`."""
    parameters, values, names = [], {}, {"_set": object.__setattr__, "_factory": _FACTORY}
    for field in fields:
        name = values[field.name] = field.name
        if field.default is not dataclasses.MISSING:
            names[f"_default_{name}"] = field.default
            parameters.append(f"{name}=_default_{name}")
        elif field.default_factory is not dataclasses.MISSING:
            names[f"_make_{name}"] = field.default_factory
            parameters.append(f"{name}=_factory")
            values[name] = f"_make_{name}() if {name} is _factory else {name}"
        else:
            parameters.append(name)
    names |= {"_class": cls, "_opened": opened, "_change": object.__dict__["__class__"].__set__, "_each": _set_each}
    body = "\n".join(_assignments_of(values) if opened is cls else _assignments_in_turn(values))
    if hasattr(cls, "__post_init__"):
        body += "\n  self.__post_init__()"
    source = f"def make({', '.join(names)}):\n def __init__(self, {', '.join(parameters)}):\n{body}\n return __init__"
    place: dict[str, Any] = {}
    exec(source, vars(sys.modules[cls.__module__]), place)  # noqa: S102 - of names of fields alone
    method: Callable[..., None] = place["make"](**names)
    method.__qualname__ = f"{cls.__qualname__}.__init__"
    method.__annotations__ = {field.name: field.type for field in fields} | {"return": None}
    return method


def _assignments_of(values: dict[str, str]) -> list[str]:
    """Return the lines that set each field to the value of an expression."""
    return [f"  _set(self, {name!r}, {value})" for name, value in values.items()] or ["  pass"]


def _assignments_in_turn(values: dict[str, str]) -> list[str]:
    """Return the lines that do so while the object is of the class `_opened`; an object of a derived class stays."""
    return [
        *(f"  {name} = {value}" for name, value in values.items() if name != value),
        "  if self.__class__ is not _class:",
        f"   _each(self, {', '.join(values)})",
        "  else:",
        "   _change(self, _opened)",
        *(f"   self.{name} = {name}" for name in values),
        "   self.__class__ = _class",
    ]


def _set_each(self: object, *values: object) -> None:
    """Set the fields of an object of a derived class, which may have an attribute dict."""
    for name, value in zip(self.__dataclass_fields__, values, strict=True):  # type: ignore[attr-defined]
        object.__setattr__(self, name, value)


def _comparisons(names: tuple[str, ...]) -> dict[str, Any]:
    values = _values_of(names)

    def __eq__(self: object, other: object) -> Any:  # noqa: ANN401, N807
        if other.__class__ is not self.__class__:
            return NotImplemented
        return values(self) == values(other)

    def __hash__(self: object) -> int:  # noqa: N807
        return hash(values(self))

    return {"__eq__": __eq__, "__hash__": __hash__}


def _values_of(names: tuple[str, ...]) -> Callable[[object], tuple[object, ...]]:
    """Return the function that returns the values of these fields."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda self: tuple(getattr(self, name) for name in names)


def _repr_of(names: tuple[str, ...]) -> Callable[[object], str]:
    @recursive_repr()
    def __repr__(self: object) -> str:  # noqa: N807
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{self.__class__.__qualname__}({values})"

    return __repr__


def _assignments(cls: type, names: frozenset[str]) -> dict[str, Any]:
    """Return the methods that refuse to change a field."""

    def __setattr__(self: object, name: str, value: object) -> None:  # noqa: N807
        if type(self) is cls or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    def __delattr__(self: object, name: str) -> None:  # noqa: N807
        if type(self) is cls or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        object.__delattr__(self, name)

    return {"__setattr__": __setattr__, "__delattr__": __delattr__}


def _get_state(self: Any) -> list[object]:  # noqa: ANN401 - a dataclass
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _set_state(self: Any, state: list[object]) -> None:  # noqa: ANN401 - a dataclass
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)


_STATE = {"__getstate__": _get_state, "__setstate__": _set_state}
"""The methods for copies and pickles, which would assign to fields."""
