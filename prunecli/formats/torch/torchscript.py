"""Find the parameters and buffers of the modules in a TorchScript archive.

The pickle holds objects of classes that the archive itself defines. The code of each class begins with two lists: the
names of its parameters and of its buffers. Only these lists are read; nothing is compiled.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from prunecli.formats.pickle.reader import Call, Global

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from prunecli.formats.torch.records import Archive
    from prunecli.formats.zip.directory import Record

CODE_LIMIT = 1 << 24
"""The total of code, in bytes before and after decompression, that is read; later classes are treated as unknown."""

_FILE_LIMIT = 1 << 22
_CLASS = re.compile(r"^class (\w+)\(Module\):\n  __parameters__ = \[(.*)\]\n  __buffers__ = \[(.*)\]\n", re.MULTILINE)
_NAME = re.compile(r'"([^"]*)"')

Classes: TypeAlias = dict[Global, tuple[tuple[str, ...], tuple[str, ...]]]
"""The class of a module -> the names of its parameters and the names of its buffers."""


def is_script(records: Collection[str]) -> bool:
    """Return whether a zip with these record names was written by torch.jit.save."""
    return any(name.endswith("/constants.pkl") or "/code/" in name for name in records)


def read_classes(archive: Archive) -> Classes:
    """Return the module classes that the code in the archive defines. Unreadable code is skipped."""
    classes: Classes = {}
    remaining = CODE_LIMIT
    for name, record in archive.records.items():
        if not (name.startswith("code/") and name.endswith(".py")) or remaining <= 0:
            continue
        text = _inflated(archive.file, record, min(remaining, _FILE_LIMIT))
        remaining -= len(text)
        module = name.removeprefix("code/").removesuffix(".py").replace("/", ".")
        for class_name, parameters, buffers in _CLASS.findall(text):
            classes[Global(module, class_name)] = tuple(_NAME.findall(parameters)), tuple(_NAME.findall(buffers))
    return classes


def _inflated(file: BinaryIO, record: Record, limit: int) -> str:
    file.seek(record.span.start)
    data = file.read(min(record.span.length, limit))
    if record.compressed:
        try:
            # The limit stops a small record that would inflate to gigabytes.
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, limit)
        except zlib.error:
            return ""
    return data.decode("utf-8", "replace")


def sort_attributes(root: object, classes: Classes) -> None:
    """Replace the state of every module below `root` by the three registries of an nn.Module, in place.

    Attributes that are not part of a state_dict are dropped. Objects of unknown classes are not changed.
    """
    seen: set[int] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        if not isinstance(node, Call) or id(node) in seen or not isinstance(node.state, dict):
            continue
        seen.add(id(node))
        stack += node.state.values()
        if isinstance(node.func, Global) and node.func in classes:
            node.state = _registries(node.state, *classes[node.func])


def _registries(
    attributes: dict[object, object], parameters: tuple[str, ...], buffers: tuple[str, ...]
) -> dict[object, object]:
    listed = {*parameters, *buffers}
    return {
        "_parameters": {name: attributes[name] for name in parameters if name in attributes},
        "_buffers": {name: attributes[name] for name in buffers if name in attributes},
        "_modules": dict(_modules(attributes, listed)),
    }


def _modules(attributes: dict[object, object], listed: set[str]) -> Iterator[tuple[object, object]]:
    for name, value in attributes.items():
        if name not in listed and isinstance(value, Call) and _is_class(value.func):
            yield name, value


def _is_class(func: object) -> bool:
    return isinstance(func, Global) and func.module.partition(".")[0] == "__torch__"
