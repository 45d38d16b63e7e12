"""Several processes measure the tensors of a checkpoint: each a run of them, and all get all results."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeVar

from prunecli.distributed.agreement import agree, file_facts
from prunecli.distributed.current import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prunecli.checkpoint import Checkpoint

T = TypeVar("T")


def in_parts(
    checkpoints: Sequence[Checkpoint],
    sizes: Sequence[int],
    compute: Callable[[range], list[T]],
    make: Callable[..., T],
) -> list[T]:
    """Return the results of all items, of these sizes in bytes; `compute` returns those of a run of positions.

    A result is a tuple of numbers and texts, or a dataclass of them; `make` makes one from its fields. The processes
    must see the same `checkpoints`.
    """
    group = processes()
    if group.size == 1:
        return compute(range(len(sizes)))
    agree(group, {name: fact for checkpoint in checkpoints for name, fact in file_facts(checkpoint)})
    own = [_fields(result) for result in compute(_own(sizes, group.rank, group.size))]
    sent = group.gather(json.dumps(own, default=int).encode())
    return [make(*_tuples(fields)) for part in sent for fields in json.loads(part)]


def _own(sizes: Sequence[int], rank: int, count: int) -> range:
    """Return the positions of a process: those whose middle is in its part of all bytes."""
    total = max(sum(sizes), 1)
    ends = accumulate(sizes)
    owners = [min(count * (2 * end - size) // (2 * total), count - 1) for size, end in zip(sizes, ends, strict=True)]
    return range(sum(owner < rank for owner in owners), sum(owner <= rank for owner in owners))


def _fields(result: Any) -> list[Any]:  # noqa: ANN401 - a tuple or a dataclass
    if isinstance(result, tuple):
        return list(result)
    return [getattr(result, name) for name in result.__dataclass_fields__]


def _tuples(value: Any) -> Any:  # noqa: ANN401 - of JSON
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
