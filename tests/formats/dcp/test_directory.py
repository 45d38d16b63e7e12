"""A directory of a distributed checkpoint is one checkpoint: whole tensors, the state_dict of a model, and objects."""

from __future__ import annotations

import pickle
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from support import bits, make_weights, same_bits
from support.distributed_checkpoints import grid, mixed, read_distributed, rows, save_distributed
from support.opening import refused

from prunecli import Global, diff, prune
from prunecli.checkpoint import OUTSIDE
from prunecli.formats.contents import other_contents
from prunecli.formats.open import open_checkpoint
from prunecli.inspection.inspect import inspect

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = {"a.weight": torch.randn(5, 7, generator=torch.Generator().manual_seed(1)), "a.bias": torch.ones(5)}
MOMENTS = {"a.weight": {"exp_avg": torch.ones(5, 7), "step": torch.tensor(3.0)}}
STATE = {"model": WEIGHTS, "optim": {"state": MOMENTS, "param_groups": [{"lr": 0.1}]}, "epoch": 4}


def test_each_tensor_is_listed_once_with_its_whole_shape(tmp_path: Path) -> None:
    """The tensors of the model are listed under their own names; those of the optimizer are outside of it."""
    checkpoint = open_checkpoint(save_distributed(tmp_path / "d", STATE, rows(2)))

    assert checkpoint.keys == ("model",)
    inside = {t.name: (t.dtype, t.shape) for t in checkpoint.tensors if t.unprunable_reason != OUTSIDE}
    assert inside == {"a.weight": ("F32", (5, 7)), "a.bias": ("F32", (5,))}
    outside = {t.name for t in checkpoint.tensors if t.unprunable_reason == OUTSIDE}
    assert {"optim.state.a.weight.exp_avg", "optim.state.a.weight.step"} == outside
    assert checkpoint.format == "DCP"


def test_objects_are_contents(tmp_path: Path) -> None:
    """Values that are no tensors are listed with what they are, and the list of chunks is not content."""
    contents = other_contents(open_checkpoint(save_distributed(tmp_path / "d", STATE, rows(2))))

    assert contents == {"entry epoch": "4", "entry optim.param_groups.0.lr": "0.1"}


@pytest.mark.parametrize(
    ("state", "keys"),
    [
        ({"app": {"model": WEIGHTS, "optim": {"x": MOMENTS}}}, ("app.model",)),
        (WEIGHTS, ()),
        ({"state_dict": WEIGHTS, "optimizer_0": {"state": MOMENTS}}, ("state_dict",)),
    ],
)
def test_the_state_dict_is_looked_for_as_in_other_files(
    tmp_path: Path, state: dict[str, Any], keys: tuple[str, ...]
) -> None:
    """The model is found below other keys, and a state_dict that was saved alone needs no key."""
    checkpoint = open_checkpoint(save_distributed(tmp_path / "d", state, rows(2)))

    assert keys == checkpoint.keys
    assert {"a.weight", "a.bias"} == {t.name for t in checkpoint.tensors if t.unprunable_reason != OUTSIDE}


def test_flat_names_of_an_optimizer_are_no_weights(tmp_path: Path) -> None:
    """A dict that was saved flat, as Megatron does, has its optimizer apart, which stays as it is."""
    moment = torch.arange(1.0, 36.0).reshape(5, 7)
    state = {**WEIGHTS, "optimizer.state.exp_avg.a.weight": moment, "optimizer.count.weight": moment}
    folder = save_distributed(tmp_path / "d", state, rows(2))

    report = prune(folder, Global(amount=0.5), output=tmp_path / "out", reports=())

    assert [row.name for row in report.rows if row.selected] == ["a.weight"]
    after = read_distributed(tmp_path / "out")
    assert same_bits(moment, after["optimizer.state.exp_avg.a.weight"])


def test_optimizer_state_that_is_not_whole_does_not_matter(tmp_path: Path) -> None:
    """A gap in the state of an optimizer, or an extension, is no error of the model; the entry is named as such."""
    folder = save_distributed(tmp_path / "d", STATE, rows(2))
    path = folder / ".metadata"
    whole = pickle.loads(path.read_bytes())  # noqa: S301 - our own
    whole.state_dict_metadata["optim.state.a.weight.exp_avg"].chunks.pop()
    path.write_bytes(pickle.dumps(whole))

    checkpoint = open_checkpoint(folder)

    kind = "tensor that cannot be put together: its chunks leave a gap"
    assert (("optim.state.a.weight.exp_avg", kind),) == checkpoint.unprunable_entries
    assert prune(folder, Global(amount=0.5), output=tmp_path / "out", reports=()).rows[0].zeros_after == 18


