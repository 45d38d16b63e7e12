"""torch checkpoints: every tensor is found where torch finds it, and damaged files are refused."""

from __future__ import annotations

import argparse
import io
import pickle
import struct
import time
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from prunecli.errors import CheckpointError
from prunecli.formats.detect import ForeignKind, detect_format, not_a_checkpoint
from prunecli.formats.format import HEAD
from prunecli.formats.zip.directory import read_records

if TYPE_CHECKING:
    from collections.abc import Callable

    from prunecli.checkpoint import TensorInfo
    from prunecli.formats.listing import Listing

SHARED = Path(__file__).parents[4] / "shared" / "checkpoints"
REAL = (
    "burn-mnist.pt",
    "facenet-rnet.pt",
    "resnet20-12fca82f.th",
    "distiller-4D-5Lremoved.pth.tar",
    "taef2_decoder.pth",
    "allennlp-elmo-tagger.th",
    "AaronNet32plus.pth",
    "TinyPeLLM-pytorch_model.bin",
)
OUTSIDE = "outside the state_dict"


def saved(value: object, protocol: int = 2, *, legacy: bool = False) -> bytes:
    """Return what torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def listing(data: bytes, key: str | None = None) -> Listing:
    """List the checkpoint `data`."""
    detected = detect_format(data[:HEAD])
    if isinstance(detected, ForeignKind):
        raise not_a_checkpoint(detected, Path("x.pth"), "x.pth")
    return detected.read(io.BytesIO(data), "x.pth", key)


def names(data: bytes, key: str | None = None) -> list[str]:
    """Return the names of the tensors in the state_dict."""
    return [tensor.name for tensor in listing(data, key).tensors if tensor.unprunable_reason != OUTSIDE]


def elements(data: bytes, tensor: TensorInfo) -> bytes:
    """Return the little-endian bytes, in row-major order, that the listing says the tensor has."""
    dtype = np.dtype(f"V{tensor.itemsize}")
    flat = np.frombuffer(data[tensor.span.start : tensor.span.end], dtype)
    view = np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, [tensor.itemsize * s for s in tensor.strides]
    )
    order = f"u{tensor.itemsize}"
    packed = view.tobytes()
    return np.frombuffer(packed, ">" + order).astype("<" + order).tobytes() if tensor.big_endian else packed


def raw(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a tensor in row-major order."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def flat(value: object, path: str = "") -> dict[str, torch.Tensor]:
    """Return every tensor of nested dicts and lists under its dotted path."""
    if isinstance(value, torch.Tensor):
        return {path[1:]: value}
    if not isinstance(value, (dict, list, tuple)):
        return {}
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return {name: t for k, v in pairs for name, t in flat(v, f"{path}.{k}").items()}


def assert_same(data: bytes, expected: dict[str, torch.Tensor], key: str | None = None) -> None:
    """Check names, order, shapes, strides and every bit against torch's tensors."""
    found = {t.name: t for t in listing(data, key).tensors if t.unprunable_reason != OUTSIDE}
    assert list(expected) == list(found)
    for name, tensor in expected.items():
        assert (tuple(tensor.shape), tensor.stride()) == (found[name].shape, found[name].strides)
        assert raw(tensor) == elements(data, found[name])


def assert_checksums(data: bytes) -> None:
    """Check that every checksum is its span's, and stands at each of its places."""
    for checksum in listing(data).checksums:
        assert checksum.value == zlib.crc32(data[checksum.span.start : checksum.span.end])
        assert len(checksum.places) == 2
        assert {checksum.value} == {struct.unpack_from("<L", data, place)[0] for place in checksum.places}


@pytest.mark.parametrize("name", REAL)
def test_real_checkpoints_read_as_torch_loads_them(name: str) -> None:
    """Real files have the names, order, strides and bits that torch.load gives, and checksums that hold."""
    if not (SHARED / name).exists():
        pytest.skip("the real checkpoints are not beside this checkout")
    data = (SHARED / name).read_bytes()
    loaded = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")

    assert_same(data, flat(loaded.get("state_dict", loaded)))
    assert_checksums(data)


