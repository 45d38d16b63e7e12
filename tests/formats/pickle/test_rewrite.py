"""Pickles edited by opcode: what pickle itself then builds is the old object with entries renamed and taken out."""

from __future__ import annotations

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


def rewritten(value: object, names: dict[str, str | None], protocol: int) -> Any:  # noqa: ANN401 - what was pickled
    """Return what pickle builds from the edited pickle of `value`, read by both of its readers."""
    data = rewrite_pickle(pickle.dumps(value, protocol), names, "m.pth")
    built = pickle.loads(data)  # noqa: S301 - written here
    assert pickle._loads(data) == built  # type: ignore[attr-defined]
    return built


def edited(value: dict[str, Any], names: dict[str, str | None]) -> dict[str, Any]:
    """Return a dict with its keys renamed in place, and without those whose new name is None."""
    kept = ((names.get(key, key), item) for key, item in value.items())
    return {key: item for key, item in kept if key is not None}


# what cannot change after it was made may be shared in any way
frozen = st.recursive(
    st.one_of(st.text(max_size=4), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False), st.binary()),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)
keys = st.sampled_from(list("abcdefghij"))


@st.composite
def shared(draw: st.DrawFn) -> dict[str, Any]:
    """Return a dict of tuples whose parts are taken from few values, so that they are the same objects."""
    pool: list[Any] = draw(st.lists(frozen, min_size=1, max_size=4))
    pool += [tuple(draw(st.lists(st.sampled_from(pool), max_size=4))) for _ in range(3)]
    return {key: (draw(st.sampled_from(pool)), key) for key in draw(st.lists(keys, unique=True, min_size=1))}


@given(value=shared(), gone=st.sets(keys), protocol=st.sampled_from(PROTOCOLS))
def test_entries_go_and_the_rest_is_built_as_before(value: dict[str, Any], gone: set[str], protocol: int) -> None:
    """Whatever the entries that go share with those that stay, those that stay are equal, and in their order."""
    names: dict[str, str | None] = dict.fromkeys(gone & set(value))

    found = rewritten({"top": value, "again": list(value.values())[:2]}, {f"top.{n}": None for n in names}, protocol)

    assert list(edited(value, names).items()) == list(found["top"].items())
    assert list(value.values())[:2] == found["again"]


@given(value=shared(), renamed=st.sets(keys), gone=st.sets(keys), protocol=st.sampled_from(PROTOCOLS))
def test_keys_are_renamed_where_they_stand(
    value: dict[str, Any], renamed: set[str], gone: set[str], protocol: int
) -> None:
    """A new key stands where the old one stood; the old text stays where it is a value, or a key elsewhere."""
    names = {key: f"{key}_new" for key in renamed & set(value)} | dict.fromkeys(gone & set(value))
    other = OrderedDict.fromkeys(value, 0)
    paths = {f"a.b.{old}": None if new is None else f"a.b.{new}" for old, new in names.items()}

    found = rewritten({"a.b": value, "other": other}, paths, protocol)

    assert list(edited(value, names).items()) == list(found["a.b"].items())
    assert list(other.items()) == list(found["other"].items())


lists = st.lists(st.integers(), max_size=2)


@given(
    first=lists, second=lists, gone=st.sets(st.sampled_from("abcd"), min_size=1), protocol=st.sampled_from(PROTOCOLS)
)
def test_shared_things_that_change_are_right_or_refused(
    first: list[Any], second: list[Any], gone: set[str], protocol: int
) -> None:
    """Where lists are shared by what goes and what stays, the result is the same graph, or there is none."""
    first.append(second)
    value = {"a": first, "b": (first, second), "c": second, "d": [first]}

    try:
        found = rewritten(value, dict.fromkeys(gone), protocol)
    except CheckpointError as refused:
        assert "certainty" in str(refused)  # noqa: PT017 - either is right
        return

    assert edited(value, dict.fromkeys(gone)) == found
    parts = {"a": lambda v: v["a"], "b": lambda v: v["b"][0], "d": lambda v: v["d"][0]}
    firsts = [part(found) for key, part in parts.items() if key in found]
    assert all(one is firsts[0] for one in firsts)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_many_values_need_long_memo_numbers(protocol: int) -> None:
    """Past 256 kept values, what moves is still fetched by the right number."""
    words = [f"word {i}" for i in range(700)]
    value = {"gone": tuple(words), **{f"k{i}": (words[i], words[-i]) for i in range(700)}}

    assert edited(value, {"gone": None}) == rewritten(value, {"gone": None}, protocol)