def test_a_key_takes_another_part(tmp_path: Path) -> None:
    """With a key, the tensors at this key are pruned and all others stay."""
    folder = save_distributed(tmp_path / "d", STATE, rows(2))

    prune(folder, Global(amount=0.5), key="optim.state", include=("*",), output=tmp_path / "out", reports=())

    after = read_distributed(tmp_path / "out")
    assert same_bits(WEIGHTS["a.weight"], after["model"]["a.weight"])
    assert int((after["optim"]["state"]["a.weight"]["exp_avg"] == 0).sum()) == 18
    assert "'nothing'" in str(refused_with_key(folder))


def refused_with_key(folder: Path) -> Exception:
    """Return the error for a key that is not there."""
    with pytest.raises(Exception, match="has no tensors at the key") as caught:
        open_checkpoint(folder, key="nothing")
    return caught.value


def test_dtypes_that_are_no_plain_tensors_are_entries(tmp_path: Path) -> None:
    """A tensor of a dtype without a name in safetensors is listed by its kind, and the others are pruned."""
    folder = save_distributed(tmp_path / "d", WEIGHTS, rows(1), ranks=1)
    path = folder / ".metadata"
    whole = pickle.loads(path.read_bytes())  # noqa: S301 - our own
    whole.state_dict_metadata["a.bias"].properties.dtype = torch.float4_e2m1fn_x2
    path.write_bytes(pickle.dumps(whole))

    assert open_checkpoint(folder).unprunable_entries == (("a.bias", "tensor of float4_e2m1fn_x2"),)


def test_the_parts_in_headers_are_put_together(tmp_path: Path) -> None:
    """Files of safetensors without metadata are one checkpoint; a note says what is unknown."""
    folder = save_distributed(tmp_path / "d", make_weights(), rows(3), layout="headers", ranks=3)
    whole = save_distributed(tmp_path / "w", make_weights(), mixed, ranks=3)

    report = prune(folder, Global(amount=0.6), output=tmp_path / "out", reports=())
    prune(whole, Global(amount=0.6), output=tmp_path / "other", reports=())

    assert report.format == "DCP safetensors"
    assert any("no file lists all parts" in fact for fact in report.facts)
    after, other = read_distributed(tmp_path / "out"), read_distributed(tmp_path / "other")
    assert not [name for name in other if not same_bits(other[name], after[name])]


def test_the_shards_of_a_consolidated_directory_are_no_checkpoint_of_it(tmp_path: Path) -> None:
    """A directory with an index is what the index says; the parts below it are copied, and a note says so."""
    from safetensors.torch import save_file

    save_distributed(tmp_path / "d" / "sharded", WEIGHTS, rows(2), layout="headers")
    save_file(WEIGHTS, tmp_path / "d" / "model-00001-of-00001.safetensors")

    checkpoint = open_checkpoint(tmp_path / "d")

    assert checkpoint.assembly is None
    assert any("copied unchanged, though they may hold weights" in note for note in checkpoint.notes)


def test_empty_chunks_and_scalars_are_whole(tmp_path: Path) -> None:
    """Ranks without rows, scalars and empty tensors are listed, and the rest is pruned."""
    state = {"w.weight": torch.arange(1.0, 7.0).reshape(2, 3), "s": torch.tensor(5.0), "e": torch.zeros(0, 3)}
    empty = ((2, 0), (0, 3))
    folder = save_distributed(
        tmp_path / "d", state, lambda n, t: [*grid(t.shape, (2,)), *([empty] if n == "w.weight" else [])], ranks=3
    )

    prune(folder, Global(count=2), output=tmp_path / "out", reports=())

    assert read_distributed(tmp_path / "out")["w.weight"].tolist() == [[0, 0, 3], [4, 5, 6]]


