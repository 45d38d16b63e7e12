"""Bad indexes and links in directories of shards, 62 of the list."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from hostile.cases import prune, refused
from support.handmade import W, checkpoint, container, entry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, pipes and signals are POSIX's")
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def sharded(folder: Path, weight_map: object = None, index: str = "model.safetensors.index.json") -> Path:
    """Write two shards of a tensor each and an index; return the folder."""
    folder.mkdir()
    for name, shard in zip(("a.weight", "b.weight"), SHARDS, strict=True):
        (folder / shard).write_bytes(container({name: entry()}, W))
    right = {"a.weight": SHARDS[0], "b.weight": SHARDS[1]}
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": right if weight_map is None else weight_map}))
    return folder


BAD_MAPS: dict[str, tuple[object, str]] = {
    "climbs": ({"a.weight": "../x.safetensors"}, "not a plain path"),
    "absolute": ({"a.weight": "/x.safetensors"}, "not a plain path"),
    "a drive": ({"a.weight": "C:x.safetensors"}, "not a plain path"),
    "backslashes": ({"a.weight": "..\\x.safetensors"}, "not a plain path"),
    "a device": ({"a.weight": "/dev/zero"}, "not a plain path"),
    "climbs inside": ({"a.weight": "a/../../x.safetensors"}, "not a plain path"),
    "NUL": ({"a.weight": "a\0.safetensors"}, "not a plain path"),
    "empty name": ({"a.weight": ""}, "not a plain path"),
    "control characters": ({"a.weight": "\x1b[2J.safetensors"}, "not a plain path"),
    "spelled in two ways": ({"a.weight": SHARDS[0], "b.weight": f"./{SHARDS[1]}"}, "not a plain path"),
    "missing shard": ({"a.weight": SHARDS[0], "b.weight": "c.safetensors"}, "lacks the shard"),
    "tensor not in its shard": ({"a.weight": SHARDS[1], "b.weight": SHARDS[1]}, "puts the tensor 'a.weight' in"),
    "tensors exchanged": ({"a.weight": SHARDS[1], "b.weight": SHARDS[0]}, "but it is in model-00001"),
    "tensor in no shard": ({"a.weight": SHARDS[0], "c.weight": SHARDS[1]}, "but it is not there"),
    ".bin in a safetensors index": ({"a.weight": "x.bin"}, "not a .safetensors file"),
    "empty": ({}, "has no weight_map"),
    "a list": ([], "has no weight_map"),
    "a number as the shard": ({"a.weight": 7}, "no file name"),
    "null": ({"a.weight": None}, "no file name"),
}


@pytest.mark.parametrize("what", BAD_MAPS)
def test_62_a_bad_index_is_refused(what: str, tmp_path: Path, capfd: Capture) -> None:
    """An index that points outside its directory, to a missing shard or to a wrong one gives no output."""
    weight_map, want = BAD_MAPS[what]
    folder = sharded(tmp_path / "in", weight_map)

    refused(capfd, tmp_path, want, *prune(folder, "-o", tmp_path / "out"))


BAD_TEXTS = {
    "a shard listed twice for one name": (
        f'{{"weight_map": {{"a.weight": "{SHARDS[0]}", "a.weight": "{SHARDS[1]}"}}}}',
        "twice",
    ),
    "no JSON": ("hello", "not valid JSON"),
    "a list": ("[]", "not a JSON object"),
    "without a map": ("{}", "has no weight_map"),
    "a map that is a list": ('{"weight_map":[1]}', "has no weight_map"),
    "nested without end": ('{"weight_map":' * 50_000, "nested too deeply"),
    "binary": ("\x00\x01\x02", "not valid JSON"),
    "empty": ("", "not valid JSON"),
}


@pytest.mark.parametrize("what", BAD_TEXTS)
def test_62_an_index_that_is_no_json_object_is_refused(what: str, tmp_path: Path, capfd: Capture) -> None:
    """An index with repeated names, or without a JSON object, gives no output."""
    content, want = BAD_TEXTS[what]
    folder = sharded(tmp_path / "in")
    (folder / "model.safetensors.index.json").write_text(content)

    refused(capfd, tmp_path, want, *prune(folder, "-o", tmp_path / "out"))


def test_62_a_name_in_two_shards_is_refused(tmp_path: Path, capfd: Capture) -> None:
    """A name in two shards gives no output, because readers choose differently."""
    folder = sharded(tmp_path / "in")
    (folder / SHARDS[1]).write_bytes(container({"a.weight": entry(), "b.weight": entry(offsets=(16, 32))}, W + W))

    refused(capfd, tmp_path, "'a.weight' is in", *prune(folder, "-o", tmp_path / "out"))


@pytest.mark.parametrize("name", [SHARDS[0], "config.json"])
@pytest.mark.parametrize("target", ["outside", "blobs/x", "x/y/outside"])
def test_62_a_link_out_of_the_directory_is_refused(name: str, target: str, tmp_path: Path, capfd: Capture) -> None:
    """Neither a shard nor another file may be a link to a file outside, also into `blobs` that is no Hub cache's."""
    folder = sharded(tmp_path / "in")
    outside = tmp_path / target
    outside.parent.mkdir(parents=True, exist_ok=True)
    outside.write_bytes(container({"a.weight": entry()}, W))
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)

    refused(capfd, tmp_path, "is a link that leaves its directory", *prune(folder, "-o", tmp_path / "out"))


