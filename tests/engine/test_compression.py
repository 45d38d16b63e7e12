"""The sample has the bytes of the tensors, and the estimate is close to the real compressed size."""

from __future__ import annotations

import gzip
import importlib
import os
import sys
import zlib
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.checkpoint import Span, TensorInfo, row_major
from prunecli.engine.compression import RUN_BYTES, RUNS, estimate, sample
from prunecli.errors import CheckpointError
from prunecli.io.descriptors import Descriptor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def tensor(name: str, start: int, count: int, file: int = 0) -> TensorInfo:
    """Return a tensor of `count` float32 numbers from byte `start` of a file."""
    return TensorInfo(name, "F32", (count,), row_major((count,)), file, Span(start, 4 * count))


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[int]]:
    """Open two files of random bytes."""
    opened = []
    for position in range(2):
        path = tmp_path / f"{position}"
        path.write_bytes(np.random.default_rng(position).bytes(1 << 22))
        opened.append(os.open(path, os.O_RDONLY))
    yield opened
    for fd in opened:
        os.close(fd)


def content(files: Sequence[int], tensors: Sequence[TensorInfo]) -> bytes:
    """Return all bytes of the tensors, in the order of the files."""
    ordered = sorted(tensors, key=lambda t: (t.file, t.start))
    return b"".join(os.pread(files[t.file], t.nbytes, t.start) for t in ordered)


@settings(max_examples=examples(50))
@given(counts=st.lists(st.integers(0, 5000), max_size=12), data=st.data())
def test_few_bytes_are_sampled_completely(counts: list[int], data: st.DataObject) -> None:
    """A sample of few tensors has each of their bytes once, across gaps and files."""
    read, write = os.memfd_create("a"), os.memfd_create("b")
    tensors, position = [], 0
    for number, count in enumerate(counts):
        position += data.draw(st.integers(0, 64))
        tensors.append(tensor(str(number), position, count, data.draw(st.integers(0, 1))))
        position += 4 * count
    for fd in (read, write):
        os.pwrite(fd, np.random.default_rng(fd).bytes(position), 0)

    actual = sample([Descriptor(fd=read), Descriptor(fd=write)], data.draw(st.permutations(tensors)))
    expected = content([read, write], tensors)
    os.close(read)
    os.close(write)

    assert expected == actual


def test_a_large_tensor_is_sampled_at_even_distances(files: list[int]) -> None:
    """A sample of a large tensor has a fixed size and covers it from the start to near the end."""
    big = tensor("w", 4096, 1_000_000)
    actual, whole = sample([Descriptor(fd=fd) for fd in files], [big]), content(files, [big])
    places = [whole.index(actual[position : position + RUN_BYTES]) for position in range(0, len(actual), RUN_BYTES)]

    assert len(actual) == RUNS * RUN_BYTES
    assert places[0] == 0
    assert {round(b - a, -1) for a, b in pairwise(places)} == {4_000_000 // RUNS}


def test_a_file_that_ends_early_is_an_error(files: list[int]) -> None:
    """A tensor beyond the end of its file is an error."""
    with pytest.raises(CheckpointError, match="ends at"):
        sample([Descriptor(fd=fd) for fd in files], [tensor("w", (1 << 22) - 8, 100)])


def normal(count: int, sparsity: float) -> bytes:
    """Return normal float32 weights, the smallest of which are zero."""
    x = np.random.default_rng(0).standard_normal(count).astype(np.float32)
    return np.where(np.abs(x) < np.quantile(np.abs(x), sparsity), 0, x).astype(np.float32).tobytes()


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_the_estimate_is_close_to_the_compressed_size(tmp_path: Path, sparsity: float) -> None:
    """The estimate is within 5 % of the size of all bytes after compression."""
    path, data = tmp_path / "f", normal(2_000_000, sparsity)
    path.write_bytes(data)
    weights = tensor("w", 0, 2_000_000)
    with path.open("rb") as file:
        part = sample([Descriptor(fd=file.fileno())], [weights])
    actual = estimate(part, part, [weights])
    if actual.method.startswith("zstd"):
        zstd = pytest.importorskip("zstandard")
        expected = len(zstd.compress(data, 3))
    else:
        expected = len(zlib.compress(data, 6))

    assert actual.sampled_bytes == len(part) < len(data)
    assert actual.bytes_before == actual.bytes_after
    assert abs(actual.bytes_after / expected - 1) < 0.05


def test_without_zstd_the_method_is_deflate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without zstd the estimate equals the size that gzip gives."""
    for module in ("compression.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, module, None)
    before, after = normal(10_000, 0.0), normal(10_000, 0.8)

    actual = estimate(before, after, [tensor("w", 0, 10_000)])

    assert (actual.method, actual.sampled_bytes) == ("deflate level 6", 40_000)
    assert abs(actual.bytes_before - len(gzip.compress(before, 6))) < 100
    assert abs(actual.bytes_after - len(gzip.compress(after, 6))) < 100


def test_with_zstd_the_method_is_zstd() -> None:
    """If zstd is installed it is used, at its default level."""
    zstd = pytest.importorskip("zstandard")
    data = normal(10_000, 0.5)

    actual = estimate(data, data, [tensor("w", 0, 10_000)])

    assert (actual.method, actual.bytes_after) == ("zstd level 3", len(zstd.compress(data, 3)))
    assert importlib.import_module("zstandard") is zstd


def test_no_bytes_have_the_size_0() -> None:
    """The estimate of no bytes is 0, not an error."""
    empty = tensor("w", 0, 0)

    assert sample([], [empty]) == b""
    actual = estimate(b"", b"", [empty])
    assert (actual.sampled_bytes, actual.bytes_before, actual.bytes_after) == (0, 0, 0)
