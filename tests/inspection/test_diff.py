"""`prune diff`: tensors by name and bit for bit, whatever the container, and everything else by its name."""

from __future__ import annotations

import json
import math
import zipfile
from argparse import Namespace
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support import CONTAINERS, SHARED, bits, make_checkpoint, make_weights

from prunecli.cli import main as cli
from prunecli.cli.diff import diff as command
from prunecli.errors import CheckpointError, SelectionError, UsageError
from prunecli.inspection import compare as comparing
from prunecli.inspection.check import check
from prunecli.inspection.compare import Change
from prunecli.inspection.conditions import OnlyZerosAdded, SameStructure
from prunecli.inspection.diff import Difference, Item, diff
from prunecli.inspection.diff_text import write_difference

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs `prune diff` and returns its exit code and what it printed."""
    registered = [info for info in cli.app.registered_commands if info.name != "diff"]
    monkeypatch.setattr(cli.app, "registered_commands", registered)
    cli.app.command("diff")(command)

    def call(*args: object) -> tuple[int, str, str]:
        code = cli.main(["diff", *map(str, args)])
        return code, *capsys.readouterr()

    return call


def saved(path: Path, value: object, **options: Any) -> Path:  # noqa: ANN401
    """Save `value` as torch does."""
    torch.save(value, path, **options)
    return path


def changes(difference: Difference) -> dict[str, Change | None]:
    """Return the changes of the tensors that differ."""
    return {tensor.name: tensor.change for tensor in difference.tensors if not tensor.same}


# --- the same


def test_a_checkpoint_is_the_same_as_its_copy(container: str, tmp_path: Path) -> None:
    """Every container written twice from the same weights has no difference, in its tensors or beside them."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    difference = diff(make_checkpoint(container, tmp_path / "a"), make_checkpoint(container, tmp_path / "b"))

    assert (difference.same, difference.things, difference.notes) == (True, (), ())
    assert len(difference.tensors) >= len(make_weights())


