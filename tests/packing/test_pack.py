"""pack and unpack: torch loads what was packed, never maps compressed bytes, and unpack restores the input."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import zipfile
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support import DEMO
from support.profiles import examples
from support.torch_files import raw, rezip, saved
from torch import nn

from prunecli import L1, CheckpointError, OutputError, UsageError, convert, open_checkpoint, pack, prune, unpack
from prunecli.formats.output_names import default_output
from prunecli.packing.pack import unpacked_output

if TYPE_CHECKING:
    from pathlib import Path

torch.manual_seed(0)
HALF = torch.where(torch.rand(300, 100) < 0.5, 0, torch.randn(300, 100))


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    """Return a checkpoint of two tensors with zeros, one without, and other values."""
    value = {
        "epoch": 3,
        "model": {
            "a.weight": HALF,
            "b.weight": HALF.half(),
            "noise": torch.randint(2**62, (500,)),
            "c.weight": HALF.t(),
        },
    }
    torch.save(value, tmp_path / "m.pth")
    return tmp_path / "m.pth"


def load(path: Path, **settings: object) -> dict[str, torch.Tensor]:
    """Return what torch loads."""
    loaded: dict[str, torch.Tensor] = torch.load(path, **settings)["model"]  # type: ignore[arg-type]
    return loaded


@pytest.mark.parametrize("settings", [{}, {"weights_only": True}, {"weights_only": False}], ids=str)
def test_torch_loads_a_packed_file(ckpt: Path, settings: dict[str, bool]) -> None:
    """torch.load gives the same tensors, in every mode that does not map the file, and the file is smaller."""
    result = pack(ckpt)

    packed = ckpt.with_name("m.packed.pth")
    assert result.output_bytes == packed.stat().st_size < 0.8 * result.input_bytes
    assert (result.compressed, result.storages) == (3, 3) or result.compressed == result.storages - 1
    actual, expected = load(packed, **settings), load(ckpt)
    assert list(expected) == list(actual)
    assert [raw(tensor) for tensor in expected.values()] == [raw(tensor) for tensor in actual.values()]


def test_torch_maps_no_packed_file(ckpt: Path) -> None:
    """torch.load(mmap=True) raises instead of returning compressed bytes."""
    pack(ckpt, ckpt.with_name("p.pth"))

    with pytest.raises(RuntimeError, match="not resizable"):
        torch.load(ckpt.with_name("p.pth"), mmap=True)


def test_unpack_restores_every_byte(ckpt: Path) -> None:
    """The unpacked file is the one that was packed, with its padding, descriptors and order."""
    pack(ckpt, ckpt.with_name("p.packed.pth"))
    result = unpack(ckpt.with_name("p.packed.pth"))

    assert ckpt.read_bytes() == ckpt.with_name("p.pth").read_bytes()
    assert result.restored is True


def test_the_result_does_not_depend_on_the_threads(tmp_path: Path) -> None:
    """Blocks are cut at fixed places, so one thread writes what three write; all levels load."""
    big = torch.where(torch.rand(900, 1000) < 0.9, 0, torch.randn(900, 1000))
    torch.save({"w": big}, tmp_path / "m.pth")
    for level, threads in ((6, 1), (6, 3), (1, 2), (9, 2)):
        pack(tmp_path / "m.pth", tmp_path / f"{level}{threads}", level=level, threads=threads)
        assert torch.equal(big, torch.load(tmp_path / f"{level}{threads}")["w"])

    assert (tmp_path / "61").read_bytes() == (tmp_path / "63").read_bytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_packed(tmp_path: Path) -> None:
    """torch.jit.load reads a packed archive, whose code stays as it was, and unpack restores it."""
    layers = nn.Sequential(nn.Linear(80, 80), nn.Linear(80, 80)).requires_grad_(requires_grad=False)
    layers[0].weight[:, 3:] = 0
    torch.jit.script(layers).save(tmp_path / "m.pt")  # type: ignore[no-untyped-call]

    pack(tmp_path / "m.pt")
    unpack(tmp_path / "m.packed.pt", tmp_path / "u.pt")

    x = torch.randn(4, 80)
    assert torch.equal(layers(x), torch.jit.load(tmp_path / "m.packed.pt")(x))  # type: ignore[no-untyped-call]
    assert (tmp_path / "m.pt").read_bytes() == (tmp_path / "u.pt").read_bytes()


def test_other_programs_read_a_packed_file(ckpt: Path) -> None:
    """Python's zipfile and unzip find no damage in it."""
    pack(ckpt, ckpt.with_name("p.pth"))

    with zipfile.ZipFile(ckpt.with_name("p.pth")) as archive:
        assert archive.testzip() is None
    if shutil.which("unzip"):
        subprocess.run(["unzip", "-tqq", ckpt.with_name("p.pth")], check=True)