def model() -> dict[str | int, object]:
    """Return one tensor of each layout and dtype worth trying."""
    w = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    big = torch.arange(40.0)
    return {
        "plain": w,
        "tied": w,
        "transposed": w.t(),
        "sliced": w[2:, 1:],
        "parameter": torch.nn.Parameter(w.clone()),
        "subclass": torch.nn.Buffer(w.clone()),
        "channels_last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "part": big[10:30].view(4, 5),
        "rest": big[30:],
        "empty": torch.zeros(0, 3),
        "empty slice": torch.zeros(3, 4)[3:, 2:],
        "scalar": torch.tensor(3.0),
        "nested": [w.clone(), {"a": w.clone()}, (w.clone(),)],
        7: torch.ones(2),
        **{
            str(dtype): (w * 3).to(dtype)
            for dtype in (
                torch.float64,
                torch.float16,
                torch.bfloat16,
                torch.float8_e4m3fn,
                torch.float8_e5m2,
                torch.float8_e4m3fnuz,
                torch.float8_e5m2fnuz,
                torch.int64,
                torch.int32,
                torch.int16,
                torch.int8,
                torch.uint8,
                torch.uint16,
                torch.bool,
                torch.complex64,
            )
        },
    }


@pytest.mark.parametrize(
    "options",
    [{}, {"protocol": 4}, {"protocol": 5}, {"legacy": True}],
    ids=["zip", "protocol 4", "protocol 5", "legacy"],
)
def test_every_layout_and_dtype_reads_as_torch_loads_it(options: dict[str, Any]) -> None:
    """Views, ties, wrappers, nesting and all dtypes are found bit for bit, in both formats."""
    value = model()

    data = saved(value, **options)

    assert_same(data, flat(value))
    assert_checksums(data)


def test_tied_tensors_share_their_span() -> None:
    """Two names of one storage have one span, and one checksum."""
    found = listing(saved(model()))
    spans = {tensor.name: tensor.span for tensor in found.tensors}

    assert spans["plain"] == spans["tied"] == spans["transposed"] == spans["sliced"]
    assert spans["plain"] != spans["parameter"]
    assert len({checksum.span for checksum in found.checksums}) == len(found.checksums)


REASONS = {
    "expanded view": lambda: torch.ones(1, 3).expand(5, 3),
    "view that overlaps itself": lambda: torch.arange(5.0).unfold(0, 3, 1),
    "conjugate view": lambda: torch.ones(2, dtype=torch.complex64).conj(),
    "negative view": lambda: torch.ones(2, dtype=torch.complex64).conj().imag,
}


@pytest.mark.parametrize("reason", REASONS)
def test_odd_views_are_fixed_with_a_reason(reason: str) -> None:
    """A tensor whose elements are no plain places in the file is to be left as it is."""
    (tensor,) = listing(saved({"w": REASONS[reason]()})).tensors

    assert reason == tensor.unprunable_reason


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("legacy", [False, True])
def test_what_is_no_ordinary_tensor_is_named(legacy: bool) -> None:  # noqa: FBT001
    """Sparse, quantized, nested, meta tensors, storages and arrays are listed as such, and nothing inside them."""
    value = {
        "sp": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "q": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "nest": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "meta": torch.empty(3, device="meta"),
        "stor": torch.ones(3).untyped_storage(),
        "np": np.ones(3),
        "parameter": torch.nn.Parameter(torch.eye(3).to_sparse()),
    }

    found = listing(saved(value, legacy=legacy))

    assert found.tensors == ()
    kinds = ("sparse tensor", "sparse tensor", "quantized tensor", "nested tensor", "meta tensor")
    expected = (*kinds, "bare storage", "NumPy array", "sparse tensor")
    assert tuple(zip(value, expected, strict=True)) == found.unprunable_entries


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "module", "params"])
def test_the_state_dict_is_found_at_the_usual_places(key: str) -> None:
    """Inside, names start at the state_dict; outside, they are in full and fixed."""
    value = {"epoch": 3, "optimizer": {"state": {0: {"m": torch.ones(2)}}}, key: {"a": {"w": torch.ones(3)}}}

    found = listing(saved(value))

    assert key == found.key
    assert [(t.name, t.unprunable_reason) for t in found.tensors] == [("a.w", None), ("optimizer.state.0.m", OUTSIDE)]


