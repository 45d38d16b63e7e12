"""What runs over models elsewhere do: one pass, local outputs, every format."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from support import make_checkpoint
from support.remote_models import contents, save_model, save_shards

import prunecli
from prunecli.errors import CheckpointError
from prunecli.formats.open import open_checkpoint
from prunecli.inspection.inspect import inspect
from prunecli.io import remote
from prunecli.io.reader import open_sources
from prunecli.strategies.thresholds import Threshold
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from pathlib import Path

    from support.command_line import Prune
    from support.servers import Served

MODEL = "hf://org/model"

CONTAINERS = ("lightning", "legacy", "bin-shards", "dcp", "dcp-safetensors", "npz", "gguf", "hdf5", "onnx-with-data")


@pytest.fixture
def model(hub: Served) -> Path:
    """Write a model of two shards."""
    return save_shards(hub.folder / "org/model")


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_format_is_read(hub: Served, tmp_path: Path, container: str) -> None:
    """The output is that of the local checkpoint, and both have the same contents."""
    (hub.folder / "org" / container).mkdir(parents=True)
    path = make_checkpoint(container, hub.folder / "org" / container)
    url = f"hf://{path.relative_to(hub.folder).as_posix()}"
    here, there = (tmp_path / f"{name}{path.suffix}" for name in ("local", "remote"))

    prunecli.prune(path, Threshold(0.1), output=here, reports=())
    prunecli.prune(url, Threshold(0.1), output=there, reports=())

    assert contents(here) == contents(there)
    assert prunecli.diff(url, path).same


@pytest.mark.parametrize(
    "line",
    [
        "l1 {} --amount 50%",
        "global {} --amount 50%",
        "percentile {} --q 50",
        "structured {} --amount 50%",
        "threshold {} --thr-std 1",
        "threshold {} --thr 0.1 --of remaining",
        "threshold {} --thr 0.1 --sha256",
        "threshold {} --thr 0.1 --estimate",
        "inspect {} --thresholds",
    ],
)
def test_what_reads_twice_says_so(model: Path, prune: Prune, line: str) -> None:
    """The hint is the command that downloads the model, and nothing is written."""
    ran = prune(*line.format(MODEL).split())

    assert ran.code == 2
    assert "error: this reads the model twice, and hf://org/model is elsewhere" in ran.err
    assert "hint: download it first: hf download org/model --local-dir model" in ran.err
    assert list(model.parent.parent.parent.joinpath("work").iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        "topk {} --pattern 2:4 -q",
        "random {} --amount 50% -q",
        "threshold {} --thr 0.1 --max-shard-size 70kB -o shards -q",
        "threshold {} --thr 0.1 -n -q",
        "convert {} out.pth -q",
        "check {} --finite --only-zeros-added-since {} -q",
        "diff {} {} -q",
        "scan {}",
        "inspect {} --read",
        "inspect {} --hist layers.0.weight",
    ],
)
def test_what_reads_once_runs(hub: Served, model: Path, prune: Prune, line: str) -> None:
    """Commands of one pass run, and read no more than the model and its headers for each time that it is named."""
    if "random" in line:
        pytest.skip("it ranks random numbers, without reading weights") if False else None
    size = sum(path.stat().st_size for path in model.iterdir() if path.is_file())

    ran = prune(*line.replace("{}", MODEL).split())

    assert (ran.code, ran.err.replace("\n", "") if ran.code else "") == (0, "")
    assert hub.sent <= (size + 4 * 65536) * line.count("{}") * (1 + ("check" in line))


def test_a_mask_is_applied_to_a_model_elsewhere(model: Path, prune: Prune, tmp_path: Path) -> None:
    """The smallest way to publish a pruned model: a mask, and the name of the base."""
    assert prune("global", model, "--amount", "50%", "-q", "-o", "here", "--mask-out", "m.safetensors").code == 0
    assert prune("mask", MODEL, "--mask", "m.safetensors", "-q", "-o", "there").code == 0

    (tmp_path / "work/here/pytorch_model.bin").unlink()
    assert contents(tmp_path / "work/here") == contents(tmp_path / "work/there")


@pytest.mark.parametrize(
    ("target", "upload"),
    [
        ("hf://me/pruned", "hf upload me/pruned pruned"),
        ("s3://bucket/dir/pruned", "aws s3 cp --recursive pruned s3://bucket/dir/pruned"),
        ("s3://bucket/m.safetensors", "aws s3 cp m.safetensors s3://bucket/m.safetensors"),
    ],
)
@pytest.mark.usefixtures("model")
def test_outputs_are_local(prune: Prune, target: str, upload: str) -> None:
    """The hint uploads the local output."""
    ran = prune("threshold", MODEL, "--thr", "0.1", "-o", target)

    assert ran.code == 2
    assert f"error: {target} is elsewhere, and outputs are written to local paths" in ran.err
    assert ran.err.rstrip().endswith(f"and upload it afterwards: {upload}")


@pytest.mark.parametrize("option", [("--report", "s3://b/r.json"), ("--mask-out", "hf://me/m/mask.safetensors")])
@pytest.mark.usefixtures("model")
def test_reports_and_masks_are_local(prune: Prune, option: tuple[str, str]) -> None:
    """They are refused before any weight is read."""
    ran = prune("threshold", MODEL, "--thr", "0.1", *option)

    assert ran.code == 2
    assert "outputs are written to local paths" in ran.err


@pytest.mark.usefixtures("model")
def test_nothing_is_pruned_in_place_elsewhere(prune: Prune) -> None:
    """The hint uploads the local output."""
    ran = prune("threshold", MODEL, "--thr", "0.1", "--in-place")

    assert ran.code == 2
    assert "upload it afterwards: hf upload org/model model" in ran.err


@pytest.mark.parametrize(
    "line",
    [
        "bake {}",
        "pack {}/model.pth",
        "unpack {}/model.pth",
        "search {} l1 --eval {{}} --max-drop 1 --higher-is-better",
        "mask local.safetensors --mask {}/mask.safetensors",
        "threshold local.safetensors --thr 1 --mask-in {}",
        "l1 local.safetensors --amount 50% --scores {}",
    ],
)
def test_what_needs_local_files_says_so(hub: Served, prune: Prune, tmp_path: Path, line: str) -> None:
    """No server is asked."""
    save_model(tmp_path / "work/local.safetensors")

    ran = prune(*line.format(MODEL).split())

    assert ran.code == 2
    assert "is elsewhere, and this reads local files only" in ran.err
    assert hub.asked == []


def test_compressed_records_need_the_whole_file(hub: Served, prune: Prune) -> None:
    """A packed file is inspected, and pruned only after it is downloaded."""
    path = hub.folder / "org/model/model.pth"
    path.parent.mkdir(parents=True)
    torch.save({f"{i}.weight": torch.zeros(64, 64) for i in range(4)}, path)
    assert prune("pack", path, "-o", path.with_name("packed.pth"), "-q").code == 0

    assert prune("inspect", f"{MODEL}/packed.pth").code == 0
    ran = prune("threshold", f"{MODEL}/packed.pth", "--thr", "1")
    assert ran.code == 2
    assert "packed.pth has compressed records, and this reads local files only" in ran.err


@pytest.mark.parametrize("url", ["gs://bucket/model", "az://bucket/model", "ftp://host/model.pth"])
def test_other_schemes_are_refused(prune: Prune, url: str) -> None:
    """The sentence names those that are read."""
    ran = prune("inspect", url)

    assert ran.code == 2
    assert "models are read from hf://, s3:// and https://" in ran.err


def test_the_memory_is_a_number_of_parts(hub: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large a file is, at most the parts ahead and two per thread are held, and each is asked for once."""
    save_model(hub.folder / "org/model/model.safetensors", rows=512)
    monkeypatch.setattr(remote, "PART", 1 << 14)
    checkpoint = open_checkpoint(MODEL, remote=True)
    held, hub.sent = [], 0
    with open_sources(checkpoint) as (source,):
        size = source.size
        view = memoryview(bytearray(1 << 12))
        for offset in range(0, size - len(view), len(view)):
            source.read(view, offset)
            held.append(remote._ahead.held)

    assert max(held) <= remote.AT_ONCE + 2
    assert hub.sent <= size
    assert remote._ahead.held == 0


