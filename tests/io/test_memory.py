"""Tensors in memory, read and written like the files of a checkpoint."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from support import (
    INTS,
    bits,
)

from prunecli.io.memory import Region, state_dict_checkpoint


@given(st.integers(0, 60), st.integers(0, 60), st.booleans())
def test_a_region_reads_and_writes_at_an_offset(offset: int, length: int, host: bool) -> None:  # noqa: FBT001
    """Bytes written at an offset are read back there, and all others stay; with both ways of copying."""
    length = min(length, 60 - offset)
    data = torch.arange(60, dtype=torch.uint8)
    region = Region("data", data.untyped_storage())
    region.on = "cpu" if host else "meta"
    new = memoryview(bytearray(200 + i % 50 for i in range(length)))

    region.write(new, offset)

    actual = memoryview(bytearray(length))
    region.read(actual, offset)
    assert actual == new
    expected_bytes = bytearray(range(60))
    expected_bytes[offset : offset + length] = new
    assert bytes(expected_bytes) == data.numpy().tobytes()


def test_a_listing_has_the_place_of_each_tensor() -> None:
    """Tensors are listed in the order of the dict, with one file per storage, and strides in elements."""
    storage = torch.arange(24, dtype=torch.float32)
    live = {"b": storage[4:16].view(3, 4).T, "a": torch.ones(2, dtype=torch.float64), "c": storage[:4]}

    memory = state_dict_checkpoint(live)

    actual = [(t.name, t.dtype, t.shape, t.strides, t.offset, t.span.length) for t in memory.checkpoint.tensors]
    assert actual == [
        ("b", "F32", (4, 3), (1, 4), 4, 96),
        ("a", "F64", (2,), (1,), 0, 16),
        ("c", "F32", (4,), (1,), 0, 96),
    ]
    first, second, third = (t.file for t in memory.checkpoint.tensors)
    assert first == third != second
    for tensor in memory.checkpoint.tensors:
        region = memory.regions[tensor.file]
        raw = torch.empty(tensor.extent, dtype=live[tensor.name].dtype)
        region.read(memoryview(raw.view(torch.uint8).numpy()), tensor.start)
        dtype = INTS[tensor.itemsize]
        view = torch.as_strided(raw.view(dtype), tensor.shape, tensor.strides)
        assert torch.equal(bits(live[tensor.name]), view.contiguous())
