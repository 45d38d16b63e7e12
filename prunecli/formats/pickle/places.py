"""Places in a pickled object where a tensor cannot be listed, such as the attributes of a dict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.formats.pickle.leaves import is_leaf
from prunecli.formats.pickle.reader import Call, Key, Persistent

if TYPE_CHECKING:
    from collections.abc import Iterator


class Empty:
    """Checks that values contain no tensor; each value is visited once."""

    def __init__(self) -> None:
        """Start without a value."""
        self.seen: dict[int, object] = {}  # by id, the containers that contain no tensor

    def check(self, value: object, place: str) -> None:
        """Raise ValueError if there is a tensor or storage below `value`; `place` describes it in the message."""
        pending = [value]
        while pending:
            item = pending.pop()
            if isinstance(item, Persistent) or is_leaf(item):
                raise ValueError(f"a tensor is {place}, where it cannot be listed")
            if isinstance(item, (dict, list, tuple, Call)) and id(item) not in self.seen:
                self.seen[id(item)] = item
                pending.extend(_parts(item))


def _parts(item: object) -> Iterator[object]:
    if isinstance(item, dict):
        yield from item.values()
        yield from (key.value for key in item if isinstance(key, Key))
    elif isinstance(item, (list, tuple)):
        yield from item
    elif isinstance(item, Call):
        yield from (part for _, part in item.parts())