def test_a_wrapper_key_without_tensors_is_not_the_state_dict() -> None:
    """A dict called `model` that holds no tensor is passed over for one that does."""
    assert listing(saved({"model": {"name": "x"}, "net": {"w": torch.ones(1)}})).key == "net"
    assert listing(saved({"model": {"name": "x"}, "w": torch.ones(1)})).key == ""


def test_a_flat_file_keeps_what_is_no_weight_apart() -> None:
    """With the top as the state_dict, optimizers, schedulers and EMA copies are outside."""
    apart = ("optimizer", "lr_scheduler", "model_ema", "rng_state", "scaler")
    value = {"generator": {"w": torch.ones(1)}, **{name: {"w": torch.ones(1)} for name in apart}}

    found = {tensor.name: tensor.unprunable_reason for tensor in listing(saved(value)).tensors}

    assert {"generator.w": None, **{f"{name}.w": OUTSIDE for name in apart}} == found


def test_key_chooses_the_state_dict() -> None:
    """--key takes a dotted path, through keys with dots in them and list indexes."""
    data = saved({"state_dict": {"w": torch.ones(1)}, "a.b": [{"c": {"v": torch.ones(2)}}]})

    found = listing(data, "a.b.0.c")

    assert found.key == "a.b.0.c"
    assert [(t.name, t.unprunable_reason) for t in found.tensors] == [("v", None), ("state_dict.w", OUTSIDE)]


@pytest.mark.parametrize("key", ["state_dcit", "state_dict.w", "epoch", "nothing.at.all"])
def test_a_missing_key_names_the_nearest(key: str) -> None:
    """A key that leads to no tensors is an error that says which key to type."""
    with pytest.raises(CheckpointError, match="has no tensors at the key") as caught:
        listing(saved({"epoch": 1, "state_dict": {"w": torch.ones(1)}}), key)

    assert caught.value.hint == "key='state_dict'"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: {"model": m, "epoch": 1}], ids=["bare", "nested"])
def test_a_pickled_module_has_its_state_dicts_names(wrap: Callable[[object], object], legacy: bool) -> None:  # noqa: FBT001
    """A whole module lists what module.state_dict() lists, in that order, and nothing twice."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.LSTM(4, 2))
    module.tied = module[0]

    found = listing(saved(wrap(module), legacy=legacy))

    assert list(module.state_dict()) == [tensor.name for tensor in found.tensors]


def test_unknown_objects_are_passed_through() -> None:
    """Objects of any class do not hinder; tensors in them are outside."""
    value = {"state_dict": {"w": torch.ones(1)}, "args": argparse.Namespace(lr=np.float64(0.1), t=torch.ones(2))}

    found = listing(saved(value))

    assert [(t.name, t.unprunable_reason) for t in found.tensors] == [("w", None), ("args.t", OUTSIDE)]


def test_two_places_with_one_name_are_told_apart() -> None:
    """A name that two paths give is numbered, and that is said."""
    found = listing(saved({"a": {"b": torch.ones(1)}, "a.b": torch.zeros(2), "a.b#2": torch.zeros(3)}))

    assert [(t.name, t.numel) for t in found.tensors] == [("a.b", 1), ("a.b#2", 2), ("a.b#2#2", 3)]
    assert "listed as 'a.b#2'" in found.notes[0]


def test_lone_surrogates_in_names_are_escaped() -> None:
    """Every name can be written as UTF-8."""
    assert names(saved({"a\ud800": torch.ones(1), "é": torch.ones(1)})) == ["a\\ud800", "é"]


def rezip(
    data: bytes, edit: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]], method: int = zipfile.ZIP_STORED
) -> bytes:
    """Write the records of a zip again with Python's zipfile, after `edit`."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in edit(records):
            archive.writestr(name, content)
    return buffer.getvalue()


def renamed(change: Callable[[str, bytes], tuple[str, bytes] | None]) -> Callable[[Any], Any]:
    """Return an edit that changes or drops single records."""
    return lambda records: [changed for record in records if (changed := change(*record))]


@pytest.mark.parametrize("edit", [list, lambda records: records[::-1]], ids=["same order", "reversed"])
def test_rezipped_files_read_right(edit: Callable[[Any], Any]) -> None:
    """A file zipped again, in any order, has the same tensors; its CRC stands in header and directory."""
    value = {"a": torch.randn(3, 4), "b": torch.randn(100), "c": torch.zeros(0)}

    data = rezip(saved(value), edit)

    assert_same(data, value)
    assert_checksums(data)


