"""Decide which files of a directory are its model: by an index, by numbered names, or because there is only one file.

Nothing else makes several files one model: a folder of adapters, or of variants of a model, is refused.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from prunecli.errors import CheckpointError, SameCall
from prunecli.formats.own_files import is_own_folder, is_own_name
from prunecli.remote.path import RemotePath
from prunecli.text.escape import listed
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

TORCH_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt", ".th")
"""The suffixes of torch files that are searched in a directory. A file that the user names may have any suffix."""

OTHER_SUFFIXES = (".onnx", ".gguf", ".npz", ".h5")
"""The suffixes of other files with weights, of which a directory without the ones above may have one."""

WEIGHT_SUFFIXES = (".safetensors", *TORCH_SUFFIXES, *OTHER_SUFFIXES)
"""The suffixes of files that may hold weights."""

SAVE_FULL = "where the model is trained, save a full state_dict: StateDictOptions(full_state_dict=True)"
"""The hint for a distributed checkpoint. No command: torch's own converter unpickles the file, which runs its code."""

_SAFE, _TORCH, _OTHER = range(3)
_NAMED = 5  # names that a message lists before it counts the rest
_INDEX = r"(?s)(?P<stem>.+)\.index(\.[\w-]+)?\.json"  # diffusers puts the variant after `index`
_FOREIGN_INDEXES = (".h5", ".msgpack")  # TensorFlow's and Flax's, which transformers writes too
_SHARD = r"(?s)(?P<stem>.+)-(?P<number>\d{5,6})-of-(?P<count>\d{5,6})(?P<suffix>\.\w+)"
_PART_OF_TENSORS = r"consolidated\.\d+\.pth"
# Of transformers and accelerate.
_TRAINING_STATE = (
    r"(training_args|optimizer|scheduler|scaler|sampler|rng_state|random_states|dl_state)(_\d+)*\.(bin|pt|pth)"
)


