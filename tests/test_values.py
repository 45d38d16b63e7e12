"""`values.dataclass` makes the classes that `dataclasses.dataclass` makes."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from typing import TYPE_CHECKING, Any, get_type_hints

import pytest

from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable


class Base:
    """The fields and members of both classes."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Change a field."""
        object.__setattr__(self, "name", self.name.upper())  # type: ignore[attr-defined]

    @property
    def length(self) -> int:
        """Return a number that depends on a field."""
        return len(self.name)  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Quick(Base):
    """A class of ours."""

    name: str
    numbers: tuple[int, ...] = (1,)
    table: dict[str, int] = dataclasses.field(default_factory=dict)
    hidden: object = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Usual(Base):
    """The same class of Python's."""

    name: str
    numbers: tuple[int, ...] = (1,)
    table: dict[str, int] = dataclasses.field(default_factory=dict)
    hidden: object = dataclasses.field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class One:
    """A class with one field, which has a hash."""

    value: object


def derived(kind: type[Any], members: dict[str, object] | None = None) -> type[Any]:
    """Return a class that is derived from `kind`; without `members` it has no attribute dict."""
    return type("Derived", (kind,), {"__slots__": ()} if members is None else members)


def outcome(action: Callable[[], object]) -> object:
    """Return the result of `action`, or the kind and the words of its error."""
    try:
        return action()
    except (TypeError, AttributeError) as error:
        return type(error), str(error)


@dataclass(frozen=True, slots=True)
class QuickWithMany(Base):
    """A class of ours with many fields."""

    name: str
    numbers: tuple[int, ...] = (1,)
    table: dict[str, int] = dataclasses.field(default_factory=dict)
    hidden: object = dataclasses.field(default=None, compare=False, repr=False)
    more: int = 1
    most: int = 2
    last: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class UsualWithMany(Base):
    """The same class of Python's."""

    name: str
    numbers: tuple[int, ...] = (1,)
    table: dict[str, int] = dataclasses.field(default_factory=dict)
    hidden: object = dataclasses.field(default=None, compare=False, repr=False)
    more: int = 1
    most: int = 2
    last: str = ""


ACTIONS: dict[str, Callable[[Any], object]] = {
    "text": lambda kind: repr(kind("a", hidden=3)),
    "equal": lambda kind: kind("a", (2,), {}, 1) == kind("A", numbers=(2,), hidden=2),
    "different": lambda kind: kind("a") == kind("b"),
    "other class": lambda kind: kind("a") == ("A", (1,), {}, None),
    "unhashable": lambda kind: hash(kind("a")),
    "replaced": lambda kind: repr(dataclasses.replace(kind("a"), numbers=())),
    "as dict": lambda kind: dataclasses.asdict(kind("a", table={"b": 1})),
    "own table": lambda kind: kind("a").table is kind("a").table,
    "assigned": lambda kind: setattr(kind("a"), "name", "b"),
    "deleted": lambda kind: delattr(kind("a"), "name"),
    "pickled": lambda kind: repr(pickle.loads(pickle.dumps(kind("a", (5,))))),  # noqa: S301 - our own bytes
    "copied": lambda kind: copy.deepcopy(kind("a", table={"c": 2})).table,
    "missing": lambda kind: kind(),
    "unknown": lambda kind: kind("a", what=1),
    "positions": lambda kind: kind.__match_args__,
    "memory": lambda kind: kind.__slots__,
    "documented": lambda kind: bool(kind.__doc__),
    "derived": lambda kind: repr(derived(kind)("a", numbers=(2,))),
    "derived with a dict": lambda kind: derived(kind, {})("a").__dict__,
    "named": lambda kind: (kind.__name__, kind.__qualname__, kind.__module__),
    "hints": lambda kind: (get_type_hints(kind), inspect.get_annotations(kind)),
    "property": lambda kind: kind("abc").length,
    "parameters": lambda kind: [(p.name, p.annotation, p.kind) for p in inspect.signature(kind).parameters.values()],
}


@pytest.mark.parametrize("kinds", [(Usual, Quick), (UsualWithMany, QuickWithMany)], ids=["few", "many"])
@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_classes_behave_as_those_of_python(action: Callable[[Any], object], kinds: tuple[type, type]) -> None:
    """Everything that a frozen dataclass with slots does, also wrongly."""
    expected, actual = (outcome(lambda kind=kind: action(kind)) for kind in kinds)  # type: ignore[misc]

    assert str(expected).replace("Usual", "Quick") == str(actual)


def test_one_field_is_compared_and_hashed() -> None:
    """A class with one field is equal, and has the same hash, where its field is."""
    assert (One(3), hash(One(3))) == (One(3), hash((3,)))
    assert {One("a"), One("a"), One("b")} == {One("b"), One("a")}


def test_no_name_can_be_added() -> None:
    """An attribute that is no field cannot be set either."""
    with pytest.raises(dataclasses.FrozenInstanceError, match="'other'"):
        One(1).other = 2  # type: ignore[attr-defined]


def test_what_is_not_supported_is_an_error() -> None:
    """A class with an equality of its own, or with a field that is no parameter, must be a dataclass of Python's."""

    class Own:
        name: str

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    class Computed:
        name: str = dataclasses.field(init=False)

    for kind in (Own, Computed):
        with pytest.raises(TypeError, match=r"dataclasses\.dataclass is needed"):
            dataclass(frozen=True, slots=True)(kind)


def test_other_options_are_those_of_python() -> None:
    """A class that is not frozen is made by Python."""

    @dataclass(slots=True)
    class Open:
        name: str

    value = Open("a")
    value.name = "b"

    assert repr(value).endswith("Open(name='b')")