@pytest.mark.parametrize("signature", [b"PK\7\b", b""])
@pytest.mark.parametrize("sizes", ["LL", "QQ"])
def test_every_form_of_data_descriptor_is_found(signature: bytes, sizes: str) -> None:
    """The CRC behind the data is found with and without signature, with sizes of either width."""
    content = b"weights!"
    crc = zlib.crc32(content)
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 8, 0, 0, 0, 0, 0, 0, 3, 0) + b"r/d"
    behind = signature + struct.pack(f"<L{sizes}", crc, 8, 8)
    central = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 8, 0, 0, 0, crc, 8, 8, 3, 0, 0, 0, 0, 0, 0) + b"r/d"
    start = len(local + content + behind)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(central), start, 0)

    record = read_records(io.BytesIO(local + content + behind + central + end), "x.zip")["r/d"]

    assert (start + 16, len(local + content + signature)) == record.places


def test_a_big_endian_file_says_so() -> None:
    """The byteorder record decides how elements are read."""
    value = {"a": torch.randn(3, 4)}

    def swap(name: str, content: bytes) -> tuple[str, bytes]:
        if name.endswith("/byteorder"):
            return name, b"big"
        return name, np.frombuffer(content, ">u4").astype("<u4").tobytes() if "/data/" in name else content

    data = rezip(saved(value), renamed(swap))

    assert listing(data).tensors[0].big_endian
    assert listing(data).notes == ("the numbers are stored big-endian",)
    assert_same(data, value)


def content_of(name: str, content: bytes) -> Callable[[Any], Any]:
    """Return an edit that gives one record another content."""
    return renamed(lambda n, old: (n, content if n.endswith(name) else old))


EDITS = {
    "byteorder x": (content_of("/byteorder", b"x"), "unknown byte order"),
    "record too short": (content_of("/data/0", b"abcd"), "4 bytes instead of 48"),
    "record too long": (content_of("/data/0", b"a" * 52), "52 bytes instead of 48"),
    "record missing": (
        renamed(lambda n, c: None if n.endswith("/data/0") else (n, c)),
        "no record for the storage '0'",
    ),
    "data.pkl missing": (renamed(lambda n, c: None if n.endswith(".pkl") else (n, c)), "no data.pkl in 'archive'"),
    "two roots": (lambda records: [*records, ("other/x", b"")], "not all in one folder"),
    "no root": (renamed(lambda n, c: (n.partition("/")[2], c)), "not all in one folder"),
    "bytes behind STOP": (renamed(lambda n, c: (n, c + b"N" if n.endswith(".pkl") else c)), "1 bytes after its pickle"),
}


@pytest.mark.parametrize("name", EDITS)
def test_zips_that_do_not_fit_are_refused(name: str) -> None:
    """A zip with wrong, missing or foreign records is refused in a sentence that says what is wrong."""
    edit, message = EDITS[name]
    data = rezip(saved({"w": torch.ones(3, 4)}), edit)

    with pytest.raises(CheckpointError, match=message):
        listing(data)


def test_compressed_files_are_refused() -> None:
    """A deflated file is refused, naming the record, and the hint saves it again; a bomb is never inflated."""
    data = rezip(saved({"w": torch.zeros(5_000_000)}), list, zipfile.ZIP_DEFLATED)

    with pytest.raises(CheckpointError, match="is compressed") as caught:
        listing(data)

    assert caught.value.hint is not None
    assert caught.value.hint.startswith("python -c ")


