"""Files of torch.export (.pt2): listed from the JSON table, pruned in place, and loaded by torch.export."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support import bits, zeroed
from support.torch_files import Records, assert_only_records_differ, renamed, rezip
from torch import nn

from prunecli.api import prune
from prunecli.errors import CheckpointError
from prunecli.formats.open import open_checkpoint
from prunecli.strategies.thresholds import Threshold

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
        """Create the submodules."""
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
        """Use all submodules."""
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
    """Write the archive again, uncompressed, with an edited table of weights."""

    def change(name: str, content: bytes) -> tuple[str, bytes]:
        if not name.endswith("_weights_config.json"):
            return name, content
        table = json.loads(content)
        edit(table["config"])
        return name, json.dumps(table).encode()

    output.write_bytes(rezip(path.read_bytes(), renamed(change)))
    return output


def test_the_tensors_are_the_state_dict(exported: Path) -> None:
    """Names, shapes and strides are those of the program's state_dict; constants are not listed."""
    state = torch.export.load(exported).state_dict

    found = open_checkpoint(exported)

    assert {n: (tuple(t.shape), t.stride()) for n, t in state.items()} == {
        t.name: (t.shape, t.strides) for t in found.tensors
    }
    assert {t.name: t.dtype for t in found.tensors}["brain"] == "BF16"
    assert found.format == "torch.export"


def test_torch_export_loads_the_pruned_weights(exported: Path, tmp_path: Path) -> None:
    """torch.export.load returns the pruned weights, and all other values unchanged."""
    before = torch.export.load(exported)

    prune(exported, Threshold(0.3), output=tmp_path / "out.pt2", reports=(), include=("*weight", "brain"))

    after = torch.export.load(tmp_path / "out.pt2")
    for name, t in before.state_dict.items():
        chosen = name == "brain" or name.endswith("weight")
        expected = zeroed(t, t.abs() > 0.3) if chosen else t
        assert torch.equal(bits(expected), bits(after.state_dict[name])), name
    assert torch.equal(before.constants["constant_weight"], after.constants["constant_weight"])
    assert torch.isfinite(after.module()(torch.ones(1, 8))).all()


def test_all_other_bytes_are_unchanged(exported: Path, tmp_path: Path) -> None:
    """Only bytes of pruned records and of their checksums differ, and the output is a valid zip, also for unzip."""
    prune(exported, Threshold(0.2), output=tmp_path / "out.pt2", reports=())

    assert_only_records_differ(exported, tmp_path / "out.pt2")


def test_other_kinds_of_weights_are_listed_by_kind(exported: Path, tmp_path: Path) -> None:
    """Pickled and sparse weights, and those of unknown dtype, are unprunable entries."""

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


def test_names_begin_with_the_program(exported: Path, tmp_path: Path) -> None:
    """If a file has several programs, each name begins with the name of its program."""

    def add_second(records: Records) -> Records:
        tables = [(name, content) for name, content in records if name.endswith("/model_weights_config.json")]
        return [*records, *((name.replace("model_", "second_"), content) for name, content in tables)]

    (tmp_path / "two.pt2").write_bytes(rezip(exported.read_bytes(), add_second))

    names = [t.name for t in open_checkpoint(tmp_path / "two.pt2").tensors]

    assert {"model.fc.weight", "second.fc.weight"} <= set(names)


def meta(field: str, value: object) -> Callable[[Table], object]:
    """Return an edit of one field of fc.weight in the table."""
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
    """A wrong entry of the table is refused in an error that names the weight."""
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
def test_other_packages_are_refused_by_kind(tmp_path: Path, names: list[str], message: str, hint: str) -> None:
    """The errors for an old exported program and a compiled package name the kind and the next step."""
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        for name in names:
            archive.writestr(name, b"{}")

    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path / "m.pt2")

    assert hint in (caught.value.hint or "")


def test_a_malformed_table_is_refused(exported: Path, tmp_path: Path) -> None:
    """JSON without weights, or with a weight described twice, is refused."""
    with zipfile.ZipFile(exported) as old:
        folder = old.namelist()[0].partition("/")[0]
    for text in ("[]", "{}", '{"config": {"a": {}, "a": {}}}', '{"config": {"a": [1]}}', "{"):
        with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
            archive.writestr(f"{folder}/data/weights/model_weights_config.json", text)
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path / "m.pt2")


def test_a_program_has_no_key(exported: Path) -> None:
    """A `key` is refused."""
    with pytest.raises(CheckpointError, match="has no key") as caught:
        open_checkpoint(exported, key="x")

    assert caught.value.hint == "leave out key='x'"