TENSORS = st.tuples(
    st.sampled_from([torch.float16, torch.float32, torch.int64]),
    st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    st.integers(1, 9000),
    st.floats(0, 1),  # the part of the storage that the tensor uses
)


@settings(max_examples=examples(40))
@example([(torch.float32, 1.0, 9000, 0.001), (torch.float32, 0.0, 50, 1.0)])
@example([(torch.float32, 0.9, 20, 1.0)] * 30 + [(torch.float32, 0.9, 400, 1.0)])
@given(st.lists(TENSORS, min_size=1, max_size=12))
def test_a_packed_file_is_never_mapped_as_garbage(
    tmp_path_factory: pytest.TempPathFactory, tensors: list[tuple[torch.dtype, float, int, float]]
) -> None:
    """Whatever is packed loads with torch.load, raises with mmap=True, and is restored; the rest is refused."""
    folder = tmp_path_factory.getbasetemp()
    made = torch.Generator().manual_seed(len(tensors))
    value = {}
    for index, (dtype, zeros, numel, part) in enumerate(tensors):
        numbers = torch.randn(numel, generator=made) * 1000
        storage = torch.where(torch.rand(numel, generator=made) < zeros, 0, numbers).to(dtype)
        value[f"t{index}.weight"] = storage[: max(1, int(part * numel))]
    (folder / "m.pth").write_bytes(saved(value))
    try:
        pack(folder / "m.pth", folder / "p.pth", force=True)
    except CheckpointError:
        assume(False)

    loaded = torch.load(folder / "p.pth")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in value.items())
    with pytest.raises(RuntimeError, match="not resizable"):
        torch.load(folder / "p.pth", mmap=True)
    unpack(folder / "p.pth", folder / "u.pth", force=True)
    assert (folder / "m.pth").read_bytes() == (folder / "u.pth").read_bytes()


@pytest.mark.parametrize("calculate", [True, False])
def test_calculated_places_are_not_used(ckpt: Path, calculate: bool) -> None:  # noqa: FBT001
    """Torch can calculate the places of records in files of its own; it does not do so for a packed file."""
    pack(ckpt, ckpt.with_name("p.pth"))
    changes = {"load.calculate_storage_offsets": calculate, "load.mmap": True}
    with torch.utils.serialization.config.patch(changes), pytest.raises(RuntimeError, match="not resizable"):
        torch.load(ckpt.with_name("p.pth"))


# --- what is refused


def test_a_small_part_of_a_large_storage_is_not_safe(tmp_path: Path) -> None:
    """A tensor that uses the start of its storage would be mapped from compressed bytes, so the file is refused."""
    torch.save({"w": torch.zeros(100_000)[:10]}, tmp_path / "m.pth")

    with pytest.raises(CheckpointError, match="too small to be packed safely"):
        pack(tmp_path / "m.pth")

    assert not (tmp_path / "m.packed.pth").exists()


def test_a_file_that_does_not_shrink_is_refused(tmp_path: Path) -> None:
    """Noise is not packed, and no file is left."""
    torch.save({"w": torch.randint(2**62, (9999,)) * 2 + 1}, tmp_path / "m.pth")

    with pytest.raises(CheckpointError, match=r"becomes? smaller"):
        pack(tmp_path / "m.pth")

    assert [path.name for path in tmp_path.iterdir()] == ["m.pth"]


