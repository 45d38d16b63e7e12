"""TorchScript archives: named as their state_dict names them, pruned in place, and loaded by torch.jit."""

from __future__ import annotations

import io
import subprocess
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support import bits, zeroed
from torch import nn

from prunecli.api import prune
from prunecli.errors import CheckpointError, SelectionError
from prunecli.formats.open import open_checkpoint
from prunecli.formats.zip.directory import read_records
from prunecli.selection.select import Selector, select
from prunecli.strategies.unstructured import Threshold

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated.*:DeprecationWarning")


class Scripted(nn.Module):
    """A module with every kind of attribute: parameters, buffers, tied and shared parts, and a plain tensor."""

    def __init__(self) -> None:
        """Make the parts."""
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.fc = nn.Linear(8, 6)
        self.tied = nn.Linear(8, 6, bias=False)
        self.tied.weight = self.fc.weight
        self.again = self.conv
        self.register_buffer("steps", torch.arange(3))
        self.pos_weight = torch.ones(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Use the parts."""
        kernels: torch.Tensor = self.conv(torch.ones(1, 3, 3, 3)).sum() + self.again(torch.ones(1, 3, 3, 3)).sum()
        mixed: torch.Tensor = self.fc(x) + self.tied(x)
        return mixed + self.pos_weight.sum() + kernels


def load(path: Path) -> Any:  # noqa: ANN401 - torch.jit has no types
    """Load an archive as its users do."""
    return torch.jit.load(path)  # type: ignore[no-untyped-call]


def state(path: Path) -> dict[str, torch.Tensor]:
    """Return the state_dict of an archive's module."""
    found: dict[str, torch.Tensor] = load(path).state_dict()
    return found


@pytest.fixture
def scripted(tmp_path: Path) -> Path:
    """Save a module that was scripted."""
    torch.manual_seed(0)
    torch.jit.save(torch.jit.script(Scripted().eval()), tmp_path / "m.pt")
    return tmp_path / "m.pt"


@pytest.fixture(params=["script", "trace"])
def archive(request: pytest.FixtureRequest, scripted: Path) -> Path:
    """Save a module that was scripted or traced."""
    if request.param == "trace":
        torch.manual_seed(0)
        module = torch.jit.trace(Scripted().eval(), torch.ones(1, 8))  # type: ignore[no-untyped-call]
        module.save(scripted)
    return scripted


def test_names_are_those_of_the_state_dict(archive: Path) -> None:
    """The tensors are those of the module's own state_dict, under its names, and no other attribute."""
    found = open_checkpoint(archive)

    assert set(state(archive)) == {t.name for t in found.tensors}
    assert found.format == "TorchScript"


def test_pruned_weights_are_what_torch_jit_loads(archive: Path, tmp_path: Path) -> None:
    """torch.jit.load sees the pruned weights, ties hold, and everything else is as it was."""
    before = state(archive)

    prune(archive, Threshold(0.15), output=tmp_path / "out.pt", reports=())

    module = load(tmp_path / "out.pt")
    after = module.state_dict()
    for name, t in before.items():
        chosen = name.endswith("weight") and t.dim() > 1
        expected = zeroed(t, t.abs() > 0.15) if chosen else t
        assert torch.equal(bits(expected), bits(after[name])), name
    assert after["tied.weight"].data_ptr() == after["fc.weight"].data_ptr()
    assert torch.isfinite(module(torch.ones(1, 8))).all()


def test_the_archive_stays_a_sound_zip(archive: Path, tmp_path: Path) -> None:
    """Every checksum fits, also by unzip, and code and constants are as they were."""
    prune(archive, Threshold(0.15), output=tmp_path / "out.pt", reports=())

    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(tmp_path / "out.pt") as new:
        assert new.testzip() is None
        assert old.namelist() == new.namelist()
        same = [n for n in old.namelist() if old.read(n) == new.read(n)]
    assert all("/data/" in n for n in set(old.namelist()) - set(same))
    subprocess.run(["unzip", "-tqq", tmp_path / "out.pt"], check=True)


def test_every_other_byte_is_the_inputs(archive: Path, tmp_path: Path) -> None:
    """Bytes differ only inside pruned records and in the fields that hold their checksums."""
    prune(archive, Threshold(0.2), output=tmp_path / "out.pt", reports=())

    old, new = archive.read_bytes(), (tmp_path / "out.pt").read_bytes()
    with archive.open("rb") as file:
        records = [r for r in read_records(file, "x").values() if "/data/" in r.name and ".json" not in r.name]
    free = [(r.span.start, r.span.end) for r in records]
    free += [(place, place + 4) for r in records for place in r.places]
    assert len(old) == len(new)
    assert all(any(a <= i < b for a, b in free) for i in range(len(old)) if old[i] != new[i])


def test_a_frozen_module_has_no_named_weights(tmp_path: Path) -> None:
    """The weights of a frozen module are nameless constants: refused, with what to do."""
    frozen = torch.jit.freeze(torch.jit.script(Scripted().eval()))
    frozen.save(tmp_path / "f.pt")

    with pytest.raises(CheckpointError, match="without named weights") as caught:
        open_checkpoint(tmp_path / "f.pt")

    assert "torch.jit.freeze" in str(caught.value.hint)


def rezipped(path: Path, edit: dict[str, bytes]) -> Path:
    """Write the archive again with another zip writer and with other contents for some of its code."""
    data = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            how = zipfile.ZIP_DEFLATED if "/code/" in info.filename else zipfile.ZIP_STORED
            name = info.filename.partition("/")[2]
            new.writestr(info.filename, edit.get(name, old.read(info)), compress_type=how)
    return path


@pytest.mark.parametrize(
    "code",
    [b"", b"class N(Module):\n  __parameters__ = [", b"\xff" * 100, b"\0" * (1 << 23)],
    ids=["none", "cut", "no text", "bomb"],
)
def test_attributes_of_unknown_classes_are_all_listed(scripted: Path, code: bytes) -> None:
    """Where a class's code says nothing, every tensor of the object is listed; nothing is lost."""
    with zipfile.ZipFile(scripted) as old:
        names = [n.partition("/")[2] for n in old.namelist() if n.endswith(".py")]
    listed = {*state(scripted), "pos_weight"}

    found = open_checkpoint(rezipped(scripted, dict.fromkeys(names, code)))

    # without its class a shared module is like any object, and listed under its first name
    assert {n for n in listed if not n.startswith("again.")} <= {t.name for t in found.tensors}


def test_code_whose_deflate_stream_is_damaged_is_no_error(scripted: Path) -> None:
    """Code is a help, never a need: a record that cannot be inflated leaves its classes unknown."""
    data = bytearray(scripted.read_bytes())
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as old:
        info = next(i for i in old.infolist() if i.filename.endswith(".py"))
        start = info.header_offset + 30 + int.from_bytes(data[info.header_offset + 28 :][:2], "little")
        start += len(info.filename)
    data[start : start + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(zlib.error):
        zlib.decompressobj(-15).decompress(bytes(data[start : start + info.compress_size]))
    scripted.write_bytes(data)

    assert "fc.weight" in {t.name for t in open_checkpoint(scripted).tensors}


def test_a_module_without_weights_selects_nothing(tmp_path: Path) -> None:
    """A module that has only a bias and a buffer is listed, and there is nothing to prune."""
    torch.jit.save(torch.jit.script(nn.BatchNorm1d(3)), tmp_path / "b.pt")

    with pytest.raises(SelectionError, match="no tensor to prune"):
        select(open_checkpoint(tmp_path / "b.pt"), Selector())


def test_a_part_is_found_by_its_key(archive: Path) -> None:
    """--key names a submodule, whose tensors are then named from there."""
    found = open_checkpoint(archive, key="fc")

    inside = [t.name for t in found.tensors if t.unprunable_reason is None]
    assert inside == ["weight", "bias"]