@dataclass(frozen=True, slots=True)
class Model:
    """The files of a model: an index, or else the names of all files with its tensors."""

    index: Path | None = None
    shards: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The names of a directory that may be a model: indexes, numbered sets, and single files."""

    indexes: tuple[str, ...]
    sets: tuple[tuple[str, ...], ...]
    files: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """All names, those that are likely to be meant first."""
        single = [*self.files, *(name for members in self.sets for name in members)]
        return [*self.indexes, *sorted(single, key=lambda name: (_kind(name), len(name), name))]

    def of(self, kind: int) -> _Candidates:
        """Return the candidates of one kind: safetensors, torch or others."""
        return _Candidates(
            tuple(name for name in self.indexes if _kind(stem_of_index(name)) == kind),
            tuple(members for members in self.sets if _kind(members[0]) == kind),
            tuple(name for name in self.files if _kind(name) == kind),
        )


def is_index_name(name: str) -> bool:
    """Return whether a file of this name is an index of shards."""
    return re.fullmatch(_INDEX, name) is not None


def is_training_state(name: str) -> bool:
    """Return whether trainers write a file of this name next to the model; it holds no weights."""
    return re.fullmatch(_TRAINING_STATE, name) is not None


def stem_of_index(name: str) -> str:
    """Return the name of an index without its suffix: the name that the model would have as one file."""
    match = re.fullmatch(_INDEX, name)
    return match["stem"] if match else name


def choose_model(directory: Path, names: Sequence[str], is_torch: Callable[[Path], bool]) -> Model:
    """Return the model among the files `names` of `directory`.

    Outputs of this tool are considered only if there is no other checkpoint. `is_torch` returns whether a file is a
    torch file. Raises CheckpointError if there is no checkpoint, if shards are missing, or if there may be several.
    """

    def candidates(chosen: Iterable[str]) -> _Candidates:
        weights = [name for name in chosen if not is_training_state(name) and not name.startswith(".")]
        return _candidates(weights, lambda name: is_torch(directory / name))

    found = candidates(name for name in names if not is_own_name(name))
    if not found.of(_SAFE).names:
        _refuse_foreign(directory, names)
    found = found if found.names else candidates(names)
    if not found.names:
        _refuse_empty(directory, names)
    return _chosen(directory, found)


def _candidates(names: Sequence[str], is_torch: Callable[[str], bool]) -> _Candidates:
    indexes = tuple(n for n in names if is_index_name(n) and not stem_of_index(n).endswith(_FOREIGN_INDEXES))
    weights = [n for n in names if _kind(n) == _SAFE or (n.endswith(TORCH_SUFFIXES) and is_torch(n))]
    if not weights and not indexes:
        weights = [n for n in names if _kind(n) == _OTHER]
    sets: dict[tuple[str, ...], list[str]] = {}
    for name in weights:
        if match := re.fullmatch(_SHARD, name):
            sets.setdefault((match["stem"], match["count"], match["suffix"]), []).append(name)
    single = tuple(name for name in weights if not re.fullmatch(_SHARD, name))
    return _Candidates(indexes, tuple(map(tuple, sets.values())), single)


def _kind(name: str) -> int:
    """Return the kind of a file by its name, in the order in which models are chosen."""
    if name.endswith(OTHER_SUFFIXES):
        return _OTHER
    return _SAFE if name.endswith(".safetensors") else _TORCH


def _chosen(directory: Path, found: _Candidates) -> Model:
    """Return the model among candidates: safetensors before torch, and an index before a set before a single file."""
    safe, torch, others = (found.of(kind) for kind in (_SAFE, _TORCH, _OTHER))
    if not safe.indexes and torch.indexes and safe.names:
        _refuse_two_formats(directory, found)
    for group in (safe, torch, others):
        if group.indexes:
            if len(group.indexes) > 1:
                _refuse_indexes(directory, group.indexes)
            return Model(directory / group.indexes[0])
        if len(group.sets) == 1:
            _check_complete(directory, group.sets[0])
            return Model(shards=group.sets[0])
        if group.names:
            break
    if len(found.names) > 1:
        _refuse_several(directory, found)
    return Model(shards=(found.names[0],))


def _refuse_indexes(directory: Path, indexes: Sequence[str]) -> NoReturn:
    raise CheckpointError(
        f"{directory} has {len(indexes)} indexes: {listed(indexes, _NAMED)}",
        hint=("name the one you mean: ", SameCall(str(directory), str(directory / indexes[0]))),
    )


def _refuse_two_formats(directory: Path, found: _Candidates) -> NoReturn:
    raise CheckpointError(
        f"{directory} has an index of torch files and, not in it, safetensors files, and loaders differ in which they "
        f"take: {listed(found.names, _NAMED)}",
        hint=("name the one you mean: ", SameCall(str(directory), str(directory / found.names[0]))),
    )


def _refuse_several(directory: Path, found: _Candidates) -> NoReturn:
    """Raise the error for a directory that may hold several models."""
    names = found.names
    first = SameCall(str(directory), str(directory / names[0]))
    parts = [name for name in names if re.fullmatch(_PART_OF_TENSORS, name)]
    if len(parts) == len(names):
        raise CheckpointError(
            f"{directory} has {len(parts)} files that each hold a part of every tensor, and parts cannot be ranked"
            f" together: {listed(parts, _NAMED)}",
            hint=("each file can be pruned alone: ", first),
        )
    raise CheckpointError(
        f"{directory} has {len(names)} checkpoint files, and nothing says that they are one model: "
        f"{listed(names, _NAMED)}",
        hint=("name the one you mean: ", first),
    )


def _check_complete(directory: Path, members: tuple[str, ...]) -> None:
    """Refuse a set of shards if some of the numbers that its names announce are missing, or if others are there."""
    match = re.fullmatch(_SHARD, members[0])
    if match is None:
        return
    present, (start, end), count = set(members), match.span("number"), int(match["count"])
    for number in range(1, count + 1):
        name = f"{members[0][:start]}{number:0{end - start}}{members[0][end:]}"
        if name not in present:
            raise missing_shard(directory, name)
        present.remove(name)
    if present:
        raise CheckpointError(
            f"{directory / min(present)} is not one of the shards 1 to {count}",
            hint=("name one of the files: ", SameCall(str(directory), str(directory / members[0]))),
        )


def missing_shard(directory: Path, shard: str) -> CheckpointError:
    """Return the error for a shard that is not in its directory."""
    return CheckpointError(f"{directory} lacks the shard {shard}", hint=f"download or copy it to {directory / shard}")


def _refuse_foreign(directory: Path, names: Sequence[str]) -> None:
    if "saved_model.pb" in names:
        raise CheckpointError(f"{directory} is a TensorFlow SavedModel", hint="save its variables as safetensors first")
    if any(".data-00000-of-" in name for name in names):
        raise CheckpointError(f"{directory} is a TensorFlow checkpoint", hint="save its variables as safetensors first")


def _names_below(directory: Path) -> list[str]:
    """Return the names of the files in the folders of a directory, and in their folders, relative to it."""
    if isinstance(directory, RemotePath):
        return [name for name in directory.below() if 1 <= name.count("/") <= 2]
    below = (*directory.glob("*/*"), *directory.glob("*/*/*"))
    return [str(path.relative_to(directory)) for path in below]


def _refuse_empty(directory: Path, names: Sequence[str]) -> NoReturn:
    """Raise the error for a directory without a checkpoint; its hint names a folder below that has one."""
    if "zero_to_fp32.py" in names:
        raise CheckpointError(
            f"{directory} is a DeepSpeed checkpoint, whose weights are split over several files",
            hint="where the model is trained, save one file: model_engine.save_16bit_model(folder)",
        )
    found = {str(Path(name).parent) for name in _names_below(directory) if Path(name).suffix in WEIGHT_SUFFIXES}
    folders = sorted(name for name in found if not is_own_folder(name, found))
    if folders:
        raise CheckpointError(
            f"{directory} holds no checkpoint itself, but its folders may: {listed(folders, _NAMED)}",
            hint=("name the folder with the checkpoint: ", SameCall(str(directory), str(directory / folders[0]))),
        )
    files = f"none of its {len(names)} files has the suffix of one, such as .safetensors, .pth, .gguf or .onnx"
    raise CheckpointError(
        f"{directory} holds no checkpoint: {files if names else 'it is empty'}",
        hint=shlex.join(["ls", str(directory)]),
    )