def patched(data: bytes, find: bytes, put: bytes, at: int = 0, *, last: bool = False) -> bytes:
    """Return `data` with `put` written `at` bytes behind where `find` is."""
    place = (data.rindex(find) if last else data.index(find)) + at
    return data[:place] + put + data[place + len(put) :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut at the tail": lambda d: d[:-5],
    "cut in the middle": lambda d: d[: len(d) // 2],
    "junk before": lambda d: b"junk" + d,
    "junk behind": lambda d: d + b"junk",
    "count lie": lambda d: patched(d, b"PK\5\6", b"\x63\x00", 10, last=True),
    "encrypted": lambda d: patched(d, b"PK\1\2", b"\x09", 8),
    "encrypted locally": lambda d: patched(d, b"PK\3\4", b"\x09", 6),
    "other local name": lambda d: patched(d, b"archive/data/0", b"archive/data/1"),
    "other name in the directory": lambda d: patched(d, b"archive/data/0", b"archive/data/1", last=True),
    "directory points at 0": lambda d: patched(d, b"archive/data/0", b"\0\0\0\0", -4, last=True),
    "other crc in the directory": lambda d: patched(d, b"archive/data/0", b"abcd", -30, last=True),
    "other crc behind the data": lambda d: patched(d, b"PK\7\b", b"abcd", 4),
    "other method": lambda d: patched(d, b"PK\3\4", b"\x08", 8),
    "huge size in the directory": lambda d: patched(d, b"archive/data/0", b"\xff\xff\xff\x7f" * 2, -26, last=True),
    "data.pkl flipped": lambda d: patched(d, b"_rebuild_tensor_v2", b"_rebuild_tensor_v3"),
    "directory of nothing": lambda d: patched(d, b"PK\5\6", b"\0\0\0\0\0\0\0\0", 12, last=True),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_zips_are_refused(name: str) -> None:
    """A truncated, padded, lying or corrupt zip gives one sentence that names the file."""
    data = DAMAGE[name](saved({"w": torch.ones(3, 4)}))

    with pytest.raises(CheckpointError, match=r"^x\.pth (is|has) [^\n]+$"):
        listing(data)


def test_duplicate_records_are_refused() -> None:
    """Two records of one name are refused: readers differ on which one counts."""
    data = saved({"a": torch.ones(3), "b": torch.zeros(3)}).replace(b"archive/data/1", b"archive/data/0")

    with pytest.raises(CheckpointError, match="two records named"):
        listing(data)


def test_every_truncation_is_refused() -> None:
    """No prefix of a file, in either format, reads as a checkpoint or raises anything but CheckpointError."""
    for legacy in (False, True):
        data = saved({"w": torch.ones(2)}, legacy=legacy)
        for length in range(0, len(data), 7):
            with pytest.raises(CheckpointError):
                listing(data[:length])


def test_no_flipped_byte_raises_anything_else() -> None:
    """A byte changed anywhere gives a listing or a CheckpointError, in either format."""
    for legacy in (False, True):
        data = bytearray(saved({"w": torch.ones(2)}, legacy=legacy))
        for place in range(len(data)):
            data[place] ^= 0x41
            try:
                listing(bytes(data))
            except CheckpointError as error:
                assert "\n" not in str(error)  # noqa: PT017
            data[place] ^= 0x41


def with_pickle(data: bytes, size: int = 48) -> bytes:
    """Return a zip whose data.pkl is `data` and whose one storage has `size` bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("r/data.pkl", data)
        archive.writestr("r/data/0", bytes(size))
    return buffer.getvalue()


def number(value: int) -> bytes:
    """Return the opcode for a number."""
    return pickle.dumps(value, 2)[2:-1]


def tensor_pickle(
    offset: int = 0,
    size: tuple[int, ...] = (3, 4),
    strides: tuple[int, ...] = (4, 1),
    numel: int = 12,
    storage: bytes = b"FloatStorage",
    key: bytes = b"0",
) -> bytes:
    """Return the opcodes that rebuild one tensor."""
    dims = [b"(" + b"".join(map(number, values)) + b"t" for values in (size, strides)]
    pid = b"(U\x07storagectorch\n" + storage + b"\nU" + bytes([len(key)]) + key + b"U\x03cpu" + number(numel) + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + number(offset) + dims[0] + dims[1] + b"\x89}tR"


def in_dict(*tensors: bytes) -> bytes:
    """Return a pickle of a dict of tensors named 0, 1, ..."""
    return b"\x80\x02}(" + b"".join(number(i) + t for i, t in enumerate(tensors)) + b"u."


def test_the_hand_made_tensor_is_sound() -> None:
    """What the tests below spoil reads well before."""
    assert listing(with_pickle(in_dict(tensor_pickle()))).tensors[0].shape == (3, 4)


WRONG: dict[str, dict[str, Any]] = {
    "offset outside": {"offset": 1},
    "negative offset": {"offset": -1},
    "stride outside": {"strides": (5, 1)},
    "negative stride": {"strides": (-4, 1)},
    "negative size": {"size": (-3, 4)},
    "size outside": {"size": (4, 4)},
    "size of 2**62": {"size": (1 << 62, 4)},
    "size of 2**2000": {"size": (1 << 2000, 4)},
    "fewer strides": {"strides": (4,)},
    "70 dimensions": {"size": (1,) * 70, "strides": (1,) * 70},
    "numel 2**60": {"numel": 1 << 60},
    "numel 2**70": {"numel": 1 << 70},
    "negative numel": {"numel": -1},
    "numel too small": {"numel": 4, "size": (4,), "strides": (1,)},
    "other storage type": {"storage": b"DoubleStorage"},
    "unknown storage type": {"storage": b"FooStorage"},
    "missing storage": {"key": b"1"},
    "key that climbs": {"key": b"../../etc/passwd"},
}


@pytest.mark.parametrize("name", WRONG)
def test_tensors_outside_their_storage_are_refused(name: str) -> None:
    """A tensor or storage that claims what is not there is refused, and allocates nothing."""
    with pytest.raises(CheckpointError, match=r"^[^\n]+$"):
        listing(with_pickle(in_dict(tensor_pickle(**WRONG[name]))))


def test_a_storage_read_as_two_dtypes_is_fixed() -> None:
    """When one storage is read with two dtypes, every tensor on it says why it is left alone."""
    both = in_dict(tensor_pickle(), tensor_pickle(storage=b"IntStorage"))

    reasons = {tensor.unprunable_reason for tensor in listing(with_pickle(both)).tensors}

    assert reasons == {"its storage is read as F32 and as I32"}


def test_a_trillion_expanded_elements_cost_nothing() -> None:
    """An expanded view of 10**12 elements is listed as fixed."""
    (tensor,) = listing(with_pickle(in_dict(tensor_pickle(size=(10**12,), strides=(0,))))).tensors

    assert (tensor.unprunable_reason, tensor.numel) == ("expanded view", 10**12)


def test_payloads_beside_the_tensors_are_inert(tmp_path: Path) -> None:
    """A command in the pickle does not hinder the listing and does not run."""
    canary = tmp_path / "canary"
    command = f"touch {canary}".encode()
    payload = b"cposix\nsystem\nX" + struct.pack("<I", len(command)) + command + b"\x85R"

    assert names(with_pickle(in_dict(tensor_pickle(), payload))) == ["0"]
    assert not canary.exists()


def test_wrong_rebuild_arguments_are_refused() -> None:
    """A rebuild call without a storage is an error, not a crash."""
    for arguments in (b")", b"(K\x01K\x02K\x03K\x04t", b"(NNNNNNt"):
        with pytest.raises(CheckpointError, match="no usable arguments"):
            listing(with_pickle(in_dict(b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R")))


HOSTILE_SHAPES = {
    "in itself": b"\x80\x02}q\x00(K\x00h\x00K\x01%bu.",
    "shared without tensors": b"\x80\x02}(K\x00]q\x00" + b"(h\x00h\x00tq\x00" * 60 + b"K\x01%bu.",
    "100 000 deep": b"\x80\x02" + b"]" * 100_000 + b"%b" + b"a" * 100_000 + b".",
    "shared with a tensor": b"\x80\x02%bq\x00" + b"(h\x00h\x00tq\x00" * 60 + b".",
    "long names": b"\x80\x02}(X\x00\x00\x10\x00" + b"a" * 0x100000 + b"%bu.",
    "wrapped without end": b"\x80\x02%b"
    + b"\x85q\x000ctorch._utils\n_rebuild_parameter\nh\x00R" * 1000
    + b"q\x01}(K\x00h\x01u.",
}


@pytest.mark.parametrize("name", HOSTILE_SHAPES)
def test_hostile_shapes_take_bounded_time(name: str) -> None:
    """Cycles, doubling, depth and long names end soon, in a listing or an error."""
    data = with_pickle(HOSTILE_SHAPES[name].replace(b"%b", tensor_pickle()))
    started = time.perf_counter()

    try:
        listing(data)
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017

    assert time.perf_counter() - started < 3


MANY = {
    "objects": (b"cposix\nsystem\nq\0](" + b"h\0)R" * 2000 + b"e.", "more than 1,000 objects"),
    "dicts": (b"](" + b"}" * 2000 + b"e.", "more than 1,000 objects"),
    "lists": (b"](" + b"]" * 2000 + b"e.", "more than 1,000 objects"),
    "made dicts": (b"ccollections\nOrderedDict\nq\0](" + b"h\0)R" * 2000 + b"e.", "more than 1,000 objects"),
    "persistent ids": (b"](" + b"NQ" * 2000 + b"e.", "more than 1,000 objects"),
    "kept values": (
        b"N" + b"".join(b"r%b" % struct.pack("<L", i) for i in range(2000)) + b".",
        "more than 900 memo entries",
    ),
}


@pytest.mark.parametrize("name", MANY)
def test_what_takes_memory_is_bounded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle of more objects, or more values to come back to, than any checkpoint has is stopped."""
    monkeypatch.setattr("prunecli.formats.pickle.machine.MAX_OBJECTS", 1000)
    monkeypatch.setattr("prunecli.formats.pickle.machine.MAX_MEMO", 900)
    body, message = MANY[name]

    with pytest.raises(CheckpointError, match=message):
        listing(with_pickle(b"\x80\x02" + body))


def test_a_megabyte_costs_little() -> None:
    """The dearest objects, a megabyte of them, are read in seconds."""
    body = b"\x80\x02cposix\nsystem\nq\0](" + b"h\0)R" * 250_000 + b"e."
    started = time.perf_counter()

    assert listing(with_pickle(body)).tensors == ()

    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("legacy", [False, True])
def test_bytes_beside_the_tensors_are_skipped(legacy: bool) -> None:  # noqa: FBT001
    """Long and short bytes, also as keys, are passed over, and what follows them is found."""
    w = torch.ones(3, 3)
    value = {"log": b"x" * 70_000, "a": b"short", b"key": {"w": w}, "after": w + 1}

    found = listing(saved(value, 4, legacy=legacy))

    assert [t.name for t in found.tensors] == ["key.w", "after"]


def test_a_class_is_no_storage() -> None:
    """An old file's persistent id for a class cannot stand in for a storage."""
    preface: tuple[object, ...] = (0x1950A86A20F9469CFC6C, 1001, {})
    head = b"".join(pickle.dumps(part, 2) for part in preface)
    tensor = b"ctorch._utils\n_rebuild_tensor\n((U\x06moduleNNNtQK\x00))tR"

    with pytest.raises(CheckpointError, match="the tensor '0' is damaged"):
        listing(head + in_dict(tensor) + pickle.dumps([], 2))


LEGACY: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut in the data": (lambda d: d[:-5], "ends at byte"),
    "cut in the pickles": (lambda d: d[:200], "truncated"),
    "other count": (lambda d: d[:-48][:-8] + struct.pack("<q", 13) + d[-48:], "13 elements instead of 12"),
    "other protocol": (lambda d: patched(d, b"M\xe9\x03", b"M\xe8\x03"), "protocol 1000"),
}


@pytest.mark.parametrize("name", LEGACY)
def test_damaged_legacy_files_are_refused(name: str) -> None:
    """An old file that is cut or lies about its storages is refused."""
    damage, message = LEGACY[name]

    with pytest.raises(CheckpointError, match=message):
        listing(damage(saved({"w": torch.ones(3, 4)}, legacy=True)))


def test_bytes_behind_a_legacy_file_are_told() -> None:
    """Torch ignores what follows the last storage of an old file; so do we, and say so."""
    data = saved({"w": torch.ones(3, 4)}, legacy=True)

    assert listing(data + b"junk").notes == ("4 bytes after the last storage are copied unchanged",)


def test_zip64_fields_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip whose sizes and offsets stand in zip64 fields reads like any other."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 20)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    value = {"w": torch.randn(3, 4), "v": torch.randn(40)}

    data = rezip(saved(value), list)

    assert b"PK\6\6" in data
    assert_same(data, value)
    assert_checksums(data)
