"""`diff`: tensors are paired by name and compared bit for bit, in any container."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support import CONTAINERS, SHARED, bits, examples, make_checkpoint, make_weights
from support.reports import written
from support.small import saved

import prunecli
from prunecli.errors import CheckpointError, SelectionError, UsageError
from prunecli.inspection import compare
from prunecli.inspection.check import check
from prunecli.inspection.compare import Change
from prunecli.inspection.conditions import OnlyZerosAdded, SameStructure
from prunecli.inspection.diff import ContentDifference, Difference, diff
from prunecli.inspection.diff_text import difference_json, write_difference
from prunecli.inspection.pairing import TensorForm

if TYPE_CHECKING:
    from pathlib import Path


def changes(difference: Difference) -> dict[str, Change | None]:
    """Return the changes of the tensors that differ."""
    return {tensor.name: tensor.change for tensor in difference.tensors if not tensor.same}


# --- equal checkpoints


def test_a_checkpoint_equals_its_copy(container: str, tmp_path: Path) -> None:
    """Two files of the same container and weights have no difference, in tensors and other contents."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    difference = prunecli.diff(make_checkpoint(container, tmp_path / "a"), make_checkpoint(container, tmp_path / "b"))

    assert (difference.same, difference.contents, difference.notes) == (True, (), ())
    assert len(difference.tensors) >= len(make_weights())