def test_the_same_weights_are_the_same_in_any_container(container: str, tmp_path: Path) -> None:
    """Weights compare by name, from packed to strided, little to big endian, whatever holds them."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    how = CONTAINERS[container]
    weights = {how.prefix + name: t for name, t in make_weights().items()}
    if how.tied:
        weights["head.weight"] = weights["embed.weight"].clone()
    plain = make_checkpoint("safetensors", tmp_path / "a", weights)

    difference = diff(plain, make_checkpoint(container, tmp_path / "b"), include=["*"])

    assert difference.same
    assert [tensor.name for tensor in difference.tensors] == sorted(weights)


# --- entries


PATTERNS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float8_e4m3fn: torch.int8,
    torch.float8_e5m2: torch.int8,
    torch.float8_e4m3fnuz: torch.int8,
    torch.float8_e5m2fnuz: torch.int8,
    torch.int64: torch.int64,
    torch.int32: torch.int32,
    torch.int16: torch.int16,
    torch.int8: torch.int8,
    torch.uint8: torch.int8,
    torch.bool: torch.int8,
    torch.complex64: torch.int64,
}


def as_numbers(t: torch.Tensor) -> np.ndarray:
    """Return the values of a tensor in NumPy, as float64 or complex128, without a warning for NaN."""
    if t.is_complex():
        return t.to(torch.complex128).numpy()
    return (t.float() if t.element_size() == 1 and t.is_floating_point() else t).to(torch.float64).numpy()


@given(
    dtype=st.sampled_from(list(PATTERNS)),
    n=st.integers(1, 40),
    seed=st.integers(0, 10_000),
    window=st.sampled_from([2, 8, 1 << 18]),
    piece=st.sampled_from([4, 1 << 24]),
)
@settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_changes_are_those_that_numpy_finds(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    dtype: torch.dtype,
    n: int,
    seed: int,
    window: int,
    piece: int,
) -> None:
    """For patterns of any dtype, NaN and infinities among them, counts, places and sizes are those of NumPy."""
    monkeypatch.setattr(comparing, "RUN", window)
    monkeypatch.setattr(comparing, "PIECE", piece)
    folder = tmp_path_factory.mktemp("entries")
    rng = np.random.default_rng(seed)
    kind = PATTERNS[dtype]
    size = torch.empty((), dtype=dtype).element_size()
    top = 2 if dtype == torch.bool else 256
    a = torch.from_numpy(rng.integers(0, top, n * size, dtype=np.uint8))
    b = torch.where(torch.from_numpy(rng.random(n) < 0.5), a.view(kind), 0)
    b = torch.where(torch.from_numpy(rng.random(n) < 0.3), torch.from_numpy(rng.permutation(a.view(kind).numpy())), b)
    old, new = a.view(kind).view(dtype), b.view(dtype)
    first, second = saved(folder / "a.pth", {"w": old}), saved(folder / "b.pth", {"w": new})

    (found,) = diff(first, second).tensors

    differ = (bits(old) if dtype != torch.complex64 else a.view(kind)).ne(b).numpy()
    with np.errstate(all="ignore"):
        sizes = np.abs(as_numbers(new) - as_numbers(old))[differ]
    zero = differ & (as_numbers(new) == 0)
    other = np.flatnonzero(differ & ~zero)
    finite = sizes[np.isfinite(sizes)]
    change = found.change
    assert change is not None
    assert (change.entries, change.changed, change.to_zero) == (n, int(differ.sum()), int(zero.sum()))
    assert change.otherwise == len(other)
    assert change.nonfinite == len(sizes) - len(finite)
    assert (change.first, change.first_other) == (
        int(differ.argmax()) if differ.any() else None,
        int(other[0]) if len(other) else None,
    )
    if len(finite):
        assert change.largest == pytest.approx(float(finite.max()), rel=1e-15)
    else:
        assert change.largest is None


def test_bits_count_and_not_values(tmp_path: Path) -> None:
    """A NaN is the same as itself and another than a NaN of other bits; zeros of two signs differ."""
    old = torch.tensor([math.nan, math.nan, 0.0, 1.0])
    new = old.clone()
    bits(new)[1] += 1
    new[2] = -0.0

    difference = diff(saved(tmp_path / "a.pth", {"w": old}), saved(tmp_path / "b.pth", {"w": new}))

    assert changes(difference) == {"w": Change(4, 2, 1, 0.0, 1, 1, 1)}
    assert not difference.only_zeros_added


def test_pruning_is_only_zeros(container: str, tmp_path: Path) -> None:
    """What a run pruned is what differs: as many entries as its report says, all of them to zero."""
    from prunecli.api import prune
    from prunecli.strategies.unstructured import L1

    path = make_checkpoint(container, tmp_path)
    output = tmp_path / f"out{path.suffix}"
    report = prune(path, L1(amount=0.3), output=output, reports=())

    difference = diff(path, output)

    wanted = {name: row.pruned for row in report.rows if row.pruned for name in (row.name, *row.aliases)}
    found = {name: change and (change.changed, change.to_zero) for name, change in changes(difference).items()}
    assert found == {name: (pruned, pruned) for name, pruned in wanted.items()}
    assert difference.only_zeros_added
    assert difference.things == ()


@pytest.mark.parametrize("turned", [False, True])
def test_views_are_compared_where_they_look(turned: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Strided, transposed and expanded tensors are compared by position, however they are stored."""
    base = torch.arange(24.0).reshape(4, 6)
    views = {"sliced": base[:, 1:4], "turned": base.T, "wide": torch.ones(1).expand(3, 5), "one": base[2, 3]}
    packed = {name: view.clone().contiguous() for name, view in views.items()}
    packed["turned"][5, 1] += 1
    sides = [saved(tmp_path / "a.pth", views), saved(tmp_path / "b.pth", packed)]

    assert list(changes(diff(*(sides[::-1] if turned else sides)))) == ["turned"]
    assert diff(sides[0], sides[0]).same


def test_a_view_of_a_few_bytes_as_large_as_you_like_costs_nothing(tmp_path: Path) -> None:
    """An expanded view of 10^15 entries is compared by the one it repeats."""
    a = saved(tmp_path / "a.pth", {"w": torch.ones(1).expand(10**9, 10**6)})
    b = saved(tmp_path / "b.pth", {"w": torch.full((1,), 2.0).expand(10**9, 10**6)})

    (found,) = diff(a, b).tensors

    assert diff(a, a).same
    assert found.change is not None
    assert found.change.largest == 1


