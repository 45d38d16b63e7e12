"""What a checkpoint file holds besides the tensors that are taken, as far as another format needs to know it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Extras:
    """The other contents of one file.

    Attributes:
        texts: The numbers and strings by dotted name, as texts.
        rest: The name and the kind of everything else, such as ("optimizer", "240 tensors").
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    rest: tuple[tuple[str, str], ...] = ()
