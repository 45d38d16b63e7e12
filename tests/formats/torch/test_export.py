"""torch.export's .pt2: listed from its table, pruned in place, and loaded by torch.export."""

from __future__ import annotations

import io
import json
import subprocess
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support import bits, zeroed
from torch import nn

from prunecli.api import prune
from prunecli.errors import CheckpointError
from prunecli.formats.open import open_checkpoint
from prunecli.formats.zip.directory import read_records
from prunecli.strategies.unstructured import Threshold

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Table = dict[str, Any]

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:No complete tensor:UserWarning"
)


class Model(nn.Module):
    """A model with tied weights, a view of a larger storage, a buffer, and a constant."""

    def __init__(self) -> None:
        """Make the parts."""
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(8, 6)
        self.tied = nn.Linear(8, 6, bias=False)
        self.tied.weight = self.fc.weight
        self.turned = nn.Linear(8, 6, bias=False)
        self.turned.weight = nn.Parameter(torch.randn(8, 6).T)
        self.brain = nn.Parameter(torch.randn(6, 8).bfloat16())
        self.register_buffer("steps", torch.arange(3))
        self.constant_weight = torch.randn(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Use the parts."""
        mixed: torch.Tensor = self.fc(x) + self.tied(x) + self.turned(x) + x @ self.brain.float().T
        total: torch.Tensor = mixed + self.constant_weight.sum() + self.conv(torch.ones(1, 3, 3, 3)).sum()
        return total


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export and save the model once."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("exported") / "m.pt2"
    torch.export.save(torch.export.export(Model().eval(), (torch.ones(1, 8),)), path)
    return path


def edited(path: Path, output: Path, edit: Callable[[Table], object]) -> Path:
    """Write the archive again, every record stored, with its table of weights edited."""
    data = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(output, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("_weights_config.json"):
                table = json.loads(content)
                edit(table["config"])
                content = json.dumps(table).encode()
            new.writestr(name, content)
    return output


def test_the_tensors_are_the_state_dict(exported: Path) -> None:
    """Names, dtypes, shapes and strides are those of the program's state_dict; constants are none of them."""
    state = torch.export.load(exported).state_dict

    found = open_checkpoint(exported)

    assert {n: (tuple(t.shape), t.stride()) for n, t in state.items()} == {
        t.name: (t.shape, t.strides) for t in found.tensors
    }
    assert {t.name: t.dtype for t in found.tensors}["brain"] == "BF16"
    assert found.format == "torch.export"


def test_pruned_weights_are_what_torch_export_loads(exported: Path, tmp_path: Path) -> None:
    """torch.export.load sees the pruned weights, ties hold, and everything else is as it was."""
    before = torch.export.load(exported)

    prune(exported, Threshold(0.3), output=tmp_path / "out.pt2", reports=(), include=("*weight", "brain"))

    after = torch.export.load(tmp_path / "out.pt2")
    for name, t in before.state_dict.items():
        chosen = name == "brain" or name.endswith("weight")
        expected = zeroed(t, t.abs() > 0.3) if chosen else t
        assert torch.equal(bits(expected), bits(after.state_dict[name])), name
    assert torch.equal(before.constants["constant_weight"], after.constants["constant_weight"])
    assert torch.isfinite(after.module()(torch.ones(1, 8))).all()


def test_the_archive_stays_a_sound_zip(exported: Path, tmp_path: Path) -> None:
    """Every checksum fits, also by unzip, and only records of weights differ."""
    prune(exported, Threshold(0.3), output=tmp_path / "out.pt2", reports=())

    with zipfile.ZipFile(exported) as old, zipfile.ZipFile(tmp_path / "out.pt2") as new:
        assert new.testzip() is None
        differ = [n for n in old.namelist() if old.read(n) != new.read(n)]
    assert differ
    assert all("/data/weights/weight_" in n for n in differ)
    subprocess.run(["unzip", "-tqq", tmp_path / "out.pt2"], check=True)


def test_every_other_byte_is_the_inputs(exported: Path, tmp_path: Path) -> None:
    """Bytes differ only inside pruned records and in the fields that hold their checksums."""
    prune(exported, Threshold(0.2), output=tmp_path / "out.pt2", reports=())

    old, new = exported.read_bytes(), (tmp_path / "out.pt2").read_bytes()
    with exported.open("rb") as file:
        records = [r for r in read_records(file, "x").values() if "/data/" in r.name and ".json" not in r.name]
    free = [(r.span.start, r.span.end) for r in records]
    free += [(place, place + 4) for r in records for place in r.places]
    assert len(old) == len(new)
    assert all(any(a <= i < b for a, b in free) for i in range(len(old)) if old[i] != new[i])


def test_pickled_sparse_and_unsaved_weights_are_named(exported: Path, tmp_path: Path) -> None:
    """What is no plain array of numbers is told by its kind, and is no tensor to prune."""

    def edit(table: Table) -> None:
        table["fc.weight"]["use_pickle"] = True
        table["tied.weight"]["tensor_meta"]["layout"] = 1
        table["brain"]["tensor_meta"]["dtype"] = 9

    found = open_checkpoint(edited(exported, tmp_path / "m.pt2", edit))

    assert dict(found.unprunable_entries) == {
        "fc.weight": "tensor of a subclass, pickled on its own",
        "tied.weight": "sparse tensor",
        "brain": "tensor of an unknown dtype",
    }


def test_programs_in_one_file_are_told_apart(exported: Path, tmp_path: Path) -> None:
    """Where a file holds several programs, each name begins with its program's."""
    with zipfile.ZipFile(exported) as old, zipfile.ZipFile(tmp_path / "two.pt2", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
            if name.endswith("/model_weights_config.json"):
                new.writestr(name.replace("model_", "second_"), old.read(name))

    names = [t.name for t in open_checkpoint(tmp_path / "two.pt2").tensors]

    assert {"model.fc.weight", "second.fc.weight"} <= set(names)


def meta(field: str, value: object) -> Callable[[Table], object]:
    """Return an edit of one field of what the table says of fc.weight."""
    return lambda table: table["fc.weight"]["tensor_meta"].__setitem__(field, value)


DAMAGED: dict[str, tuple[Callable[[Table], object], str]] = {
    "record missing": (lambda t: t["fc.weight"].__setitem__("path_name", "weight_99"), "its record is missing"),
    "record elsewhere": (lambda t: t["fc.weight"].__setitem__("path_name", "../../x"), "its record is missing"),
    "no path": (lambda t: t["fc.weight"].pop("path_name"), "its record is missing"),
    "entry no object": (lambda t: t.__setitem__("fc.weight", 3), "does not describe"),
    "negative size": (meta("sizes", [{"as_int": -6}, {"as_int": 8}]), "negative"),
    "symbolic size": (meta("sizes", [{"as_expr": {"expr_str": "s0"}}, {"as_int": 8}]), "missing"),
    "size true": (meta("sizes", [{"as_int": True}, {"as_int": 8}]), "missing"),
    "sizes no list": (meta("sizes", 3), "sizes or strides are missing"),
    "too large": (meta("sizes", [{"as_int": 600}, {"as_int": 8}]), "its record has 48 elements"),
    "huge": (meta("sizes", [{"as_int": 1 << 62}, {"as_int": 1 << 62}]), "its record has 48 elements"),
    "offset": (meta("storage_offset", {"as_int": 1}), "reaches to element 49"),
    "strides": (meta("strides", [{"as_int": 1}]), "2 sizes and 1 strides"),
    "stride out": (meta("strides", [{"as_int": 80}, {"as_int": 1}]), "its record has 48 elements"),
    "dtype": (meta("dtype", 8), "its record has 24 elements"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_tables_are_refused(exported: Path, tmp_path: Path, name: str) -> None:
    """A table that lies about a record is refused in a sentence that names the weight."""
    edit, message = DAMAGED[name]

    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(edited(exported, tmp_path / "m.pt2", edit))

    assert "fc.weight" in str(caught.value)


@pytest.mark.parametrize(
    ("names", "message", "hint"),
    [
        (["serialized_exported_program.json", "serialized_state_dict.pt", "version"], "before 2.8", "torch.export"),
        (["m/archive_format", "m/data/aotinductor/model/x.so"], "without a table of weights", "compiled from"),
        (["m/archive_format", "other/data/weights/model_weights_config.json"], "not all in one folder", ""),
    ],
    ids=["old", "compiled", "two folders"],
)
def test_other_packages_are_refused_by_name(tmp_path: Path, names: list[str], message: str, hint: str) -> None:
    """An old exported program and a compiled package are named for what they are, with what to do."""
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        for name in names:
            archive.writestr(name, b"{}")

    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path / "m.pt2")

    assert hint in (caught.value.hint or "")


def test_a_table_that_is_no_table_is_refused(exported: Path, tmp_path: Path) -> None:
    """JSON without weights, and a weight described twice, are refused."""
    with zipfile.ZipFile(exported) as old:
        folder = old.namelist()[0].partition("/")[0]
    for text in ("[]", "{}", '{"config": {"a": {}, "a": {}}}', '{"config": {"a": [1]}}', "{"):
        with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
            archive.writestr(f"{folder}/data/weights/model_weights_config.json", text)
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path / "m.pt2")


def test_there_is_no_key_in_a_program(exported: Path) -> None:
    """--key has no meaning here."""
    with pytest.raises(CheckpointError, match="has no key") as caught:
        open_checkpoint(exported, key="x")

    assert caught.value.hint == "leave out key='x'"