def test_other_formats_are_refused(tmp_path: Path, ckpt: Path) -> None:
    """safetensors, legacy files, directories, packed and unpacked files are refused with what to do."""
    (tmp_path / "old.pth").write_bytes(saved({"w": torch.zeros(4000)}, legacy=True))
    pack(ckpt)
    with pytest.raises(CheckpointError) as raised:
        pack(tmp_path / "old.pth")
    paths = str(tmp_path / "old.pth"), str(tmp_path / "old.zip.pth")
    assert raised.value.hint == f"prunecli.convert({paths[0]!r}, {paths[1]!r})"
    convert(*paths)
    pack(paths[1], tmp_path / "converted.pth")
    convert(ckpt, tmp_path / "shards", format="torch", max_shard_size="150KB", drop_rest=True)
    convert(ckpt, tmp_path / "folder", drop_rest=True)
    for path, problem in (
        (tmp_path / "shards", "has shards: one file"),
        (next((tmp_path / "shards").glob("*.json")), "has shards: one file"),
        (tmp_path / "folder", "is safetensors: only zip files"),
        (DEMO / "digits_conv.safetensors", "is safetensors: only zip files"),
        (tmp_path / "old.pth", "is torch legacy: only zip files"),
        (tmp_path / "m.packed.pth", "is compressed already"),
    ):
        with pytest.raises(CheckpointError, match=problem):
            pack(path, tmp_path / "out")
    with pytest.raises(CheckpointError, match="is not packed"):
        unpack(ckpt, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_arguments_are_refused(ckpt: Path) -> None:
    """A level outside 1 to 9, a suffix of another format, an existing output and two outputs are refused."""
    with pytest.raises(UsageError, match="1 to 9, not 10"):
        pack(ckpt, level=10)
    with pytest.raises(OutputError, match="would not be what its suffix says"):
        pack(ckpt, ckpt.with_name("out.safetensors"))
    pack(ckpt)
    with pytest.raises(OutputError, match="exists"):
        pack(ckpt)
    with pytest.raises(OutputError, match="exists"):
        unpack(ckpt.with_name("m.packed.pth"))
    with pytest.raises(UsageError, match="in-place"):
        pack(ckpt, ckpt.with_name("x"), in_place=True)


def test_in_place_and_back(ckpt: Path) -> None:
    """A file that is packed and unpacked in place is the file that it was."""
    before = ckpt.read_bytes()

    pack(ckpt, in_place=True)
    size = ckpt.stat().st_size
    unpack(ckpt, in_place=True)

    assert size < len(before)
    assert before == ckpt.read_bytes()


def test_a_dry_run_writes_nothing(ckpt: Path) -> None:
    """A dry run has the same sizes and leaves the folder as it is."""
    planned = pack(ckpt, dry_run=True)

    assert [path.name for path in ckpt.parent.iterdir()] == ["m.pth"]
    assert planned.output_bytes == pack(ckpt).output_bytes


def test_the_result_has_the_path_as_it_is(ckpt: Path) -> None:
    """Messages escape a name, and JSON has it verbatim."""
    path = ckpt.rename(ckpt.with_name("a\x1b[2J.pth"))

    for result in (pack(path, dry_run=True), unpack(pack(path).output_path or "", dry_run=True)):
        assert json.loads(result.to_json())["input_path"].startswith(str(path.with_suffix("")))


def test_default_names() -> None:
    """`.packed` comes before the suffix, and goes with unpack."""
    packed = [default_output(name, "packed").name for name in ("a.pth", "a.pth.tar")]
    unpacked = [unpacked_output(name).name for name in ("a.packed.pth", "a.packed.pth.tar", "a.pth", ".packed.pth")]

    assert packed == ["a.packed.pth", "a.packed.pth.tar"]
    assert unpacked == ["a.pth", "a.pth.tar", "a.unpacked.pth", ".packed.unpacked.pth"]


# --- files of other programs


def test_a_zip_of_another_program_is_unpacked(tmp_path: Path) -> None:
    """A file that was zipped with compression is written uncompressed, in a form that torch maps."""
    (tmp_path / "m.pth").write_bytes(rezip(saved({"w": HALF, "v": HALF.half()}), list, zipfile.ZIP_DEFLATED))

    result = unpack(tmp_path / "m.pth")

    loaded = torch.load(tmp_path / "m.unpacked.pth", mmap=True)
    assert (torch.equal(HALF, loaded["w"]), torch.equal(HALF.half(), loaded["v"])) == (True, True)
    assert result.restored is False


def test_pruning_a_packed_file_is_pruning_the_file(ckpt: Path) -> None:
    """A run on a packed file writes, byte for byte, what it writes from the file that was packed."""
    pack(ckpt)
    outputs = []
    for name in ("m.pth", "m.packed.pth"):
        report = prune(ckpt.with_name(name), L1(amount=0.7), output=ckpt.with_name(f"out.{name}"), reports=())
        outputs.append(ckpt.with_name(f"out.{name}").read_bytes())
        assert report.input_bytes == ckpt.with_name(name).stat().st_size

    assert outputs[0] == outputs[1]
    assert "its weights are compressed; a new file has them uncompressed" in report.facts


def test_a_packed_file_lists_as_the_file(ckpt: Path) -> None:
    """open_checkpoint gives the tensors of the file that was packed, at the same places."""
    pack(ckpt)

    plain, packed = (open_checkpoint(ckpt.with_name(name)) for name in ("m.pth", "m.packed.pth"))

    assert plain.tensors == packed.tensors
    assert plain.files[0].checksums == packed.files[0].checksums
    assert (plain.files[0].size, packed.files[0].size) == (ckpt.stat().st_size,) * 2
    assert io.BytesIO(ckpt.read_bytes()).seek(0, 2) == packed.files[0].size
