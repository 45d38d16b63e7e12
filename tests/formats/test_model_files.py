"""A directory is one model by an index, numbered names or its only checkpoint file; else it is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from formats.test_shards import write_index, write_shards
from support.opening import refused, weights

from prunecli.api import prune
from prunecli.cli.main import main
from prunecli.formats.open import open_checkpoint
from prunecli.strategies.unstructured import L1

if TYPE_CHECKING:
    from pathlib import Path

SET = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
BIN_SET = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


def folder_of(tmp_path: Path, *names: str) -> Path:
    """Write a directory whose checkpoint files have different tensors."""
    return write_shards(tmp_path / "d", {name: weights(i) for i, name in enumerate(names)})


def indexed(folder: Path, index: str, *shards: str) -> Path:
    """Write `shards`, with different tensors, and their index."""
    return write_shards(folder, {name: weights(50 + i) for i, name in enumerate(shards)}, index)


def names_of(folder: Path) -> list[str]:
    """Return the names of the files that are the model of `folder`."""
    return [file.path.name for file in open_checkpoint(folder).files]


@pytest.mark.parametrize(
    ("others", "model"),
    [
        ((), ["m.pth"]),
        (("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "scaler.pt"), ["m.pth"]),
        (("optimizer.bin", "scheduler.bin", "sampler_1.bin", "random_states_0.pt"), ["m.pth"]),
        (("._m.safetensors",), ["m.pth"]),
        (SET, list(SET)),
        ((*SET, "a.safetensors", "pytorch_model.bin"), list(SET)),
        (BIN_SET, list(BIN_SET)),
        ((*SET, *BIN_SET), list(SET)),
        (("x-00001-of-000002.safetensors", "x-00002-of-000002.safetensors"), None),
    ],
    ids=str,
)
def test_numbered_files_or_the_only_file_are_the_model(
    tmp_path: Path, others: tuple[str, ...], model: list[str] | None
) -> None:
    """A complete set wins over single files, and safetensors over torch; a trainer's own files are no models."""
    folder = folder_of(tmp_path, "m.pth", *others)
    (folder / "raw.bin").write_bytes(b"\1\2\3")

    assert (list(others) if model is None else model) == names_of(folder)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin", ".pt", ".ckpt"])
def test_several_files_are_refused_and_listed(tmp_path: Path, suffix: str) -> None:
    """Unrelated files of any format are not one model; the error lists some of them and counts the rest."""
    names = [f"adapter{i}{suffix}" for i in range(8)]
    folder = folder_of(tmp_path, *names)

    error = refused(folder)

    assert f"{folder} has 8 checkpoint files, and nothing says that they are one model: " in str(error)
    assert str(error).endswith(f"{', '.join(names[:5])} and 3 more")
    assert f"name the one you mean: '{folder / names[0]}'" == error.hint


VARIANTS = [
    ("model.safetensors", "model.fp16.safetensors"),
    ("model.safetensors", "pytorch_model.bin"),
    ("model.safetensors", "adapter_model.safetensors"),
    ("model.safetensors", *BIN_SET),
    ("model.pt", "model.pth"),
    ("pytorch_model.bin", "pytorch_model.fp16.bin"),
    (*SET, "b-00001-of-00001.safetensors"),
    ("consolidated.safetensors", "model.safetensors"),
]


