"""The division of files among processes: whole tensors, about evenly."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.checkpoint import CheckpointFile, Span, TensorInfo, row_major
from prunecli.distributed.ownership import Share, shares

HEADER = 1000


def lay_out(files: list[list[tuple[int, ...]]]) -> tuple[list[CheckpointFile], list[TensorInfo]]:
    """Return files of bf16 tensors with these shapes, one after the other behind a header."""
    result, tensors = [], []
    for number, shapes in enumerate(files):
        end = HEADER
        for shape in shapes:
            tensor = TensorInfo(f"t{len(tensors)}", "BF16", shape, row_major(shape), number, Span(end, 0))
            tensors.append(TensorInfo(tensor.name, "BF16", shape, tensor.strides, number, Span(end, tensor.nbytes)))
            end += tensor.nbytes
        result.append(CheckpointFile(Path(f"f{number}"), end))
    return result, tensors


def llama_70b() -> list[tuple[int, ...]]:
    """Return the shapes of Llama-3-70B in its order."""
    layer: list[tuple[int, ...]] = [(8192,), (8192, 28672), (28672, 8192), (28672, 8192), (8192,)]
    layer += [(1024, 8192), (8192, 8192), (8192, 8192), (1024, 8192)]
    return [(128256, 8192), *layer * 80, (8192,), (128256, 8192)]


def mixture() -> list[tuple[int, ...]]:
    """Return the shapes of a mixture of experts of 1.3 TB: 60 layers with 256 packed experts."""
    layer: list[tuple[int, ...]] = [(7168,), (7168, 16384), (1536, 7168), (7168, 512), (256, 7168)]
    layer += [(8, 4096, 7168), (8, 7168, 2048)] * 32
    return [(129280, 7168), *layer * 60, (129280, 7168)]


def in_files(shapes: list[tuple[int, ...]], count: int) -> list[list[tuple[int, ...]]]:
    """Return the shapes in `count` files of about the same size, as a model is saved."""
    files, size = lay_out([shapes])
    total, each = files[0].size, -(-files[0].size // count)
    parts: list[list[tuple[int, ...]]] = [[] for _ in range(count)]
    for tensor in size:
        parts[min(tensor.start // each, count - 1)].append(tensor.shape)
    assert total >= each
    return parts


@pytest.mark.parametrize("ranks", [8, 32])
@pytest.mark.parametrize(("shapes", "files"), [(llama_70b(), 30), (llama_70b(), 3), (llama_70b(), 1), (mixture(), 233)])
def test_large_models_are_divided_evenly(shapes: list[tuple[int, ...]], files: int, ranks: int) -> None:
    """No process has more than 1.1 times the mean of the bytes, however many files there are."""
    laid, tensors = lay_out(in_files(shapes, files))
    sizes = [share.size for share in shares(laid, tensors, tensors, ranks)]

    assert sum(sizes) == sum(file.size for file in laid)
    assert max(sizes) <= 1.1 * sum(sizes) / ranks


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[CheckpointFile], list[TensorInfo], list[TensorInfo]]:
    """Return files, their tensors, and those that are pruned; some of them overlap."""
    files, tensors = lay_out(
        draw(st.lists(st.lists(st.tuples(st.integers(0, 40)), max_size=6), min_size=1, max_size=4))
    )
    views = [
        TensorInfo(f"{t.name}.view", "BF16", (2,), (3,), t.file, t.span, draw(st.integers(0, t.numel - 4)))
        for t in tensors
        if t.numel > 4 and draw(st.booleans())
    ]
    targets = [tensor for tensor in (*tensors, *views) if tensor.numel and draw(st.booleans())]
    return files, [*tensors, *views], targets


@settings(max_examples=examples(150))
@given(layouts(), st.integers(1, 6))
def test_every_byte_has_one_owner(
    layout: tuple[list[CheckpointFile], list[TensorInfo], list[TensorInfo]], count: int
) -> None:
    """Together the shares are all files, in order, and each target is in one of them as a whole."""
    files, tensors, targets = layout
    divided: list[Share] = shares(files, tensors, targets, count)

    for number, file in enumerate(files):
        ranges = [share.ranges[number] for share in divided if share.ranges[number][0] < share.ranges[number][1]]
        assert [start for start, _ in ranges] == [0, *[end for _, end in ranges[:-1]]]
        assert ranges[-1][1] == file.size
    for target in targets:
        (owner,) = [share for share in divided if share.owns(target)]
        assert target.end <= owner.ranges[target.file][1]
