"""Every strategy zeroes the right weights in every container, and all other bytes are copied unchanged."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zipfile
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import pytest
import torch
from support import CONTAINERS, STRATEGIES, chosen, files, make_weights, pruned_weights, read, same_bits, state_dict
from support.distributed_checkpoints import bytes_of_chunks, is_distributed

from prunecli.formats.open import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Pruned
    from numpy.typing import NDArray

    from prunecli.checkpoint import Checkpoint

ZIPS = ["zip", "nested", "lightning", "ddp", "tied", "non-contiguous", "one-storage", "sliced", "big-endian"]


def may_change(checkpoint: Checkpoint, file: int, names: set[str]) -> NDArray[np.bool_]:
    """Return, per byte of a file, whether it belongs to an element of the tensors `names` or to their checksums."""
    allowed = np.zeros(checkpoint.files[file].size, bool)
    if is_distributed(checkpoint.path):
        for start, end in bytes_of_chunks(checkpoint.files[file].path, {"model." + name for name in names}):
            allowed[start:end] = True
        return allowed
    spans = set()
    for t in checkpoint.tensors:
        if t.file == file and t.name.removeprefix("model.").removeprefix("module.") in names:
            strides = [t.itemsize * step for step in t.strides]
            np.lib.stride_tricks.as_strided(allowed[t.start :], (*t.shape, t.itemsize), [*strides, 1])[...] = True
            spans.add(t.span)
    for checksum in checkpoint.files[file].checksums:
        if checksum.span in spans:
            for place in checksum.places:
                allowed[place : place + 4] = True
    return allowed


def test_only_weights_and_checksums_change(container: str, strategy: str, pruned: Callable[[str, str], Pruned]) -> None:
    """Every byte that is no part of a selected tensor or of its checksum is that of the input."""
    done = pruned(container, strategy)
    checkpoint = open_checkpoint(done.source)
    names = set(chosen(make_weights()))

    for index, file in enumerate(checkpoint.files):
        before = np.fromfile(file.path, np.uint8)
        after = np.fromfile(_twin(file.path, done), np.uint8)
        assert before.size == after.size
        assert not (before != after)[~may_change(checkpoint, index, names)].any()


def _twin(path: Path, done: Pruned) -> Path:
    """Return the output file of an input file."""
    return done.output / path.relative_to(done.source) if done.source.is_dir() else done.output


def test_the_right_weights_are_zero_and_the_others_are_their_own_bits(
    container: str, strategy: str, pruned: Callable[[str, str], Pruned]
) -> None:
    """The output has the names of the input in order, +0.0 where torch prunes, and all other bits unchanged."""
    done = pruned(container, strategy)
    before = state_dict(container, read(done.source))

    after = state_dict(container, read(done.output))

    wanted = pruned_weights(STRATEGIES[strategy], before)
    assert list(before) == list(after)
    assert not [name for name in wanted if not same_bits(wanted[name], after[name])]
    assert {n: t.stride() for n, t in before.items()} == {n: t.stride() for n, t in after.items()}


def test_every_container_holds_the_same_weights(container: str, source: Callable[[str], Path]) -> None:
    """All containers hold the same weights, so that each test compares them with the same expectation."""
    weights = make_weights()

    stored = state_dict(container, read(source(container)))

    assert set(weights) == set(stored) - {"head.weight"}
    assert all(same_bits(weights[name], stored[name]) for name in weights)


def test_the_report_counts_the_zeros_written(
    container: str, strategy: str, pruned: Callable[[str, str], Pruned]
) -> None:
    """Each row has the number of zeros of the loaded result, and tied names share a row."""
    done = pruned(container, strategy)
    layout, after = CONTAINERS[container], state_dict(container, read(done.output))

    rows = {row.name.removeprefix(layout.prefix): row for row in done.report.rows if row.selected}

    assert {name: int((after[name] == 0).sum()) for name in chosen(after)} == {
        name: row.zeros_after for name, row in rows.items()
    }
    aliases = {name: row.aliases for name, row in rows.items() if row.aliases}
    assert aliases == ({"embed.weight": ("head.weight",)} if layout.tied else {})


@pytest.mark.parametrize("container", ["safetensors-shards", "bin-shards"])
def test_a_directory_keeps_its_other_files(container: str, strategy: str, pruned: Callable[[str, str], Pruned]) -> None:
    """Index, configuration and tokenizer are copied byte for byte, and no file is added or missing."""
    done = pruned(container, strategy)

    names = {path.relative_to(done.source) for path in files(done.source)}

    assert names == {path.relative_to(done.output) for path in files(done.output)}
    for name in names:
        if name.suffix in {".json", ".txt"}:
            assert (done.source / name).read_bytes() == (done.output / name).read_bytes()


@pytest.mark.parametrize("container", ["dcp", "dcp-safetensors"])
def test_everything_around_a_distributed_model_stays(
    container: str, strategy: str, pruned: Callable[[str, str], Pruned]
) -> None:
    """Optimizer state and objects load unchanged, and the metadata is copied byte for byte."""
    done = pruned(container, strategy)
    before, after = read(done.source), read(done.output)

    momenta = [loaded["optim"]["state"] for loaded in (before, after)]
    assert all(same_bits(momenta[0][name]["exp_avg"], momenta[1][name]["exp_avg"]) for name in momenta[0])
    assert [(loaded["epoch"], loaded["optim"]["lr"]) for loaded in (before, after)] == [(3, 0.1)] * 2
    for name in (".metadata", "config.json"):
        assert (done.source / name).read_bytes() == (done.output / name).read_bytes()


@pytest.mark.parametrize("container", ["nested", "legacy-nested", "lightning"])
def test_everything_around_the_state_dict_stays(
    container: str, strategy: str, pruned: Callable[[str, str], Pruned]
) -> None:
    """Optimizer state, arguments and counters load unchanged, with their keys in order."""
    done = pruned(container, strategy)

    before, after = read(done.source), read(done.output)

    assert list(before) == list(after)
    assert _rest(before) == _rest(after)
    momenta = [loaded.get("optimizer", {"state": {}})["state"] for loaded in (before, after)]
    assert all(same_bits(momenta[0][i]["momentum_buffer"], momenta[1][i]["momentum_buffer"]) for i in momenta[0])


def _rest(loaded: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in loaded.items() if name not in {"state_dict", "optimizer"}}


@pytest.mark.parametrize("container", ["tied", "legacy-tied"])
def test_tied_tensors_stay_tied(container: str, strategy: str, pruned: Callable[[str, str], Pruned]) -> None:
    """Two names of one storage are still two names of one storage."""
    after = read(pruned(container, strategy).output)

    assert after["embed.weight"].data_ptr() == after["head.weight"].data_ptr()


@pytest.mark.parametrize("container", ["sliced", "legacy-sliced"])
def test_elements_outside_a_view_stay(container: str, strategy: str, pruned: Callable[[str, str], Pruned]) -> None:
    """Elements of a storage that are outside the sliced view keep their values."""
    after = read(pruned(container, strategy).output)

    for name in chosen(after):
        view = after[name]
        width = view.stride(-2)
        hidden = torch.as_strided(view, (view.untyped_storage().nbytes() // 4 // width, width), (width, 1), 0)
        assert [[3.0] * 5] * len(hidden) == hidden[:, [0, 1, -3, -2, -1]].tolist()


def checksums(path: Path) -> Iterator[tuple[str, int, set[int]]]:
    """Yield each record of an archive with the CRC-32 of its bytes, and the CRC-32s stored for it, by the zip spec."""
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            flags, stored = struct.unpack_from("<6xH6xL", data, info.header_offset)
            name, extra = struct.unpack_from("<26xHH", data, info.header_offset)
            start = info.header_offset + 30 + name + extra
            end = start + info.file_size
            stored_values = {info.CRC}
            if flags & 8:  # a data descriptor follows, and the local header may hold 0
                stored_values |= {struct.unpack_from("<4xL", data, end)[0], *([stored] if stored else [])}
            else:
                stored_values.add(stored)
            yield info.filename, crc32(data[start:end]), stored_values


@pytest.mark.parametrize("container", [*ZIPS, "protocol-4"])
def test_every_checksum_is_right(container: str, strategy: str, pruned: Callable[[str, str], Pruned]) -> None:
    """Each record's CRC-32 is that of its bytes, in the central directory, local header and data descriptor."""
    records = list(checksums(pruned(container, strategy).output))

    assert records
    assert not [name for name, crc, stored in records if {crc} != stored]


@pytest.mark.parametrize("container", ZIPS)
def test_unzip_finds_no_error(container: str, pruned: Callable[[str, str], Pruned]) -> None:
    """`unzip -t` accepts the output."""
    if shutil.which("unzip") is None:
        pytest.skip("unzip is not installed")

    run = subprocess.run(
        ["unzip", "-t", pruned(container, "percentile").output], capture_output=True, text=True, check=False
    )

    assert run.returncode == 0
    assert "No errors detected" in run.stdout