@pytest.mark.parametrize("names", VARIANTS, ids=str)
def test_variants_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Variants of a model next to each other are refused, whichever loaders prefer."""
    error = refused(folder_of(tmp_path, *names))

    assert f"has {len(names)} checkpoint files" in str(error)
    assert "name the one you mean" in (error.hint or "")


def test_the_hint_names_the_plain_safetensors_file_first(tmp_path: Path) -> None:
    """Of several variants the hint proposes the safetensors file with the shortest name."""
    folder = folder_of(tmp_path, "a.bin", "model.fp16.safetensors", "model.safetensors")

    assert f"name the one you mean: '{folder / 'model.safetensors'}'" == refused(folder).hint


@pytest.mark.parametrize("typed", ["d", "d/", "./d"])
@pytest.mark.parametrize("option", [["-o", "out"], []], ids=str)
def test_the_hint_is_the_whole_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: str,
    option: list[str],
) -> None:
    """On the command line the hint repeats the command with one file in place of the directory."""
    folder_of(tmp_path, "a b.safetensors", "other.safetensors")
    monkeypatch.chdir(tmp_path)

    assert main(["l1", typed, "--amount", "50%", *option]) == 2

    words = " ".join(["--amount 50%", *option])
    assert f"hint: name the one you mean: prune l1 'd/a b.safetensors' {words}\n" in capsys.readouterr().err


@pytest.mark.parametrize("names", [SET, BIN_SET], ids=str)
def test_an_index_wins_over_other_files(tmp_path: Path, names: tuple[str, ...]) -> None:
    """The shards of the only index are the model; the note says what else is copied."""
    index = "model.safetensors.index.json" if names is SET else "pytorch_model.bin.index.json"
    folder = indexed(folder_of(tmp_path, "consolidated.00.pth", "old.bin"), index, *names)

    checkpoint = open_checkpoint(folder)

    assert list(names) == [file.path.name for file in checkpoint.files]
    assert checkpoint.notes == (
        f"the model is that of {index}",
        "copied unchanged, though they may hold weights: consolidated.00.pth, old.bin",
    )


def test_a_set_that_wins_over_other_files_is_named(tmp_path: Path) -> None:
    """Without an index the note names the first file of the set; a trainer's own files need no such note."""
    alone, others = folder_of(tmp_path, *SET, "optimizer.pt"), folder_of(tmp_path / "e", *SET, "old.bin")

    assert not any("the model is" in note for note in open_checkpoint(alone).notes)
    assert f"the model is that of {SET[0]} and 1 more" in open_checkpoint(others).notes


def test_a_safetensors_index_wins_over_an_index_of_torch_files(tmp_path: Path) -> None:
    """Of an index of each format, that of the safetensors files counts, as in loaders."""
    folder = indexed(tmp_path / "d", "model.safetensors.index.json", *SET)
    indexed(folder, "pytorch_model.bin.index.json", *BIN_SET)
    for other in ("tf_model.h5.index.json", "flax_model.msgpack.index.json"):
        (folder / other).write_text("{}")

    assert list(SET) == names_of(folder)


def test_an_index_of_torch_files_next_to_safetensors_files_is_refused(tmp_path: Path) -> None:
    """Loaders take the safetensors file then, and the index does not have it."""
    folder = indexed(folder_of(tmp_path, "model.safetensors"), "pytorch_model.bin.index.json", *BIN_SET)

    assert "an index of torch files and, not in it, safetensors files" in str(refused(folder))
    assert list(BIN_SET) == names_of(folder / "pytorch_model.bin.index.json")


@pytest.mark.parametrize("second", ["model.fp16.safetensors.index.json", "model.safetensors.index.fp16.json"])
def test_two_indexes_of_safetensors_files_are_refused(tmp_path: Path, second: str) -> None:
    """Two indexes are two models; each of them can be named, and decides."""
    folder = indexed(tmp_path / "d", "model.safetensors.index.json", *SET)
    indexed(folder, second, "model.fp16-00001-of-00001.safetensors")

    assert "has 2 indexes: " in str(refused(folder))
    assert list(SET) == names_of(folder / "model.safetensors.index.json")
    assert names_of(folder / second) == ["model.fp16-00001-of-00001.safetensors"]


def test_a_named_index_decides_among_several_models(tmp_path: Path) -> None:
    """In a folder of several models the named index is the model; the others are copied."""
    folder = folder_of(tmp_path, "a.safetensors", "b.safetensors")
    write_index(folder / "a.index.json", dict.fromkeys(weights(0), "a.safetensors"))

    checkpoint = open_checkpoint(folder / "a.index.json")

    assert [file.path.name for file in checkpoint.files] == ["a.safetensors"]
    assert "copied unchanged, though they may hold weights: b.safetensors" in checkpoint.notes


