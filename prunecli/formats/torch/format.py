"""The formats of torch.save, torch.jit.save and torch.export.save, as values for the list of formats.

All but the format before torch 1.6 are zip archives. Only the archive's directory distinguishes them, so the reader
of TORCH_ZIP reads all three and sets the format's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from prunecli.formats.format import Format

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from prunecli.checkpoint import Span
    from prunecli.formats.extras import Extras
    from prunecli.formats.listing import Listing
    from prunecli.io.parts import FilePlan

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of a legacy file is this number."""


def _is_zip(head: bytes) -> bool:
    return head.startswith(b"PK\3\4")


def is_legacy(head: bytes) -> bool:
    """Return whether `head` (32 bytes or more) begins a file in the format before torch 1.6."""
    return head[:1] == b"\x80" and LEGACY_MAGIC.to_bytes(10, "little") in head[:32]


def _read_zip(file: BinaryIO, label: str, keys: Sequence[str]) -> Listing:
    from prunecli.formats.torch.reader import read_torch_zip

    return read_torch_zip(file, label, keys)


def _read_legacy(file: BinaryIO, label: str, keys: Sequence[str]) -> Listing:
    from prunecli.formats.torch.reader import read_torch_legacy

    return read_torch_legacy(file, label, keys)


def _zip_contents(file: BinaryIO, label: str, tensor_spans: Collection[Span]) -> Iterator[tuple[str, str]]:
    from prunecli.formats.torch.contents import zip_contents

    return zip_contents(file, label, tensor_spans)


def _legacy_contents(file: BinaryIO, label: str, tensor_spans: Collection[Span]) -> Iterator[tuple[str, str]]:
    from prunecli.formats.torch.contents import legacy_contents

    return legacy_contents(file, label, tensor_spans)


def _rewrite_zip(file: BinaryIO, label: str, names: Mapping[str, str | None]) -> FilePlan:
    from prunecli.formats.torch.rewrite import rewrite_torch_zip

    return rewrite_torch_zip(file, label, names)


def _rewrite_legacy(file: BinaryIO, label: str, names: Mapping[str, str | None]) -> FilePlan:
    from prunecli.formats.torch.rewrite import rewrite_torch_legacy

    return rewrite_torch_legacy(file, label, names)


def _zip_extras(file: BinaryIO, label: str, names: Collection[str]) -> Extras:
    from prunecli.formats.torch.contents import zip_extras

    return zip_extras(file, label, names)


def _legacy_extras(file: BinaryIO, label: str, names: Collection[str]) -> Extras:
    from prunecli.formats.torch.contents import legacy_extras

    return legacy_extras(file, label, names)


def _program(_: BinaryIO, __: str, ___: Collection[str]) -> Extras:
    from prunecli.formats.extras import Extras

    return Extras(rest=(("the program", "code and constants"),))


TORCH_ZIP = Format("torch zip", "torch", _is_zip, _read_zip, _zip_contents, _rewrite_zip, extras=_zip_extras)
TORCH_LEGACY = Format(
    "torch legacy", "torch", is_legacy, _read_legacy, _legacy_contents, _rewrite_legacy, extras=_legacy_extras
)
TORCHSCRIPT = Format("TorchScript", "TorchScript", None, _read_zip, _zip_contents, extras=_program)
TORCH_EXPORT = Format("torch.export", "torch.export", None, _read_zip, _zip_contents, extras=_program)