def test_a_file_that_is_named_nowhere_is_copied_with_a_note(tmp_path: Path) -> None:
    """A file of an earlier save with more ranks stays, and a note names it."""
    folder = save_distributed(tmp_path / "d", WEIGHTS, rows(2))
    (folder / "__7_0.distcp").write_bytes(b"old")

    report = prune(folder, Global(amount=0.5), output=tmp_path / "out", reports=())

    assert (tmp_path / "out" / "__7_0.distcp").read_bytes() == b"old"
    assert any("the metadata names them nowhere: __7_0.distcp" in fact for fact in report.facts)


def test_the_metadata_of_each_rank_is_read_where_ranks_wrote_their_own(tmp_path: Path) -> None:
    """Chunks of all ranks make whole tensors; a tensor of which each rank has a copy is not pruned."""
    folder = tmp_path / "d"
    whole = {"w.weight": torch.arange(1.0, 13.0).reshape(4, 3), "b.weight": torch.ones(2, 3)}
    for rank in range(2):
        own = save_distributed(
            tmp_path / f"{rank}", whole, lambda n, t: grid(t.shape, (2,)) if n == "w.weight" else grid(t.shape, (1,))
        )
        _keep_rank(own, rank)
        folder.mkdir(exist_ok=True)
        shutil.copy(own / ".metadata", folder / f"__{rank}.metadata")
        shutil.copy(own / f"__{rank}_0.distcp", folder / f"__{rank}_0.distcp")

    prune(folder, Global(amount=0.5), output=tmp_path / "out", reports=())

    entries = {entry.name: entry.reason for entry in inspect(folder).entries}
    assert entries == {"w.weight": None, "b.weight": "each rank has stored a copy of its own"}
    assert sum(entry.zeros or 0 for entry in inspect(tmp_path / "out").entries) == 6


def _keep_rank(folder: Path, rank: int) -> None:
    """Reduce a checkpoint to what one rank writes without the others."""
    from torch.distributed.checkpoint import metadata as classes

    whole = pickle.loads((folder / ".metadata").read_bytes())  # noqa: S301 - our own
    place = whole.storage_data.pop(classes.MetadataIndex("b.weight", [0, 0]))
    whole.storage_data = {i: p for i, p in whole.storage_data.items() if p.relative_path == f"__{rank}_0.distcp"}
    rows_of_rank = [c for c in whole.state_dict_metadata["w.weight"].chunks if c.offsets[0] == 2 * rank]
    whole.state_dict_metadata["w.weight"].chunks = rows_of_rank
    content = (folder / place.relative_path).read_bytes()[place.offset : place.offset + place.length]
    own = folder / f"__{rank}_0.distcp"
    place.relative_path, place.offset = own.name, own.stat().st_size
    own.write_bytes(own.read_bytes() + content)
    whole.storage_data[classes.MetadataIndex("b.weight", [0, 0])] = place
    (folder / ".metadata").write_bytes(pickle.dumps(whole))


def test_other_numbers_of_ranks_are_the_same_checkpoint(tmp_path: Path) -> None:
    """Two saves of the same state by 1 and by 3 ranks, in rows and in any other chunks, do not differ."""
    one = save_distributed(tmp_path / "1", STATE, rows(1), ranks=1)
    three = save_distributed(tmp_path / "3", STATE, mixed, ranks=3)

    found = diff(one, three)

    assert found.same
    assert len(found.tensors) == 4


def test_the_metadata_is_copied_and_ties_are_taken_in_row_major_order(tmp_path: Path) -> None:
    """Of equal weights the first ones of the whole tensor are pruned, wherever they are stored."""
    state = {"w.weight": torch.full((4, 6), 0.5)}
    folder = save_distributed(tmp_path / "d", state, lambda _, t: grid(t.shape, (2, 3)), ranks=6)

    prune(folder, Global(count=8), output=tmp_path / "out", reports=())

    after = read_distributed(tmp_path / "out")["w.weight"]
    np.testing.assert_array_equal(np.arange(24) < 8, bits(after).reshape(-1) == 0)
    assert (folder / ".metadata").read_bytes() == (tmp_path / "out" / ".metadata").read_bytes()


def test_a_directory_that_is_not_there_yet_is_refused(tmp_path: Path) -> None:
    """Files of chunks without a list of them are refused with a hint."""
    folder = save_distributed(tmp_path / "d", WEIGHTS, rows(2))
    (folder / ".metadata").unlink()

    assert f"copy it to {folder / '.metadata'}" in (refused(folder).hint or "")
