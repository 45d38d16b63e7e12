"""TorchScript archives: listed with the names of the state_dict, pruned in place, and loaded by torch.jit."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support import bits, zeroed
from support.torch_files import assert_only_records_differ
from torch import nn

from prunecli.api import prune
from prunecli.errors import CheckpointError, SelectionError
from prunecli.formats.open import open_checkpoint
from prunecli.selection.select import Selector, select
from prunecli.strategies.thresholds import Threshold

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated.*:DeprecationWarning")


class Scripted(nn.Module):
    """A module with parameters, buffers, tied and shared submodules, and a plain tensor attribute."""

    def __init__(self) -> None:
        """Create the submodules."""
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.fc = nn.Linear(8, 6)
        self.tied = nn.Linear(8, 6, bias=False)
        self.tied.weight = self.fc.weight
        self.again = self.conv
        self.register_buffer("steps", torch.arange(3))
        self.pos_weight = torch.ones(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Use all submodules."""
        kernels: torch.Tensor = self.conv(torch.ones(1, 3, 3, 3)).sum() + self.again(torch.ones(1, 3, 3, 3)).sum()
        mixed: torch.Tensor = self.fc(x) + self.tied(x)
        return mixed + self.pos_weight.sum() + kernels


def load(path: Path) -> Any:  # noqa: ANN401 - torch.jit has no types
    """Load an archive with torch.jit."""
    return torch.jit.load(path)  # type: ignore[no-untyped-call]


def state(path: Path) -> dict[str, torch.Tensor]:
    """Return the state_dict of the module in an archive."""
    weights: dict[str, torch.Tensor] = load(path).state_dict()
    return weights


@pytest.fixture
def scripted(tmp_path: Path) -> Path:
    """Save a scripted module."""
    torch.manual_seed(0)
    torch.jit.save(torch.jit.script(Scripted().eval()), tmp_path / "m.pt")
    return tmp_path / "m.pt"


@pytest.fixture(params=["script", "trace"])
def archive(request: pytest.FixtureRequest, scripted: Path) -> Path:
    """Save a scripted or a traced module."""
    if request.param == "trace":
        torch.manual_seed(0)
        module = torch.jit.trace(Scripted().eval(), torch.ones(1, 8))  # type: ignore[no-untyped-call]
        module.save(scripted)
    return scripted


def test_names_are_those_of_the_state_dict(archive: Path) -> None:
    """The listed tensors have the names of the module's state_dict; no other attribute is listed."""
    found = open_checkpoint(archive)

    assert set(state(archive)) == {t.name for t in found.tensors}
    assert found.format == "TorchScript"


def test_torch_jit_loads_the_pruned_weights(archive: Path, tmp_path: Path) -> None:
    """torch.jit.load returns the pruned weights, still tied, and all other values unchanged."""
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


def test_all_other_bytes_are_unchanged(archive: Path, tmp_path: Path) -> None:
    """Only bytes of pruned records and of their checksums differ, and the output is a valid zip, also for unzip."""
    prune(archive, Threshold(0.2), output=tmp_path / "out.pt", reports=())

    assert_only_records_differ(archive, tmp_path / "out.pt")


def test_a_frozen_module_has_no_named_weights(tmp_path: Path) -> None:
    """A frozen module, whose weights are constants without names, is refused with a hint."""
    frozen = torch.jit.freeze(torch.jit.script(Scripted().eval()))
    frozen.save(tmp_path / "f.pt")

    with pytest.raises(CheckpointError, match="without named weights") as caught:
        open_checkpoint(tmp_path / "f.pt")

    assert "torch.jit.freeze" in str(caught.value.hint)


def rezipped(path: Path, edit: dict[str, bytes]) -> Path:
    """Write the archive again with compressed code, and with other contents for the records in `edit`."""
    data = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            method = zipfile.ZIP_DEFLATED if "/code/" in info.filename else zipfile.ZIP_STORED
            name = info.filename.partition("/")[2]
            new.writestr(info.filename, edit.get(name, old.read(info)), compress_type=method)
    return path


@pytest.mark.parametrize(
    "code",
    [b"", b"class N(Module):\n  __parameters__ = [", b"\xff" * 100, b"\0" * (1 << 23)],
    ids=["none", "cut", "no text", "bomb"],
)
def test_all_attributes_of_unknown_classes_are_listed(scripted: Path, code: bytes) -> None:
    """If the code of a class is missing or unreadable, every tensor attribute is listed."""
    with zipfile.ZipFile(scripted) as old:
        names = [n.partition("/")[2] for n in old.namelist() if n.endswith(".py")]
    listed = {*state(scripted), "pos_weight"}

    found = open_checkpoint(rezipped(scripted, dict.fromkeys(names, code)))

    # A shared module of an unknown class is listed once, under its first name.
    assert {n for n in listed if not n.startswith("again.")} <= {t.name for t in found.tensors}


def test_damaged_code_is_not_an_error(scripted: Path) -> None:
    """If code cannot be decompressed, its classes are unknown, and the tensors are listed."""
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
    """A module with only vectors and buffers is listed, and selects no tensor."""
    torch.jit.save(torch.jit.script(nn.BatchNorm1d(3)), tmp_path / "b.pt")

    with pytest.raises(SelectionError, match="no tensor to prune"):
        select(open_checkpoint(tmp_path / "b.pt"), Selector())


def test_a_key_names_a_submodule(archive: Path) -> None:
    """`key` is the path of a submodule, where the names of its tensors start."""
    found = open_checkpoint(archive, key="fc")

    inside = [t.name for t in found.tensors if t.unprunable_reason is None]
    assert inside == ["weight", "bias"]
