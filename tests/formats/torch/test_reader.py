"""The torch reader: tensors are listed where torch finds them, and the state_dict is found inside nested objects."""

from __future__ import annotations

import argparse
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from support import SHARED
from support.torch_files import assert_checksums, assert_same, flat, listing, names, saved

from prunecli.checkpoint import OUTSIDE
from prunecli.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

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


@pytest.mark.parametrize("name", REAL)
def test_real_checkpoints_read_as_torch_loads_them(name: str) -> None:
    """Real files have the names, order, strides and bits of torch.load, and correct checksums."""
    if not (SHARED / "checkpoints" / name).exists():
        pytest.skip("needs the shared folder of real checkpoints")
    data = (SHARED / "checkpoints" / name).read_bytes()
    loaded = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")

    assert_same(data, flat(loaded.get("state_dict", loaded)))
    assert_checksums(data)


def model() -> dict[str | int, object]:
    """Return tensors of every layout and dtype."""
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
    """Views, ties, wrappers, nesting and all dtypes are listed with the bits that torch loads, in both formats."""
    value = model()

    data = saved(value, **options)

    assert_same(data, flat(value))
    assert_checksums(data)


def test_tied_tensors_share_their_span() -> None:
    """Tensors of one storage have the same span, and the storage has one checksum."""
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
def test_unusual_views_have_a_reason(reason: str) -> None:
    """A view whose elements are not distinct plain numbers has a reason why it is not pruned."""
    (tensor,) = listing(saved({"w": REASONS[reason]()})).tensors

    assert reason == tensor.unprunable_reason


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("legacy", [False, True])
def test_other_kinds_of_tensors_are_named(legacy: bool) -> None:  # noqa: FBT001
    """Sparse, quantized, nested and meta tensors, storages and arrays are listed by kind, without their parts."""
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
    """Names start at the state_dict; tensors outside it have their full path and are not pruned."""
    value = {"epoch": 3, "optimizer": {"state": {0: {"m": torch.ones(2)}}}, key: {"a": {"w": torch.ones(3)}}}

    found = listing(saved(value))

    assert key == found.key
    assert [(t.name, t.unprunable_reason) for t in found.tensors] == [("a.w", None), ("optimizer.state.0.m", OUTSIDE)]


def test_a_wrapper_key_without_tensors_is_not_the_state_dict() -> None:
    """A dict called `model` without tensors is skipped."""
    assert listing(saved({"model": {"name": "x"}, "net": {"w": torch.ones(1)}})).key == "net"
    assert listing(saved({"model": {"name": "x"}, "w": torch.ones(1)})).key == ""


def test_a_flat_file_keeps_optimizers_apart() -> None:
    """If the top is the state_dict, optimizers, schedulers and EMA copies are outside it."""
    apart = ("optimizer", "lr_scheduler", "model_ema", "rng_state", "scaler")
    value = {"generator": {"w": torch.ones(1)}, **{name: {"w": torch.ones(1)} for name in apart}}

    found = {tensor.name: tensor.unprunable_reason for tensor in listing(saved(value)).tensors}

    assert {"generator.w": None, **{f"{name}.w": OUTSIDE for name in apart}} == found


def test_key_chooses_the_state_dict() -> None:
    """`key` is a dotted path through list indexes and keys that contain dots."""
    data = saved({"state_dict": {"w": torch.ones(1)}, "a.b": [{"c": {"v": torch.ones(2)}}]})

    found = listing(data, "a.b.0.c")

    assert found.key == "a.b.0.c"
    assert [(t.name, t.unprunable_reason) for t in found.tensors] == [("v", None), ("state_dict.w", OUTSIDE)]


@pytest.mark.parametrize("key", ["state_dcit", "state_dict.w", "epoch", "nothing.at.all"])
def test_a_missing_key_names_the_closest(key: str) -> None:
    """The error for a key without tensors has the closest key as its hint."""
    with pytest.raises(CheckpointError, match="has no tensors at the key") as caught:
        listing(saved({"epoch": 1, "state_dict": {"w": torch.ones(1)}}), key)

    assert caught.value.hint == "key='state_dict'"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: {"model": m, "epoch": 1}], ids=["bare", "nested"])
def test_a_pickled_module_has_its_state_dicts_names(wrap: Callable[[object], object], legacy: bool) -> None:  # noqa: FBT001
    """A pickled module has the names and order of module.state_dict(), each once."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.LSTM(4, 2))
    module.tied = module[0]

    found = listing(saved(wrap(module), legacy=legacy))

    assert list(module.state_dict()) == [tensor.name for tensor in found.tensors]


def test_unknown_objects_are_accepted() -> None:
    """Objects of any class are accepted; tensors in them are outside the state_dict."""
    value = {"state_dict": {"w": torch.ones(1)}, "args": argparse.Namespace(lr=np.float64(0.1), t=torch.ones(2))}

    found = listing(saved(value))

    assert [(t.name, t.unprunable_reason) for t in found.tensors] == [("w", None), ("args.t", OUTSIDE)]


def test_repeated_names_are_numbered() -> None:
    """If two paths give the same name, the later one gets a number, and a note says so."""
    found = listing(saved({"a": {"b": torch.ones(1)}, "a.b": torch.zeros(2), "a.b#2": torch.zeros(3)}))

    assert [(t.name, t.numel) for t in found.tensors] == [("a.b", 1), ("a.b#2", 2), ("a.b#2#2", 3)]
    assert "listed as 'a.b#2'" in found.notes[0]


def test_lone_surrogates_in_names_are_escaped() -> None:
    """Every listed name can be encoded as UTF-8."""
    assert names(saved({"a\ud800": torch.ones(1), "é": torch.ones(1)})) == ["a\\ud800", "é"]


@pytest.mark.parametrize("legacy", [False, True])
def test_bytes_objects_are_skipped(legacy: bool) -> None:  # noqa: FBT001
    """Bytes objects of any length, also as keys, are skipped; the tensors after them are listed."""
    w = torch.ones(3, 3)
    value = {"log": b"x" * 70_000, "a": b"short", b"key": {"w": w}, "after": w + 1}

    found = listing(saved(value, 4, legacy=legacy))

    assert [t.name for t in found.tensors] == ["key.w", "after"]