@pytest.mark.parametrize("protocol", [4, 5])
def test_frames_are_as_long_as_they_say(protocol: int) -> None:
    """Of a pickle in several frames, with long bytes between them, every frame's length is right afterwards."""
    value = {f"k{i}": (f"text {i % 7}", bytes([i % 251]) * (i * 9701 % 90_000)) for i in range(60)}
    gone: dict[str, str | None] = {f"k{i}": None for i in range(0, 60, 3)}
    data = pickle.dumps(value, protocol)
    assert sum(op.name == "FRAME" for op, _, _ in pickletools.genops(data)) > 3

    new = rewrite_pickle(data, gone | {"k1": "first"}, "m.pth")

    frames = [(at, length) for op, length, at in pickletools.genops(new) if op.name == "FRAME"]
    ops = {at for _, _, at in pickletools.genops(new)} | {len(new)}
    assert all(at + 9 + length in ops for at, length in frames)
    assert edited(value, gone | {"k1": "first"}) == pickle.loads(new)  # noqa: S301 - written here
    assert pickle._loads(new) == pickle.loads(new)  # type: ignore[attr-defined] # noqa: S301


def test_nothing_to_do_changes_no_byte() -> None:
    """Without names the pickle is the one it was."""
    data = pickle.dumps({"a": [1, 2], "b": ("x", {"y": 1.5})}, 4)

    assert data == rewrite_pickle(data, {}, "m.pth")


def test_a_single_entry_takes_its_opcode_with_it() -> None:
    """A dict of one entry is written with SETITEM, which goes with the entry."""
    assert rewritten({"sd": {"a": 1}, "z": 2}, {"sd.a": None}, 2) == {"sd": {}, "z": 2}
    assert rewritten({"sd": {"a": 1}, "z": 2}, {"sd.a": "sd.b"}, 2) == {"sd": {"b": 1}, "z": 2}


@pytest.mark.parametrize(
    ("value", "name", "words"),
    [
        ({"a": 1}, "b", "is in no dict"),
        ({"a.b": 1, "a": {"b": 2}}, "a.b", "more than once"),
        ([("a", 1)], "a", "is in no dict"),
        ({1: 2}, "1", "is in no dict"),
    ],
)
def test_names_that_lead_nowhere_are_refused(value: object, name: str, words: str) -> None:
    """An entry that is not there exactly once is refused in a sentence with its name."""
    with pytest.raises(CheckpointError, match=words):
        rewrite_pickle(pickle.dumps(value, 2), {name: None}, "m.pth")


def test_a_value_that_is_elsewhere_too_is_not_renamed() -> None:
    """Whoever renames a value is going to change it: one that another place holds too is refused."""
    value = (1, 2, 3)

    with pytest.raises(CheckpointError, match="another place"):
        rewrite_pickle(pickle.dumps({"a": value, "b": [value]}, 2), {"a": "c"}, "m.pth")


def test_dicts_that_lead_to_each_other_are_searched_once() -> None:
    """A hostile pickle in which a path can be walked in countless ways is answered at once."""
    below: dict[str, Any] = {}
    last: dict[str, Any] = {}
    for _ in range(200):
        below, last = {"a": below, "a.a": last}, below

    with pytest.raises(CheckpointError):
        rewrite_pickle(pickle.dumps(below, 2), {".".join("a" * 190) + ".x": None}, "m.pth")


@given(noise=st.binary(max_size=60), way=st.sampled_from(["alone", "over the end", "one byte less"]))
def test_any_bytes_end_in_a_pickle_or_a_refusal(noise: bytes, way: str) -> None:
    """Damage at any place is refused in one sentence and never runs anything."""
    data = pickle.dumps({"a": (1, "x"), "b": OrderedDict(y=2)}, 2)
    at = len(noise)
    damaged = {"alone": noise, "over the end": data[:at] + noise, "one byte less": data[:at] + data[at + 1 :]}[way]

    try:
        found = rewrite_pickle(damaged, {"a": None}, "m.pth")
    except CheckpointError as refused:
        assert "m.pth" in str(refused)  # noqa: PT017 - either is right
        return
    assert any(op.name == "STOP" for op, _, _ in pickletools.genops(found))
