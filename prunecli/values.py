"""A decorator for frozen dataclasses that is quick to import, and whose objects are quick to make.

`dataclasses.dataclass` writes and compiles six methods for each class, which for the hundred classes of a small run
takes a fifth of its time. Here only the constructor is compiled, when the first object is made. Everything else is the
same: fields, `replace`, equality, hashes, text, errors on assignment, and copies.

The constructor of Python's classes calls a function for each field, which for ten thousand tensors takes longer than
their weights. Here, a class is derived from one whose fields can be assigned, and a new object is of that class until
it has all of them.
"""

from __future__ import annotations

import dataclasses
import sys
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

if TYPE_CHECKING:
    import inspect
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

_CLASS = vars(object)["__class__"]
"""The attribute that changes the class of an object, also of one whose attributes cannot be set."""

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
    methods: dict[str, Any] = {"__init__": _init, **_STATE, **_assignments(frozenset(field.name for field in fields))}
    if eq:
        methods |= _comparisons(tuple(field.name for field in fields if field.compare))
    if text:
        methods["__repr__"] = _repr_of(tuple(field.name for field in fields if field.repr))
    return _derived(made, {name: method for name, method in methods.items() if name not in own})


def _derived(opened: type, methods: dict[str, Any]) -> type[Any]:
    """Return a class with these methods, without fields of its own, that looks like `opened`, its base."""
    copied = {name: value for name in _COPIED if (value := vars(opened).get(name)) is not None}
    made = type(opened)(
        opened.__name__, (opened,), {**copied, **methods, "__slots__": (), "__signature__": _Signature()}
    )
    made.__slots__ = opened.__slots__  # type: ignore[attr-defined]
    return made


_COPIED = ("__annotations__", "__doc__", "__module__", "__qualname__")


class _Signature:
    """The signature of a class, whose constructor may not be compiled yet."""

    def __get__(self, value: object, cls: type) -> inspect.Signature:
        """Compile the constructor; AttributeError for a class that is derived without being a dataclass."""
        import inspect  # noqa: PLC0415 - it is not needed to make classes

        if "__signature__" not in vars(cls):
            raise AttributeError
        signature = inspect.signature(_constructor(cls))
        return signature.replace(parameters=list(signature.parameters.values())[1:])


def _init(self: object, *values: object, **named: object) -> None:
    """Compile the constructor, and call it."""
    cls = next(cls for cls in type(self).__mro__ if vars(cls).get("__init__") is _init)
    method = cls.__init__ = _constructor(cls)  # type: ignore[misc]
    method(self, *values, **named)


def _constructor(cls: type) -> Callable[..., None]:
    """Compile `__init__` of a class."""
    parameters, values = [], {}
    names = {
        "_class": cls,
        "_opened": cls.__base__,
        "_change": object.__dict__["__class__"].__set__,
        "_each": _set_each,
    }
    for field in dataclasses.fields(cls):
        name = values[field.name] = field.name
        if field.default is not dataclasses.MISSING:
            names[f"_default_{name}"] = field.default
            parameters.append(f"{name}=_default_{name}")
        elif field.default_factory is not dataclasses.MISSING:
            names |= {f"_make_{name}": field.default_factory, "_factory": _FACTORY}
            parameters.append(f"{name}=_factory")
            values[name] = f"_make_{name}() if {name} is _factory else {name}"
        else:
            parameters.append(name)
    body = "\n".join(_assignments_in_turn(values))
    if hasattr(cls, "__post_init__"):
        body += "\n  self.__post_init__()"
    source = f"def make({', '.join(names)}):\n def __init__(self, {', '.join(parameters)}):\n{body}\n return __init__"
    place: dict[str, Any] = {}
    exec(source, vars(sys.modules[cls.__module__]), place)  # noqa: S102 - of names of fields alone
    method: Callable[..., None] = place["make"](**names)
    method.__qualname__ = f"{cls.__qualname__}.__init__"
    method.__annotations__ = {field.name: field.type for field in dataclasses.fields(cls)} | {"return": None}
    return method


def _assignments_in_turn(values: dict[str, str]) -> list[str]:
    """Return the lines that set each field to the value of an expression, while the object is of the class `_opened`.

    An object of a class that is derived from `_class` stays what it is.
    """
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
    for field, value in zip(dataclasses.fields(self), values, strict=True):  # type: ignore[arg-type]
        object.__setattr__(self, field.name, value)


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


def _assignments(names: frozenset[str]) -> dict[str, Any]:
    """Return the methods that refuse to change a field."""

    def __setattr__(self: object, name: str, value: object) -> None:  # noqa: N807
        if vars(type(self)).get("__setattr__") is __setattr__ or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    def __delattr__(self: object, name: str) -> None:  # noqa: N807
        if vars(type(self)).get("__delattr__") is __delattr__ or name in names:
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