def test_threads_that_read_apart_ask_for_little_twice(hub: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread counts the zeros of a tensor of its own; only parts at the ends of tensors are read again."""
    path = save_model(hub.folder / "org/model/model.safetensors", 6, rows=512)
    monkeypatch.setattr(remote, "PART", 1 << 14)
    monkeypatch.setattr("prunecli.io.scan.CHUNK", 1 << 10)

    inspect(MODEL, read=True, threads=6)

    assert hub.sent <= path.stat().st_size * 1.2


def test_parts_are_read_side_by_side(hub: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader in order has several requests under way."""
    save_model(hub.folder / "org/model/model.safetensors", rows=2048)
    monkeypatch.setattr(remote, "PART", 1 << 14)
    checkpoint = open_checkpoint(MODEL, remote=True)
    hub.asked.clear()
    with open_sources(checkpoint) as (source,):
        for part in range(4):
            source.read(memoryview(bytearray(16)), part << 14)
        for future, _ in list(remote._ahead._unused.values()):
            future.result()

    assert len(hub.asked) >= 8


@pytest.mark.usefixtures("model")
def test_the_library_takes_urls() -> None:
    """`inspect` reads no weights by default, and says so; functions for local files refuse."""
    result = inspect(MODEL)

    assert (result.path, {None}) == (MODEL, {entry.zeros for entry in result.entries})
    assert any("were not read" in note for note in result.notes)
    with pytest.raises(CheckpointError, match="local files only"):
        prunecli.bake(MODEL)


def test_names_of_files_are_escaped(hub: Served, prune: Prune) -> None:
    """A URL with control characters is printed without them."""
    ran = prune("inspect", "hf://\x1b[31mred")

    assert "\x1b" not in ran.err
    assert printable("\x1b") in ran.err
    assert hub.asked == []
