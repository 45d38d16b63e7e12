"""Torch pickles that a loader reads in an odd way: the loader's tensors are listed, or the file is refused."""

from __future__ import annotations

import io

import pytest
import torch
from support.handmade import W, archive, checkpoint, legacy, rebuilt, text
from support.scripts import load_script
from support.torch_files import listing

from prunecli.errors import CheckpointError
from prunecli.formats.pickle.global_names import may_load_weights_only
from prunecli.formats.torch.loader_rules import SETTABLE

TENSOR = rebuilt()
OTHER = rebuilt(key="1")
ORDERED = b"ccollections\nOrderedDict\n"
UTILS = b"ctorch._utils\n"
STORAGE = TENSOR[TENSOR.index(b"(X\x07\0\0\0storage") : TENSOR.index(b"Q") + 1]
COPIED = b"}(" + text("a") + TENSOR + b"uq\1"


def pickled(value: bytes, **records: bytes) -> bytes:
    """Return a torch zip with a pickle of {"w": value} and two storages."""
    return checkpoint(b"\x80\x02}" + text("w") + value + b"s.", version=b"3\n", **{"data/1": W[::-1], **records})


def loaded(data: bytes) -> dict[str, object]:
    """Return what torch loads."""
    value = torch.load(io.BytesIO(data), weights_only=True)
    assert isinstance(value, dict)
    return value