def test_equal_weights_are_equal_in_any_container(container: str, tmp_path: Path) -> None:
    """Weights are compared by name across containers, contiguous or strided, little- or big-endian."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    layout = CONTAINERS[container]
    weights = {layout.prefix + name: t for name, t in make_weights().items()}
    if layout.tied:
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


def as_numbers(t: torch.Tensor) -> np.ndarray[Any, Any]:
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
@settings(max_examples=examples(250), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_changes_equal_those_of_numpy(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    dtype: torch.dtype,
    n: int,
    seed: int,
    window: int,
    piece: int,
) -> None:
    """For bit patterns of any dtype, with NaN and infinities, counts, indices and sizes equal those of NumPy."""
    monkeypatch.setattr(compare, "RUN", window)
    monkeypatch.setattr(compare, "PIECE", piece)
    folder = tmp_path_factory.mktemp("entries")
    rng = np.random.default_rng(seed)
    pattern = PATTERNS[dtype]
    size = torch.empty((), dtype=dtype).element_size()
    top = 2 if dtype == torch.bool else 256
    a = torch.from_numpy(rng.integers(0, top, n * size, dtype=np.uint8))
    b = torch.where(torch.from_numpy(rng.random(n) < 0.5), a.view(pattern), 0)
    b = torch.where(
        torch.from_numpy(rng.random(n) < 0.3), torch.from_numpy(rng.permutation(a.view(pattern).numpy())), b
    )
    old, new = a.view(pattern).view(dtype), b.view(dtype)
    first, second = saved(folder / "a.pth", {"w": old}), saved(folder / "b.pth", {"w": new})

    (tensor,) = diff(first, second).tensors

    differ = (bits(old) if dtype != torch.complex64 else a.view(pattern)).ne(b).numpy()
    with np.errstate(all="ignore"):
        sizes = np.abs(as_numbers(new) - as_numbers(old))[differ]
    signs = differ & (as_numbers(new) == 0) & (as_numbers(old) == 0)
    zero = differ & (as_numbers(new) == 0) & ~signs
    other = np.flatnonzero(differ & ~zero & ~signs)
    finite = sizes[np.isfinite(sizes)]
    change = tensor.change
    assert change is not None
    assert (change.entries, change.changed, change.to_zero) == (n, int(differ.sum()), int(zero.sum()))
    assert (change.zero_signs, change.otherwise) == (int(signs.sum()), len(other))
    assert change.nonfinite == len(sizes) - len(finite)
    assert (change.first, change.first_other) == (
        int(differ.argmax()) if differ.any() else None,
        int(other[0]) if len(other) else None,
    )
    if len(finite):
        assert change.largest == pytest.approx(float(finite.max()), rel=1e-15)
    else:
        assert change.largest is None


def test_bits_are_compared_and_not_values(tmp_path: Path) -> None:
    """A NaN equals itself and differs from a NaN with other bits; zeros of different sign differ."""
    old = torch.tensor([math.nan, math.nan, 0.0, 1.0])
    new = old.clone()
    bits(new)[1] += 1
    new[2] = -0.0

    difference = diff(saved(tmp_path / "a.pth", {"w": old}), saved(tmp_path / "b.pth", {"w": new}))

    assert changes(difference) == {"w": Change(4, 2, 0, 1, 0.0, 1, 1, 1)}
    assert not difference.only_zeros_added


def test_pruning_only_adds_zeros(container: str, tmp_path: Path) -> None:
    """The changes of a pruned checkpoint are the weights that its report counts, all to zero, for `check` too."""
    from prunecli.api import prune
    from prunecli.strategies.unstructured import L1

    path = make_checkpoint(container, tmp_path)
    output = tmp_path / f"out{path.suffix}"
    report = prune(path, L1(amount=0.3), output=output, reports=())

    difference = diff(path, output)

    wanted = {name: row.pruned or 0 for row in report.rows if row.pruned for name in (row.name, *row.aliases)}
    counted = {name: change and (change.changed, change.to_zero) for name, change in changes(difference).items()}
    assert counted == {name: (pruned, pruned) for name, pruned in wanted.items()}
    assert difference.only_zeros_added
    assert difference.contents == ()
    (finding,) = check(output, [OnlyZerosAdded(path)])
    assert finding.holds
    assert finding.got.startswith(f"{report.selected.pruned:,} of ")
    assert f": {report.selected.pruned:,} of " in written(write_difference, difference)
    assert not check(path, [OnlyZerosAdded(output)])[0].holds


def test_tied_names_count_once(tmp_path: Path) -> None:
    """Names of the same elements in both checkpoints count once; where one of them is a copy they count twice."""
    shared, other = torch.ones(5, 5), torch.ones(5, 5)
    shared[0, :3] = 0
    dense = saved(tmp_path / "a.pth", dict.fromkeys(("emb.weight", "head.weight"), other))
    tied = saved(tmp_path / "b.pth", dict.fromkeys(("emb.weight", "head.weight"), shared))
    copied = saved(tmp_path / "c.pth", {"emb.weight": shared, "head.weight": shared.clone()})

    difference = diff(dense, tied)

    assert [tensor.tied_to for tensor in difference.tensors] == [None, "emb.weight"]
    assert json.loads(difference_json(difference))["tensors_compared"] == 1
    text = written(write_difference, difference)
    assert "emb.weight (+1 tied)" in text
    assert "1 of 1 tensor differs: 3 of 25 entries changed, all of them to zero" in text
    assert "2 of 2 tensors differ: 6 of 50 entries" in written(write_difference, diff(dense, copied))
    assert check(tied, [OnlyZerosAdded(dense)])[0].got == "3 of 25 became zero, 0 changed otherwise"


@pytest.mark.parametrize("turned", [False, True])
def test_views_are_compared_by_position(turned: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Strided, transposed and expanded tensors are compared by position, independent of their storage."""
    base = torch.arange(24.0).reshape(4, 6)
    views = {"sliced": base[:, 1:4], "turned": base.T, "wide": torch.ones(1).expand(3, 5), "one": base[2, 3]}
    packed = {name: view.clone().contiguous() for name, view in views.items()}
    packed["turned"][5, 1] += 1
    sides = [saved(tmp_path / "a.pth", views), saved(tmp_path / "b.pth", packed)]

    assert list(changes(diff(*(sides[::-1] if turned else sides)))) == ["turned"]
    assert diff(sides[0], sides[0]).same


