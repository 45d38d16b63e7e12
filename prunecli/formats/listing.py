"""The result of reading one checkpoint file, the same for every format."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prunecli.checkpoint import Checksum, TensorInfo
    from prunecli.io.inflated import Inflated


@dataclass(frozen=True, slots=True)
class Listing:
    """The tensors of one file, and facts about the file.

    Attributes:
        format: The name of the format, see `prunecli.formats.registry.FORMATS`.
        tensors: The tensors of the state_dict in file order (safetensors: in name order), then those outside it. All
            have `file` = 0, but those in `data_files`.
        checksums: The checksums that cover tensor data.
        keys: The dotted paths of the state_dicts inside the file that are taken; none for the top.
        parts: The keys of the state_dicts that the top consists of, where it is taken as one.
        metadata: The file's own key-value texts (safetensors only).
        notes: Sentences about the file that a user may want to know.
        unprunable_entries: The name and kind of each entry that has no plain tensor, such as a sparse tensor.
        is_module: Whether the state_dict is that of a whole pickled module.
        inflated: The parts of the file if some are compressed; all places are those after they are inflated.
        data_files: The paths of other files, relative to the folder of this one, that have numbers of tensors: those of
            the tensors with `file` = 1, 2 and so on.
    """

    format: str
    tensors: tuple[TensorInfo, ...]
    checksums: tuple[Checksum, ...] = ()
    keys: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unprunable_entries: tuple[tuple[str, str], ...] = ()
    is_module: bool = False
    inflated: Inflated | None = field(default=None, repr=False)
    data_files: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The key of the state_dict if one is taken, "" for the top or for several."""
        return self.keys[0] if len(self.keys) == 1 else ""
