"""The symbolic pickle reader: it describes objects, rejects damaged pickles, and executes nothing."""

from __future__ import annotations

import argparse
import collections
import io
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.errors import CheckpointError
from prunecli.formats.pickle.reader import Call, Global, Key, Persistent, read_pickle

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def read(data: bytes) -> object:
    """Return the value of the pickle in `data`."""
    return read_pickle(io.BytesIO(data), "x.pth").value


@given(plain, st.integers(2, 5))
@settings(max_examples=examples(60))
def test_plain_values_are_read_as_pickle_reads_them(value: object, protocol: int) -> None:
    """Containers, text and numbers are those that pickle.loads returns, in every protocol."""
    assert value == read(pickle.dumps(value, protocol))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_dict_subclasses_become_dicts_in_order(protocol: int) -> None:
    """OrderedDict, defaultdict and Counter read as plain dicts that keep their order."""
    value = [
        collections.OrderedDict(b=1, a=2),
        collections.defaultdict(list, z=[1]),
        collections.Counter("aab"),
    ]

    assert [
        list(d.items())
        for d in read(pickle.dumps(value, protocol))  # type: ignore[attr-defined]
    ] == [[("b", 1), ("a", 2)], [("z", [1])], [("a", 2), ("b", 1)]]


@pytest.mark.parametrize("protocol", [2, 4])
def test_objects_become_calls_with_their_state(protocol: int) -> None:
    """An object of any class is a Call that names the class and carries the state."""
    actual = read(pickle.dumps(argparse.Namespace(lr=0.1), protocol))

    assert isinstance(actual, Call)
    assert actual.state == {"lr": 0.1}


def test_python_2_ordered_dict_and_text() -> None:
    """An OrderedDict made of pairs, and byte strings, read as Python 3 would read them."""
    pairs = b"\x80\x02ccollections\nOrderedDict\n](](U\x01bK\x01e](U\x03a\xc3\xa9K\x02ee\x85R."

    assert list(read(pairs).items()) == [("b", 1), ("aé", 2)]  # type: ignore[attr-defined]


def test_persistent_ids_are_listed() -> None:
    """Each persistent id is a separate value, and all are listed in order."""
    actual = read_pickle(io.BytesIO(b"\x80\x02](K\x01QK\x02Qe."), "x.pth")

    assert [persistent.pid for persistent in actual.persistent] == [1, 2]
    assert list(actual.persistent) == actual.value


def test_the_stream_is_left_after_the_stop() -> None:
    """The bytes after the pickle are not read."""
    stream = io.BytesIO(pickle.dumps([1], 2) + b"rest")

    read_pickle(stream, "x.pth")

    assert stream.read() == b"rest"


def test_last_duplicate_key_wins() -> None:
    """A key that is set twice keeps its last value, as in pickle.loads."""
    assert read(b"\x80\x02}(U\x01aK\x01U\x01aK\x02u.") == {"a": 2}


def test_keys_that_could_be_costly_to_hash_are_wrapped() -> None:
    """Lists, nested tuples and huge numbers as keys are wrapped and never hashed."""
    actual = read(b"\x80\x02}(]K\x01](e\x85K\x02\x8a\x09" + b"\xff" * 8 + b"\x00K\x03u.")

    assert isinstance(actual, dict)
    assert list(actual.values()) == [1, 2, 3]
    assert all(isinstance(key, Key) for key in actual)