def test_expanded_views_are_compared_once(tmp_path: Path) -> None:
    """An expanded view of 10^15 entries is compared by the one entry that it repeats."""
    a = saved(tmp_path / "a.pth", {"w": torch.ones(1).expand(10**9, 10**6)})
    b = saved(tmp_path / "b.pth", {"w": torch.full((1,), 2.0).expand(10**9, 10**6)})

    (tensor,) = diff(a, b).tensors

    assert diff(a, a).same
    assert tensor.change is not None
    assert tensor.change.largest == 1


def test_views_that_repeat_along_different_dims_are_expanded(tmp_path: Path) -> None:
    """A row repeated down and a column repeated across are compared position by position."""
    row, column = torch.arange(5.0).expand(3, 5), torch.arange(3.0)[:, None].expand(3, 5)
    a, b = saved(tmp_path / "a.pth", {"w": row}), saved(tmp_path / "b.pth", {"w": column})

    (tensor,) = diff(a, b).tensors

    assert tensor.change is not None
    assert tensor.change.changed == int((row != column).sum())
    assert tensor.change.to_zero == int(((row != column) & (column == 0)).sum())


def test_a_slice_of_complex_numbers_is_compared_by_entry(tmp_path: Path) -> None:
    """A complex entry counts once, with its absolute difference, also in a view with an offset and a stride."""
    base = torch.arange(12.0).to(torch.complex64) * (1 + 1j)
    new = base[3::2].clone()
    new[1] += 3 + 4j
    new[2] = 0
    a, b = saved(tmp_path / "a.pth", {"z": base[3::2]}), saved(tmp_path / "b.pth", {"z": new})

    size = float(base[7].abs())
    assert changes(diff(a, b)) == {"z": Change(5, 2, 1, 0, pytest.approx(size), 0, 1, 1)}


def test_integers_that_became_zero_are_other_changes(tmp_path: Path) -> None:
    """Only floats count as added zeros, for `check` too: a mask or a counter that is 0 now has another change."""
    a, b = saved(tmp_path / "a.pth", {"n": torch.ones(2).int()}), saved(tmp_path / "b.pth", {"n": torch.zeros(2).int()})

    assert not diff(a, b).only_zeros_added
    assert [finding.tensor for finding in check(b, [OnlyZerosAdded(a)]) if not finding.holds] == ["n"]


def test_views_that_overlap_too_often_are_an_error(tmp_path: Path) -> None:
    """Two views that overlap themselves in different ways cannot be compared in bounded memory."""
    storage = torch.arange(300.0)
    a = saved(tmp_path / "a.pth", {"w": storage.as_strided((30,) * 6, (1,) * 6, 0)[..., :5]})
    b = saved(tmp_path / "b.pth", {"w": storage.as_strided((30,) * 6, (1, 1, 1, 1, 1, 2), 0)[..., :5]})

    with pytest.raises(CheckpointError, match="overlaps itself in both"):
        diff(a, b)


def test_packed_numbers_are_compared_by_the_byte(tmp_path: Path) -> None:
    """Entries of 4-bit dtypes are counted as bytes."""
    header = {"w": {"dtype": "F4", "shape": [2, 4], "data_offsets": [0, 4]}}
    paths = []
    for name, data in (("a", b"\1\2\3\4"), ("b", b"\1\0\3\5")):
        text = json.dumps(header).encode()
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)
        paths.append(path)

    difference = diff(*paths)

    assert changes(difference) == {"w": Change(4, 2, 1, 0, 2.0, 0, 1, 3)}
    assert "4 bytes" in written(write_difference, difference)


# --- structure