def test_views_that_repeat_along_different_dims_are_unfolded(tmp_path: Path) -> None:
    """A row repeated down and a column repeated across are compared position by position."""
    row, column = torch.arange(5.0).expand(3, 5), torch.arange(3.0)[:, None].expand(3, 5)
    a, b = saved(tmp_path / "a.pth", {"w": row}), saved(tmp_path / "b.pth", {"w": column})

    (found,) = diff(a, b).tensors

    assert found.change is not None
    assert found.change.changed == int((row != column).sum())
    assert found.change.to_zero == int(((row != column) & (column == 0)).sum())


def test_a_slice_of_complex_numbers_is_compared_where_it_lies(tmp_path: Path) -> None:
    """Complex entries count once, and by their absolute difference, also behind an offset and a stride."""
    base = torch.arange(12.0).to(torch.complex64) * (1 + 1j)
    new = base[3::2].clone()
    new[1] += 3 + 4j
    new[2] = 0
    a, b = saved(tmp_path / "a.pth", {"z": base[3::2]}), saved(tmp_path / "b.pth", {"z": new})

    size = float(base[7].abs())
    assert changes(diff(a, b)) == {"z": Change(5, 2, 1, pytest.approx(size), 0, 1, 1)}


def test_integers_that_became_zero_are_no_added_zeros(tmp_path: Path) -> None:
    """Zeros are added to floats only: a mask or a counter that is 0 now has changed."""
    a, b = saved(tmp_path / "a.pth", {"n": torch.ones(2).int()}), saved(tmp_path / "b.pth", {"n": torch.zeros(2).int()})

    assert not diff(a, b).only_zeros_added


def test_views_that_overlap_without_end_are_refused(tmp_path: Path) -> None:
    """Two views that overlap themselves in two ways cannot be read in any memory: the tensor is named."""
    storage = torch.arange(300.0)
    a = saved(tmp_path / "a.pth", {"w": storage.as_strided((30,) * 6, (1,) * 6, 0)[..., :5]})
    b = saved(tmp_path / "b.pth", {"w": storage.as_strided((30,) * 6, (1, 1, 1, 1, 1, 2), 0)[..., :5]})

    with pytest.raises(CheckpointError, match="overlaps itself in both"):
        diff(a, b)


def test_packed_numbers_are_compared_by_the_byte(tmp_path: Path) -> None:
    """4-bit numbers, which nobody looks into, are counted as bytes."""
    header = {"w": {"dtype": "F4", "shape": [2, 4], "data_offsets": [0, 4]}}
    paths = []
    for name, data in (("a", b"\1\2\3\4"), ("b", b"\1\0\3\5")):
        text = json.dumps(header).encode()
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)
        paths.append(path)
    out = StringIO()

    difference = diff(*paths)
    write_difference(difference, out)

    assert changes(difference) == {"w": Change(4, 2, 1, 2.0, 0, 1, 3)}
    assert "4 bytes" in out.getvalue()


# --- structure


def test_what_does_not_pair_up_is_told(tmp_path: Path) -> None:
    """Tensors in one alone, of another dtype or shape, are different without being read."""
    a = saved(tmp_path / "a.pth", {"w": torch.ones(2, 3), "h": torch.ones(2), "old": torch.ones(1)})
    b = saved(tmp_path / "b.pth", {"w": torch.ones(3, 2), "h": torch.ones(2).half(), "new": torch.ones(())})
    out = StringIO()

    difference = diff(a, b)
    write_difference(difference, out)

    assert not difference.same
    assert out.getvalue().splitlines() == [
        "only in A   old, F32 1",
        "only in B   new, F32 scalar",
        "other kind  w is F32 2x3 in A, F32 3x2 in B",
        "other kind  h is F32 2 in A, F16 2 in B",
        "different   4 of 4 tensors",
    ]


def test_a_negated_view_is_not_its_bits(tmp_path: Path) -> None:
    """A tensor that is to be read negated is another than one with the same bits that is not."""
    z = torch.tensor([1 + 2j, 3 + 4j])
    a = saved(tmp_path / "a.pth", {"z": z.conj()})
    b = saved(tmp_path / "b.pth", {"z": z})

    assert changes(diff(a, b)) == {"z": None}


# --- beside the tensors


def things(a: Path, b: Path) -> dict[str, tuple[str | None, str | None]]:
    """Return what differs beside the tensors."""
    return {thing.name: (thing.a, thing.b) for thing in diff(a, b).things}