def test_62_a_blobs_folder_that_is_a_link_is_no_hub_cache(tmp_path: Path, capfd: Capture) -> None:
    """`blobs` of a repository must be a real folder: as a link it would let any file into the output."""
    private = tmp_path / "private"
    private.mkdir()
    (private / "key").write_text("secret")
    repository = tmp_path / "repository"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "blobs").symlink_to(private)
    folder = sharded(repository / "snapshots" / "0123abc")
    (folder / "config.json").symlink_to("../../blobs/key")

    refused(capfd, tmp_path, "is a link that leaves its directory", *prune(folder, "-o", tmp_path / "out"))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "shard is a directory": (lambda d: (moved(d) / SHARDS[0]).mkdir(), "not a regular file"),
    "shard is a link to itself": (lambda d: (moved(d) / SHARDS[0]).symlink_to(SHARDS[0]), "cannot read"),
    "dangling other file": (lambda d: (d / "tokenizer.json").symlink_to("missing"), "a dangling link"),
    "two indexes": (
        lambda d: (d / "model.fp16.safetensors.index.json").write_text("{}"),
        "has 2 indexes: model.fp16.safetensors.index.json, model.safetensors.index.json",
    ),
    "torch content in a safetensors shard": (lambda d: (d / SHARDS[0]).write_bytes(checkpoint()), "is torch zip, but "),
    "shard truncated": (lambda d: (d / SHARDS[0]).write_bytes((d / SHARDS[0]).read_bytes()[:-1]), "is truncated"),
}


def moved(folder: Path) -> Path:
    """Move the first shard away; return the folder."""
    (folder / SHARDS[0]).rename(folder / "moved")
    return folder


@pytest.mark.parametrize("what", DAMAGES)
def test_62_a_damaged_directory_is_refused(what: str, tmp_path: Path, capfd: Capture) -> None:
    """Shards and other files that cannot be read, or are of another format, give no output."""
    damage, want = DAMAGES[what]
    folder = sharded(tmp_path / "in")
    damage(folder)

    refused(capfd, tmp_path, want, *prune(folder, "-o", tmp_path / "out"))


def test_62_names_of_shards_are_escaped(tmp_path: Path, capfd: Capture) -> None:
    """Control characters in file names are escaped in messages."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (1, 2):
        name = f"a\x1b[2J\n-{number:05}-of-00002.safetensors"
        (folder / name).write_bytes(container({"a.weight": entry((9, 9))}, W))

    refused(capfd, tmp_path, "does not match the", *prune(folder, "-o", tmp_path / "out"))
