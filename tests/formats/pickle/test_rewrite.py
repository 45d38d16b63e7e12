"""Pickles edited by opcode: pickle then builds the original object with entries renamed and removed."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunecli.errors import CheckpointError
from prunecli.formats.pickle.rewrite import rewrite_pickle

PROTOCOLS = [2, 3, 4, 5]


def edited_bytes(data: bytes, names: dict[str, str | None]) -> bytes:
    """Return the edited pickle."""
    return rewrite_pickle(data, names, "m.pth", hint="save it again")


def rewritten(value: object, names: dict[str, str | None], protocol: int) -> Any:  # noqa: ANN401 - what was pickled
    """Return the object in the edited pickle of `value`; both readers of pickle must agree on it."""
    data = edited_bytes(pickle.dumps(value, protocol), names)
    built = pickle.loads(data)  # noqa: S301 - written here
    assert pickle._loads(data) == built  # type: ignore[attr-defined]
    return built


def edited(value: dict[str, Any], names: dict[str, str | None]) -> dict[str, Any]:
    """Return a dict with its keys renamed in place, and without those whose new name is None."""
    kept = ((names.get(key, key), item) for key, item in value.items())
    return {key: item for key, item in kept if key is not None}


# immutable values may be shared in any way
frozen = st.recursive(
    st.one_of(st.text(max_size=4), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False), st.binary()),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)
keys = st.sampled_from(list("abcdefghij"))


@st.composite
def shared(draw: st.DrawFn) -> dict[str, Any]:
    """Return a dict of tuples that share parts from a small pool."""
    pool: list[Any] = draw(st.lists(frozen, min_size=1, max_size=4))
    pool += [tuple(draw(st.lists(st.sampled_from(pool), max_size=4))) for _ in range(3)]
    return {key: (draw(st.sampled_from(pool)), key) for key in draw(st.lists(keys, unique=True, min_size=1))}


@given(value=shared(), removed=st.sets(keys), protocol=st.sampled_from(PROTOCOLS))
def test_remaining_entries_are_built_as_before(value: dict[str, Any], removed: set[str], protocol: int) -> None:
    """Remaining entries are equal and in order, whichever parts they share with removed entries."""
    names: dict[str, str | None] = dict.fromkeys(removed & set(value))

    actual = rewritten({"top": value, "again": list(value.values())[:2]}, {f"top.{n}": None for n in names}, protocol)

    assert list(edited(value, names).items()) == list(actual["top"].items())
    assert list(value.values())[:2] == actual["again"]


@given(value=shared(), renamed=st.sets(keys), removed=st.sets(keys), protocol=st.sampled_from(PROTOCOLS))
def test_keys_are_renamed_in_place(value: dict[str, Any], renamed: set[str], removed: set[str], protocol: int) -> None:
    """A new key takes the position of the old one; the same text elsewhere is unchanged."""
    names = {key: f"{key}_new" for key in renamed & set(value)} | dict.fromkeys(removed & set(value))
    other = OrderedDict.fromkeys(value, 0)
    paths = {f"a.b.{old}": None if new is None else f"a.b.{new}" for old, new in names.items()}

    actual = rewritten({"a.b": value, "other": other}, paths, protocol)

    assert list(edited(value, names).items()) == list(actual["a.b"].items())
    assert list(other.items()) == list(actual["other"].items())


lists = st.lists(st.integers(), max_size=2)


@given(
    first=lists, second=lists, removed=st.sets(st.sampled_from("abcd"), min_size=1), protocol=st.sampled_from(PROTOCOLS)
)
def test_shared_lists_are_right_or_rejected(
    first: list[Any], second: list[Any], removed: set[str], protocol: int
) -> None:
    """If removed and remaining entries share lists, the result is the same graph or an error."""
    first.append(second)
    value = {"a": first, "b": (first, second), "c": second, "d": [first]}

    try:
        actual = rewritten(value, dict.fromkeys(removed), protocol)
    except CheckpointError as refused:
        assert "safely" in str(refused)  # noqa: PT017 - either is right
        return

    assert edited(value, dict.fromkeys(removed)) == actual
    parts = {"a": lambda v: v["a"], "b": lambda v: v["b"][0], "d": lambda v: v["d"][0]}
    firsts = [part(actual) for key, part in parts.items() if key in actual]
    assert all(one is firsts[0] for one in firsts)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_more_than_256_memo_entries_get_long_indices(protocol: int) -> None:
    """Moved values are fetched by the right index past 256 memo entries."""
    words = [f"word {i}" for i in range(700)]
    value = {"removed": tuple(words), **{f"k{i}": (words[i], words[-i]) for i in range(700)}}

    assert edited(value, {"removed": None}) == rewritten(value, {"removed": None}, protocol)


@pytest.mark.parametrize("protocol", [4, 5])
def test_frame_lengths_are_updated(protocol: int) -> None:
    """In a pickle of several frames with long byte strings between them, all frame lengths are right afterwards."""
    value = {f"k{i}": (f"text {i % 7}", bytes([i % 251]) * (i * 9701 % 90_000)) for i in range(60)}
    removed: dict[str, str | None] = {f"k{i}": None for i in range(0, 60, 3)}
    data = pickle.dumps(value, protocol)
    assert sum(op.name == "FRAME" for op, _, _ in pickletools.genops(data)) > 3

    new = edited_bytes(data, removed | {"k1": "first"})

    frames = [(offset, length) for op, length, offset in pickletools.genops(new) if op.name == "FRAME"]
    ops = {offset for _, _, offset in pickletools.genops(new)} | {len(new)}
    assert all(offset + 9 + length in ops for offset, length in frames)
    assert edited(value, removed | {"k1": "first"}) == pickle.loads(new)  # noqa: S301 - written here
    assert pickle._loads(new) == pickle.loads(new)  # type: ignore[attr-defined] # noqa: S301


def test_without_names_no_byte_changes() -> None:
    """A pickle with nothing to rename or remove is returned unchanged."""
    data = pickle.dumps({"a": [1, 2], "b": ("x", {"y": 1.5})}, 4)

    assert data == edited_bytes(data, {})


def test_a_single_entry_is_removed_with_its_opcode() -> None:
    """A dict of one entry is written with SETITEM, which is removed with the entry."""
    assert rewritten({"sd": {"a": 1}, "z": 2}, {"sd.a": None}, 2) == {"sd": {}, "z": 2}
    assert rewritten({"sd": {"a": 1}, "z": 2}, {"sd.a": "sd.b"}, 2) == {"sd": {"b": 1}, "z": 2}


@pytest.mark.parametrize(
    ("value", "name", "words"),
    [
        ({"a": 1}, "b", "is not an entry of a dict"),
        ({"a.b": 1, "a": {"b": 2}}, "a.b", "more than one entry"),
        ([("a", 1)], "a", "is not an entry of a dict"),
        ({1: 2}, "1", "is not an entry of a dict"),
    ],
)
def test_a_name_of_no_single_entry_is_rejected(value: object, name: str, words: str) -> None:
    """A path that leads to no entry or to several raises an error with the name and the hint."""
    with pytest.raises(CheckpointError, match=words) as caught:
        edited_bytes(pickle.dumps(value, 2), {name: None})

    assert caught.value.hint == "save it again"


def test_a_value_stored_twice_is_not_renamed() -> None:
    """The value of a renamed entry is going to be changed, so an error is raised if it is stored elsewhere too."""
    value = (1, 2, 3)

    with pytest.raises(CheckpointError, match="stores the same tensor elsewhere"):
        edited_bytes(pickle.dumps({"a": value, "b": [value]}, 2), {"a": "c"})


def test_dicts_nested_in_each_other_are_searched_once() -> None:
    """A hostile pickle with exponentially many paths to a name is rejected without walking all of them."""
    below: dict[str, Any] = {}
    last: dict[str, Any] = {}
    for _ in range(200):
        below, last = {"a": below, "a.a": last}, below

    with pytest.raises(CheckpointError):
        edited_bytes(pickle.dumps(below, 2), {".".join("a" * 190) + ".x": None})


class SafeUnpickler(pickle.Unpickler):
    """Unpickles OrderedDict and no other global."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - pickle's own signature
        """Return OrderedDict, or raise UnpicklingError."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(name)


@given(
    noise=st.binary(max_size=60),
    size=st.integers(0, 60),
    damage=st.sampled_from(["alone", "instead of the end", "inserted", "one byte less"]),
)
def test_damaged_bytes_give_the_same_object_or_an_error(noise: bytes, size: int, damage: str) -> None:
    """Damage anywhere raises CheckpointError, or pickle builds the same object from the result, without the entry."""
    data = pickle.dumps({"a": (1, "x"), "b": OrderedDict(y=2)}, 2)
    damaged = {
        "alone": noise,
        "instead of the end": data[:size] + noise,
        "inserted": data[:size] + noise + data[size:],
        "one byte less": data[:size] + data[size + 1 :],
    }[damage]

    try:
        actual = edited_bytes(damaged, {"a": None})
    except CheckpointError as refused:
        assert "m.pth" in str(refused)  # noqa: PT017 - either is right
        return

    try:
        before = SafeUnpickler(io.BytesIO(damaged)).load()
    except Exception:  # noqa: BLE001 - pickle raises any error for damaged bytes
        return
    before.pop("a")
    assert repr(before) == repr(SafeUnpickler(io.BytesIO(actual)).load())


@pytest.mark.parametrize("limit", ["MAX_OPCODES", "MAX_MEMO"])
def test_the_limits_of_the_stack_machine_hold(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle with too many opcodes or memo entries is not rewritten."""
    monkeypatch.setattr(f"prunecli.formats.pickle.machine.{limit}", 5)

    with pytest.raises(CheckpointError, match="more than 5"):
        edited_bytes(pickle.dumps({str(i): str(i) for i in range(10)}, 2), {})