@pytest.mark.parametrize("empty", [{}, [], (), "", None])
def test_an_empty_entry_is_an_entry(empty: object, tmp_path: Path) -> None:
    """An entry that holds nothing is told from one that is not there."""
    a = saved(tmp_path / "a.pth", {"w": torch.ones(1), "more": empty})
    b = saved(tmp_path / "b.pth", {"w": torch.ones(1)})

    assert list(things(a, b)) == ["entry more"]


@pytest.mark.parametrize("old_format", [False, True])
def test_other_entries_are_named(old_format: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Epochs, settings, histories and classes of a nested checkpoint are told by their paths, and tensors are not."""

    def nested(**other: object) -> dict[str, object]:
        groups = [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0, 1]}]
        base = {"state_dict": {"w": torch.ones(2)}, "epoch": 3, "optimizer": {"param_groups": groups}, "who": "me"}
        blobs = {"short": b"one", "long": b"x" * 5000, "same": b"y" * 5000}
        return {
            **base,
            **blobs,
            "args": Namespace(arch="net", deep={"x": None, "z": 2}),
            "losses": [0.5] * 100,
            **other,
        }

    options = {"_use_new_zipfile_serialization": not old_format}
    groups = [{"lr": 0.2, "betas": (0.9, 0.99), "params": [0, 1]}]
    a = saved(tmp_path / "a.pth", nested(), **options)
    b = saved(
        tmp_path / "b.pth",
        nested(
            epoch=4,
            optimizer={"param_groups": groups},
            args=Namespace(arch="net2", deep={"z": 2}),
            losses=[0.5] * 99,
            short=b"two",
            long=b"x" * 4999 + b"z",
        ),
        **options,
    )

    found = things(a, b)

    assert found.pop("entry losses")[0] == f"100 values, sha256 {digest([0.5] * 100)}"
    assert len(set(found.pop("entry long"))) == len(("old", "new"))
    assert found == {
        "entry epoch": ("3", "4"),
        "entry short": ("b'one'", "b'two'"),
        "entry optimizer.param_groups.0.lr": ("0.1", "0.2"),
        "entry args.arch": ("'net'", "'net2'"),
        "entry args.deep.x": ("None", None),
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("size", [3, 500, 300_000])
def test_bytes_are_compared_to_the_last(protocol: int, size: int, tmp_path: Path) -> None:
    """Bytes of any length count as they are, in every protocol."""
    data = bytes(range(250)) * (size // 250) + b"end"
    a = saved(tmp_path / "a.pth", {"w": torch.ones(1), "raw": data, "kept": data[1:]}, pickle_protocol=protocol)
    b = saved(tmp_path / "b.pth", {"w": torch.ones(1), "raw": data[:-1] + b"t", "kept": data[1:]}, pickle_protocol=4)

    assert list(things(a, b)) == ["entry raw"]


def digest(values: list[float]) -> str:
    """Return the beginning of the SHA-256 of a row of numbers."""
    import hashlib

    return hashlib.sha256("\0".join(map(repr, values)).encode()).hexdigest()[:12]


def test_order_and_kind_of_dict_are_no_difference(tmp_path: Path) -> None:
    """A state_dict may be any dict, in any order: it loads as the same."""
    from collections import OrderedDict

    a = saved(tmp_path / "a.pth", {"x": torch.ones(2), "y": torch.zeros(1), "n": 1})
    b = saved(tmp_path / "b.pth", OrderedDict([("n", 1), ("y", torch.zeros(1)), ("x", torch.ones(2))]))

    assert diff(a, b).same


def test_metadata_of_safetensors_is_named(tmp_path: Path) -> None:
    """A metadata entry that differs, or that one lacks, is told by its key."""
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"w": torch.ones(2)}, a, metadata={"format": "pt", "note": "x" * 100})
    save_file({"w": torch.ones(2)}, b, metadata={"format": "np"})

    found = things(a, b)

    assert found["metadata format"] == ("'pt'", "'np'")
    assert found["metadata note"][0] is not None
    assert found["metadata note"][0].startswith("'xxx")
    assert found["metadata note"][1] is None


def test_other_records_and_files_are_named(tmp_path: Path) -> None:
    """A record of the archive and a file of the directory that differ are told by their names."""
    a = saved(tmp_path / "a.pth", {"w": torch.ones(2)})
    b = tmp_path / "b.pth"
    b.write_bytes(a.read_bytes())
    with zipfile.ZipFile(b, "a") as archive:
        archive.writestr("a/extra/notes.txt", "hello")
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    one, two = (make_checkpoint("safetensors-shards", tmp_path / side) for side in "xy")
    (two / "config.json").write_text("{}")
    (two / "tokenizer" / "vocab.txt").unlink()

    assert list(things(a, b)) == ["record extra/notes.txt"]
    assert list(things(one, two)) == ["file config.json", "file tokenizer/vocab.txt"]
    assert things(one, two)["file tokenizer/vocab.txt"][1] is None


def test_what_is_not_compared_is_noted(tmp_path: Path) -> None:
    """Of two kinds of container only tensors are compared, of a directory and a file no other files: it says so."""
    a, b = make_checkpoint("safetensors-shards", tmp_path), make_checkpoint("safetensors", tmp_path)
    c = make_checkpoint("nested", tmp_path)

    assert diff(a, b).notes == ("A is a directory: its other files were not compared",)
    assert diff(b, c).notes == (
        "A is safetensors and B is torch zip: only the tensors of their state_dicts were compared",
    )


def test_a_key_names_the_state_dict_of_the_nested_one(tmp_path: Path) -> None:
    """`key` chooses among the dicts of a torch file, and a safetensors file on the other side needs none."""
    a = saved(tmp_path / "a.pth", {"state_dict": {"w": torch.ones(2)}, "ema": {"w": torch.zeros(2)}})
    b = tmp_path / "b.safetensors"
    save_file({"w": torch.zeros(2)}, b)

    assert not diff(a, b).same
    assert diff(a, b, key="ema").same
    assert diff(b, a, key="ema").same
    assert check(b, [SameStructure(a), OnlyZerosAdded(a)])[1].holds
    with pytest.raises(CheckpointError, match="no tensors at the key 'nope'"):
        diff(a, b, key="nope")
    with pytest.raises(UsageError, match="both are safetensors"):
        diff(b, b, key="ema")


def test_patterns_narrow_what_is_compared(tmp_path: Path) -> None:
    """`include` compares some tensors and nothing else, `exclude` all but some; both see the names of both sides."""
    a = saved(tmp_path / "a.pth", {"w": torch.ones(1), "v": torch.ones(1), "n": 1})
    b = saved(tmp_path / "b.pth", {"w": torch.ones(1), "u": torch.ones(1), "n": 2})

    assert diff(a, b, include=["w"]).same
    assert [t.name for t in diff(a, b, include=["[uv]"]).tensors] == ["v", "u"]
    assert diff(a, b, exclude=["u", "v"]).things == (Item("entry n", "1", "2"),)
    with pytest.raises(SelectionError, match="the include pattern 'x' matches none of 3"):
        diff(a, b, include=["x"])


@pytest.mark.parametrize("long", [False, True])
def test_entries_that_share_their_parts_without_end_are_refused(long: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Lists in lists, each twice, are 2^40 entries in a few bytes, and one text can come often: refused in time."""
    bomb: list[object] = [{}]
    for _ in range(40):
        bomb = [bomb, bomb, {}]
    if long:
        text = "x" * (1 << 20)
        bomb = [{"a": text, text: 1}] * 100_000
    path = saved(tmp_path / "a.pth", {"w": torch.ones(1), "bomb": bomb})

    with pytest.raises(CheckpointError, match="entries besides its tensors") as caught:
        diff(path, path)

    assert caught.value.hint == "compare only the tensors: include=['*']"
    assert diff(path, path, include=["*"]).same


def test_an_object_that_holds_itself_is_compared_once(tmp_path: Path) -> None:
    """A cycle ends where it began."""
    knot: dict[str, object] = {"n": 1}
    knot["self"] = knot
    other: dict[str, object] = {"n": 2}
    other["self"] = other
    a = saved(tmp_path / "a.pth", {"w": torch.ones(1), "knot": knot})
    b = saved(tmp_path / "b.pth", {"w": torch.ones(1), "knot": other})

    assert things(a, b) == {"entry knot.n": ("1", "2")}


# --- the command


def test_exit_codes_and_the_table(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """0 where all is the same and 1 where something differs, told on standard output."""
    old = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    a = saved(tmp_path / "a.pth", {"fc.weight": old, "fc.bias": torch.ones(2), "epoch": 1})
    b = saved(tmp_path / "b.pth", {"fc.weight": old * torch.tensor([[1, 0], [1, 2]]), "fc.bias": torch.ones(2)})

    table = (
        "tensor     dtype  shape  entries  changed  to zero  otherwise  largest change\n"
        "fc.weight  F32      2x2        4        2        1          1               4\n"
        "\n"
        "only in A   entry epoch: 1\n"
        "different   1 of 2 tensors, 2 of 6 entries, 1 of them to zero\n"
    )

    assert run(a, a) == (0, "same        2 tensors, 6 entries\n", "")
    assert run(a, b) == (1, table, "")
    assert run(a, b, "-q") == (1, "", "")
    assert run(a, b, "-x", "fc.weight") == (
        1,
        "only in A   entry epoch: 1\nsame        1 tensor, 2 entries; 1 other item differs\n",
        "",
    )


def test_json_says_it_too(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """The JSON form has the verdict, each tensor that differs, and what differs beside them."""
    a = saved(tmp_path / "a.pth", {"w": torch.tensor([1.0, math.inf]), "n": 1})
    b = saved(tmp_path / "b.pth", {"w": torch.tensor([0.0, 1.0]), "n": 2})

    code, out, _ = run(a, b, "--json")

    document = json.loads(out)
    assert (code, document["same"], document["only_zeros_added"], document["tensors_compared"]) == (1, False, False, 1)
    kind = {"dtype": "F32", "shape": [2]}
    assert document["tensors"] == [
        {
            "name": "w",
            "a": kind,
            "b": kind,
            "entries": 2,
            "changed": 2,
            "to_zero": 1,
            "otherwise": 1,
            "largest_change": 1.0,
            "changes_not_finite": 1,
        }
    ]
    assert document["beside"] == [{"name": "entry n", "a": "1", "b": "2"}]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("A",), "missing argument"),
        (("A", "missing.pth"), "there is no file or directory missing.pth"),
        (("-", "-"), "only one checkpoint can come through standard input"),
        (("A", "A", "-x", "nope"), "the exclude pattern 'nope' matches none"),
        (("A", "A", "--key", "nope"), "has no tensors at the key 'nope'"),
    ],
)
def test_wrong_usage_ends_with_two(
    run: Callable[..., tuple[int, str, str]], args: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    """What cannot be compared is neither the same nor different: exit code 2, a sentence and a hint."""
    path = saved(tmp_path / "a.pth", {"w": torch.ones(2)})

    code, out, err = run(*(str(path) if arg == "A" else arg for arg in args))

    assert (code, out) == (2, "")
    assert says in err
    assert "\nhint: " in err


def test_names_cannot_command_a_terminal(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """Names and values from a file reach the terminal as escapes."""
    a = saved(tmp_path / "a.pth", {"a\x1b[2J": torch.ones(1), "k\x1b\n": "v\x1b[2J"})
    b = saved(tmp_path / "b.pth", {"a\x1b[2J": torch.zeros(1)})

    _, out, err = run(a, b)

    assert "\x1b" not in out + err
    assert "a\\x1b[2J" in out
    assert "k\\x1b\\n" in out


@pytest.mark.skipif(not (SHARED / "checkpoints").is_dir(), reason="the shared checkpoints are not here")
def test_two_training_runs_of_one_model_differ_as_torch_says() -> None:
    """The two MNIST checkpoints have the same names, and torch's largest change in each tensor."""
    a, b = SHARED / "checkpoints" / "burn-mnist.pt", SHARED / "checkpoints" / "burn-mnist.safetensors"
    from safetensors.torch import load_file

    old, new = torch.load(a, map_location="cpu", weights_only=True), load_file(b)

    found = diff(a, b)

    assert [tensor.name for tensor in found.tensors] == list(old)
    for tensor in found.tensors:
        change, x, y = tensor.change, old[tensor.name], new[tensor.name]
        assert change is not None
        assert change.changed == int((x != y).sum())
        assert (change.largest or 0.0) == float((x.double() - y.double()).abs().max())