def test_tensors_without_a_counterpart_are_different(tmp_path: Path) -> None:
    """Tensors in one checkpoint only, or with another dtype or shape, are different without being read."""
    a = saved(tmp_path / "a.pth", {"w": torch.ones(2, 3), "h": torch.ones(2), "old": torch.ones(1)})
    b = saved(tmp_path / "b.pth", {"w": torch.ones(3, 2), "h": torch.ones(2).half(), "new": torch.ones(())})

    difference = diff(a, b)

    assert changes(difference) == {"w": None, "h": None, "old": None, "new": None}
    assert [(tensor.a, tensor.b) for tensor in difference.tensors] == [
        (TensorForm("F32", (2, 3)), TensorForm("F32", (3, 2))),
        (TensorForm("F32", (2,)), TensorForm("F16", (2,))),
        (TensorForm("F32", (1,)), None),
        (None, TensorForm("F32", ())),
    ]


def test_a_conjugated_view_differs_from_its_bits(tmp_path: Path) -> None:
    """A view that is conjugated on loading differs from a tensor with the same bits."""
    z = torch.tensor([1 + 2j, 3 + 4j])
    a = saved(tmp_path / "a.pth", {"z": z.conj()})
    b = saved(tmp_path / "b.pth", {"z": z})

    assert changes(diff(a, b)) == {"z": None}


def test_a_key_selects_the_state_dict_of_the_nested_checkpoint(tmp_path: Path) -> None:
    """`key` selects a dict of a torch file and is ignored for a safetensors file on the other side."""
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


def test_patterns_narrow_the_comparison(tmp_path: Path) -> None:
    """`include` compares only matching tensors and `exclude` leaves tensors out; both match names of both sides."""
    a = saved(tmp_path / "a.pth", {"w": torch.ones(1), "v": torch.ones(1), "n": 1})
    b = saved(tmp_path / "b.pth", {"w": torch.ones(1), "u": torch.ones(1), "n": 2})

    assert diff(a, b, include=["w"]).same
    assert [t.name for t in diff(a, b, include=["[uv]"]).tensors] == ["v", "u"]
    assert diff(a, b, exclude=["u", "v"]).contents == (ContentDifference("entry n", "1", "2"),)
    with pytest.raises(SelectionError, match="the include pattern 'x' matches none of 3"):
        diff(a, b, include=["x"])


# --- real checkpoints


@pytest.mark.skipif(not (SHARED / "checkpoints").is_dir(), reason="the shared checkpoints are not here")
def test_real_checkpoints_differ_as_torch_says() -> None:
    """Two training runs of one model have the same names, and each largest change equals that of torch."""
    a, b = SHARED / "checkpoints" / "burn-mnist.pt", SHARED / "checkpoints" / "burn-mnist.safetensors"
    old, new = torch.load(a, map_location="cpu", weights_only=True), load_file(b)

    difference = diff(a, b)

    assert [tensor.name for tensor in difference.tensors] == list(old)
    for tensor in difference.tensors:
        change, x, y = tensor.change, old[tensor.name], new[tensor.name]
        assert change is not None
        assert change.changed == int((x != y).sum())
        assert (change.largest or 0.0) == float((x.double() - y.double()).abs().max())


def test_tied_names_in_the_metadata_are_tensors(tmp_path: Path) -> None:
    """A converted file that stores tied weights once has no difference from the file with both names."""
    weight = torch.randn(6, 4)
    torch.save({"emb.weight": weight, "head.weight": weight, "fc.weight": torch.ones(4, 4)}, tmp_path / "a.pth")
    prunecli.convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    prunecli.convert(tmp_path / "a.pth", tmp_path / "c.safetensors", untie=True)

    assert len(load_file(tmp_path / "b.safetensors")) == 2
    assert diff(tmp_path / "a.pth", tmp_path / "b.safetensors").same
    assert diff(tmp_path / "b.safetensors", tmp_path / "a.pth").same
    assert changes(diff(tmp_path / "b.safetensors", tmp_path / "c.safetensors")) == {}
    (found,) = check(tmp_path / "b.safetensors", [SameStructure(tmp_path / "a.pth")])
    assert found.holds