def test_parts_of_tensors_are_refused(tmp_path: Path) -> None:
    """Meta's files hold a part of every tensor each; the error says so, and that a file can be pruned alone."""
    folder = folder_of(tmp_path, *(f"consolidated.0{i}.pth" for i in range(3)))

    error = refused(folder)

    assert "has 3 files that each hold a part of every tensor" in str(error)
    assert f"each file can be pruned alone: '{folder / 'consolidated.00.pth'}'" == error.hint


@pytest.mark.parametrize("count", [2, 3, 99999])
def test_a_missing_shard_is_refused_by_name(tmp_path: Path, count: int) -> None:
    """Numbered shards must be complete, also without an index."""
    safetensors = write_shards(tmp_path / "s", {f"m-00001-of-{count:05}.safetensors": weights()})
    bins = write_shards(tmp_path / "t", {f"m-00002-of-{count:05}.bin": weights()})

    assert f"lacks the shard m-00002-of-{count:05}.safetensors" in str(refused(safetensors))
    assert f"lacks the shard m-00001-of-{count:05}.bin" in str(refused(bins))


def test_a_shard_with_a_number_that_is_too_large_is_refused(tmp_path: Path) -> None:
    """A file numbered 3 of 2 is of another set."""
    folder = folder_of(tmp_path, *SET, "model-00003-of-00002.safetensors")

    assert "model-00003-of-00002.safetensors is not one of the shards 1 to 2" in str(refused(folder))


def test_the_same_name_in_two_shards_is_refused(tmp_path: Path) -> None:
    """If two shards have a tensor of the same name, the error asks for one of the files."""
    folder = write_shards(tmp_path / "d", dict.fromkeys(SET, weights()))

    error = refused(folder)

    assert "tensor 'l0.bias' is in " in str(error)
    assert f"name one of the files: {folder / SET[0]}" == error.hint


# --- outputs of this tool


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin", ".pth.tar"])
def test_outputs_of_this_tool_are_no_models_and_not_copied(tmp_path: Path, suffix: str) -> None:
    """A pruned file and its report next to the model are passed over; the note says that they are left out."""
    folder = folder_of(tmp_path, "m.pth" if suffix == ".pth.tar" else f"m{suffix}")
    write_shards(folder, {"x.pth": weights(7)})
    (folder / "x.pth").rename(folder / f"x{suffix}")
    prune(folder / f"x{suffix}", L1(0.5))
    (folder / f"x{suffix}").unlink()
    (folder / f"m.baked{suffix}").write_bytes(b"x")
    (folder / "eval.report.json").write_text('{"accuracy": 1}')

    checkpoint = open_checkpoint(folder)

    results = f"m.baked{suffix}, x.pruned{suffix}, x.pruned{suffix}.report.json"
    assert len(checkpoint.files) == 1
    assert checkpoint.notes[-1:] == (f"left out, as results of this tool: {results}",)
    assert [str(path) for path in checkpoint.other_files] == ["eval.report.json"]


def test_a_folder_that_this_tool_wrote_is_not_copied(tmp_path: Path) -> None:
    """A pruned folder is left out only if the folder that it comes from is there too."""
    folder = folder_of(tmp_path, "m.safetensors")
    for name in ("sub", "sub.pruned", "alone.pruned"):
        (folder / name).mkdir()
        (folder / name / "x.json").write_text("{}")

    checkpoint = open_checkpoint(folder)

    assert [str(path) for path in checkpoint.other_files] == ["alone.pruned/x.json", "sub/x.json"]
    assert "left out, as results of this tool: sub.pruned" in checkpoint.notes


def test_a_directory_with_only_an_output_of_this_tool_opens(tmp_path: Path) -> None:
    """A pruned file without its input is a model like any other."""
    assert names_of(folder_of(tmp_path, "m.pruned.safetensors")) == ["m.pruned.safetensors"]


def test_a_pruned_directory_can_be_pruned_again(tmp_path: Path) -> None:
    """An output directory has no report in it, so the next run finds the same model."""
    folder = folder_of(tmp_path, *SET)

    prune(folder, L1(0.5))
    prune(tmp_path / "d.pruned", L1(0.5))

    assert list(SET) == names_of(tmp_path / "d.pruned.pruned")