REFUSED = {
    "a storage set by BUILD": (TENSOR + b"(" + STORAGE + b"K\0K\1\x85K\1\x85tb", "changed after it is made"),
    "data in a state": (
        UTILS + b"_rebuild_parameter_with_state\n(" + TENSOR + b"\x89}}" + text("data") + OTHER + b"stR",
        "changes what it contains",
    ),
    "a tensor as attribute": (
        UTILS + b"_rebuild_parameter_with_state\n(" + TENSOR + b"\x89}}" + text("x") + OTHER + b"stR",
        "where it cannot be listed",
    ),
    "a tensor as hook": (UTILS + b"_rebuild_parameter\n(" + TENSOR + b"\x89}" + text("x") + OTHER + b"stR", "a hook"),
    "a tensor as attribute of a dict": (ORDERED + b")R}" + text("x") + TENSOR + b"sb", "an attribute of a dict"),
    "a method of a dict": (ORDERED + b")R}" + text("items") + b"Nsb", "changes what it contains"),
    "a list of arguments": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n("
        + UTILS
        + b"_rebuild_parameter\nctorch\nTensor\n]("
        + TENSOR
        + b"\x89}e}tR",
        "other arguments than torch writes",
    ),
    "a tensor without a storage": (b"ctorch\nFloatTensor\n(](K\1K\2etR", "makes a tensor without a stored one"),
    "a tensor as key": (b"}" + TENSOR + b"K\1s", "neither text nor a number"),
    "NaN as key": (b"}G\x7f\xf8\0\0\0\0\0\0" + TENSOR + b"s", "neither text nor a number"),
    "counted tensors": (b"ccollections\nCounter\n](" + TENSOR + b"e\x85R", "other values than counts"),
    "a bool as size": (TENSOR.replace(b"K\2K\2t", b"\x88K\2t", 1), "not a number"),
    "a bool as offset": (TENSOR.replace(b"QK\0", b"Q\x89", 1), "no usable arguments"),
    "a number of 3,000 digits": (TENSOR.replace(b"QK\0", b"Q\x8b\0\x05\0\0" + b"\x7f" * 1280, 1), "bits do not fit"),
    "an empty storage key": (rebuilt(key=""), "impossible type or size"),
    "a storage key beyond ASCII": (rebuilt(key="\u00e9"), "impossible type or size"),
    "a meta device": (rebuilt(location="meta"), "the meta device"),
    "a quantized storage": (rebuilt(storage="QInt8Storage", numel=16), "storage is that of a quantized tensor"),
    "2^126 elements": (rebuilt(size=(1 << 62, 1 << 62), strides=(0, 0)), "too many elements"),
    "a first claim that nothing refers to": (
        ORDERED + STORAGE.replace(b"Float", b"Int") + b"\x85\x81(" + text("a") + TENSOR + b"u",
        "two dtypes: I32 and F32",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_odd_pickles_are_refused(name: str) -> None:
    """A construct that no writer of checkpoints needs is refused with a sentence about it."""
    opcodes, message = REFUSED[name]

    with pytest.raises(CheckpointError, match=message):
        listing(pickled(opcodes))


LISTED = {
    "equal keys": (b"}(K\1" + TENSOR + b"\x88" + OTHER + b"G\x3f\xf0\0\0\0\0\0\0" + OTHER + b"u", ["w.1"]),
    "keys made by encode": (
        b"}c_codecs\nencode\n(" + text("k") + text("latin1") + b"tR" + TENSOR + b"s",
        ["w.k"],
    ),
    "a copied dict": (b"](" + COPIED + ORDERED + b"h\1\x85R(" + text("b") + OTHER + b"ue", ["w.0.a", "w.1.a", "w.1.b"]),
    "a copied Counter": (
        b"](" + COPIED + b"ccollections\nCounter\nh\1\x85R(" + text("b") + OTHER + b"ue",
        ["w.0.a", "w.1.a", "w.1.b"],
    ),
    "__new__ ignores its arguments": (ORDERED + COPIED + b"\x85\x81(" + text("b") + OTHER + b"u", ["w.b"]),
    "a module of Python 2": (
        b"cUserDict\nOrderedDict\n" + COPIED + b"\x85R(" + text("b") + OTHER + b"u",
        ["w.a", "w.b"],
    ),
    "a global split elsewhere": (TENSOR.replace(b"torch._utils\n_re", b"torch\n_utils._re"), ["w"]),
    "a Parameter of torch 0.4": (b"ctorch.nn.parameter\nParameter\n" + TENSOR + b"\x89\x86R(\x89\x89}tb", ["w"]),
}


@pytest.mark.parametrize("name", LISTED)
def test_odd_containers_hold_what_the_loader_sees(name: str) -> None:
    """The names, and the tensors at their places, are those that torch loads."""
    opcodes, names = LISTED[name]
    data = pickled(opcodes)

    assert names == [tensor.name for tensor in listing(data).tensors]
    assert load_script("pickle_judge").judged(data).findings == []
    assert load_script("pickle_judge").judged(data).torch


def test_a_converted_tensor_is_not_pruned() -> None:
    """A tensor that torch converts to another dtype is not listed as a tensor: its stored numbers are others."""
    call = UTILS + b"_rebuild_device_tensor_from_cpu_tensor\n(" + TENSOR + b"ctorch\n%b\n" + text("cpu") + b"\x89tR"

    same, other = (listing(pickled(call % name)) for name in (b"float32", b"float16"))

    assert [tensor.name for tensor in same.tensors] == ["w"]
    assert other.unprunable_entries == (("w", "tensor that torch converts when it is loaded"),)


def test_a_storage_of_a_sparse_tensor_is_not_pruned() -> None:
    """A tensor that shares its storage with the parts of a sparse tensor is left alone."""
    sparse = UTILS + b"_rebuild_sparse_tensor\n(" + text("layout") + b"(" + OTHER + OTHER + b"K\2K\2\x86ttR"
    data = pickled(b"](" + TENSOR + OTHER + sparse + b"e")

    reasons = {tensor.name: tensor.unprunable_reason for tensor in listing(data).tensors}

    assert reasons == {"w.0": None, "w.1": "its storage is also that of another kind of tensor"}


@pytest.mark.parametrize("record", ["DATA/0", "ByteOrder", "Data.pkl"])
def test_records_that_differ_in_case_are_refused(record: str) -> None:
    """A record that torch may take for another, because it ignores case, is refused."""
    with pytest.raises(CheckpointError, match="can be taken for"):
        listing(pickled(TENSOR, **{record: b"big"}))


def test_records_of_code_may_differ_in_case() -> None:
    """Two classes of a TorchScript archive may have names that differ only in case."""
    code = {f"m/code/__torch__/{name}.py": b"" for name in ("Net", "net")}
    data = archive({"m/data.pkl": b"\x80\x02}" + text("w") + TENSOR + b"s.", "m/data/0": W, **code})

    assert [tensor.name for tensor in listing(data).tensors] == ["w"]


def test_views_with_one_key_are_refused() -> None:
    """Two views of a legacy file with the key of another storage are refused: torch takes the first one for both."""
    data = legacy(W).replace(b"K\x04NtQ", b"K\x04(" + text("0") + b"K\1K\3ttQ", 1)

    with pytest.raises(CheckpointError, match="two views of storages have the key '0'"):
        listing(data)


def test_strides_without_effect_may_be_huge() -> None:
    """Huge strides of a tensor without elements, or of a dimension of size 1, are replaced."""
    empty, single = rebuilt(size=(0, 2), strides=(1 << 62, 1 << 61)), rebuilt(size=(1, 4), strides=(1 << 62, 1))

    tensors = listing(pickled(b"](" + empty + single + b"e")).tensors

    assert [tensor.strides for tensor in tensors] == [(2, 1), (4, 1)]


def test_rules_cover_all_globals_that_torch_allows() -> None:
    """Every global that torch.load allows by default is checked, so that new ones are not forgotten."""
    from torch._weights_only_unpickler import _get_allowed_globals

    paths = [path.rpartition(".") for path in _get_allowed_globals()]

    assert [path for path in paths if not may_load_weights_only(path[0], path[2])] == []


def test_a_function_that_torch_no_longer_allows_is_only_named() -> None:
    """A tensor that an old function rebuilds is named as such: `weights_only` loads no file with it."""
    sparse = UTILS + b"_rebuild_sparse_csr_tensor\n(" + text("layout") + b"(" + OTHER + b"K\2\x85ttR"

    found = listing(pickled(b"](" + TENSOR + sparse + b"e"))

    assert ([tensor.name for tensor in found.tensors], found.unprunable_entries) == (
        ["w.0"],
        (("w.1", "sparse tensor"),),
    )


def test_every_settable_attribute_of_a_tensor_is_refused_in_states() -> None:
    """Each attribute whose setter changes a tensor is in the list, so that new ones are not forgotten."""
    tensor = torch.nn.Parameter(torch.zeros(2))
    settable = set()
    for name in dir(torch.nn.Parameter):
        if type(getattr(torch.nn.Parameter, name, None)).__name__ in {"getset_descriptor", "property"}:
            try:
                setattr(tensor, name, object())
            except AttributeError:
                continue
            except Exception:  # noqa: BLE001, S110 - a setter that wants another value
                pass
            settable.add(name)

    assert settable <= SETTABLE | {"_cdata"}


def test_generated_pickles_agree_with_the_loader() -> None:
    """The tensors of generated files are those that torch's own loader sees, or the files are refused."""
    grammar, judge = load_script("pickle_grammar"), load_script("pickle_judge")
    verdicts = [judge.judged(grammar.made(seed).data) for seed in range(400)]

    assert [finding for verdict in verdicts for finding in verdict.findings] == []
    assert sum(verdict.torch for verdict in verdicts) > 80


def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rules, the same files show disagreements of several kinds."""
    grammar, judge = load_script("pickle_grammar"), load_script("pickle_judge")
    monkeypatch.setattr("prunecli.formats.torch.reader.check_rules", lambda *_: None)

    kinds = {finding for seed in range(400) for finding in judge.judged(grammar.made(seed).data).findings}

    assert "a tensor is listed that torch does not see" in kinds
    assert len(kinds) > 2