BROKEN = {
    "empty": b"",
    "no stop": b"\x80\x02K\x01",
    "nothing to return": b"\x80\x02.",
    "underflow": b"\x80\x02K\x01\x86.",
    "pop of nothing": b"\x80\x020.",
    "mark missing": b"\x80\x02]e.",
    "memo missing": b"\x80\x02h\x05.",
    "put of nothing": b"\x80\x02q\x00.",
    "text longer than the file": b"\x80\x02X\xff\xff\xff\x7fab.",
    "text of 2**63 bytes": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fab.",
    "bytes of 2**64 - 1": b"\x80\x04\x8e" + b"\xff" * 8 + b".",
    "negative number length": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "number longer than the file": b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
    "unknown opcode": b"\x80\x02\xff.",
    "bad text": b"\x80\x02X\x01\x00\x00\x00\xff.",
    "protocol 6": b"\x80\x06N.",
    "protocol 0": b"(lp0\n.",
    "INST": b"\x80\x02(K\x01iposix\nsystem\n.",
    "OBJ": b"\x80\x02(cposix\nsystem\nK\x01o.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT2": b"\x80\x02\x83\x01\x00.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "PERSID": b"\x80\x02Pabc\n.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "READONLY_BUFFER": b"\x80\x05N\x98.",
    "append to a number": b"\x80\x02K\x01K\x02a.",
    "set a key of a list": b"\x80\x02]K\x01K\x02s.",
    "odd number of items": b"\x80\x02}(K\x01u.",
    "arguments no tuple": b"\x80\x02cos\ngetcwd\n]R.",
    "global of numbers": b"\x80\x04K\x01K\x02\x93.",
    "global without end": b"\x80\x02cos",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_pickles_raise_one_sentence(name: str) -> None:
    """A damaged pickle, or one with opcodes that checkpoints do not need, raises CheckpointError with the file name."""
    with pytest.raises(CheckpointError, match=r"^x\.pth is damaged or truncated: in its pickle, .+$"):
        read(BROKEN[name])


@given(st.binary(max_size=60))
@settings(max_examples=examples(300))
def test_any_bytes_give_a_value_or_an_error(data: bytes) -> None:
    """Arbitrary bytes raise no other exception than CheckpointError."""
    try:
        read(b"\x80\x04" + data)
    except CheckpointError as error:
        assert "\n" not in str(error).replace("\\n", "")  # noqa: PT017


@pytest.mark.parametrize(
    "data",
    [
        b"]" * 100_000 + b"a" * 99_999 + b".",
        b")" + b"\x85" * 100_000 + b".",
        b"})" + b"\x85" * 100_000 + b"Ns.",
        b"](" + b"(" * 100_000 + b"1" * 100_000 + b"e.",
    ],
    ids=["lists", "tuples", "tuple as key", "marks"],
)
def test_deep_nesting_is_read(data: bytes) -> None:
    """100,000 levels are read without recursion, even in the key of a dict."""
    assert read(b"\x80\x02" + data) is not None


def test_cycles_and_shared_parts_are_not_copied() -> None:
    """A list that contains itself, and a list doubled 60 times, are read with their parts shared."""
    cycle = read(b"\x80\x02]q\x00h\x00a.")
    assert isinstance(cycle, list)
    assert cycle[0] is cycle

    doubled = read(b"\x80\x02]q\x00" + b"(h\x00h\x00tq\x00" * 60 + b".")
    for _ in range(60):
        assert isinstance(doubled, tuple)
        assert doubled[0] is doubled[1]
        doubled = doubled[0]
    assert doubled == []


def test_a_list_of_pairs_cannot_be_copied_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making many dicts from the same pairs raises an error."""
    monkeypatch.setattr("prunecli.formats.pickle.machine.MAX_OPCODES", 1000)
    pairs = b"](" + b"K\x01K\x02\x86" * 100 + b"e\x85q\x00"
    copies = b"ccollections\nOrderedDict\nq\x01" + b"h\x01h\x00R0" * 12

    with pytest.raises(CheckpointError, match="copied too often"):
        read(b"\x80\x02" + pairs + copies + b"N.")


def test_too_many_opcodes_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle with more opcodes than the limit raises an error."""
    monkeypatch.setattr("prunecli.formats.pickle.machine.MAX_OPCODES", 100)

    with pytest.raises(CheckpointError, match="more than 100 opcodes"):
        read(b"\x80\x02" + b"N" * 200 + b".")


def test_only_globals_compare_by_value() -> None:
    """Globals compare by name; calls and persistent ids by identity."""
    assert Global("torch", "float32") == Global("torch", "float32")
    assert Call(None, ()) != Call(None, ())
    assert Persistent(1) != Persistent(1)
