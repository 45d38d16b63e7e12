"""What the processes of one run tell each other about the tensors that each of them owns."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from prunecli.engine.measure import TensorStats
from prunecli.plans import Cut
from prunecli.report.histogram import BeforeAfter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prunecli.distributed.group import Group
    from prunecli.engine.part import Part
    from prunecli.plans import TensorPlan


def gathered(part: Part, plans: dict[int, TensorPlan], tensors: Mapping[int, TensorStats]) -> Mapping[int, TensorStats]:
    """Return the measurements of all targets.

    `plans` gets a plan of each target of another process, which has what the report says about a plan.
    """
    rows = [_row(index, plans[index], stats) for index, stats in tensors.items()]
    result = dict(tensors)
    for sent in part.group.gather(json.dumps(rows).encode()):
        for index, value, equal, pruned, *numbers in json.loads(sent):
            if not part.has(index):
                plans[index] = Cut(0, 0, equal, pruned, value)
                result[index] = _stats(numbers)
    return result


def _row(index: int, plan: TensorPlan, stats: TensorStats) -> list[Any]:
    cut = plan if isinstance(plan, Cut) else Cut(0)
    return [index, plan.value, cut.equal, cut.equal_pruned, *stats[:-1], _histogram(stats.histogram)]


def _histogram(histogram: BeforeAfter | None) -> list[Any] | None:
    if histogram is None:
        return None
    return [histogram.dtype, histogram.first, list(histogram.before), list(histogram.after)]


def _stats(numbers: Sequence[Any]) -> TensorStats:
    *counts, histogram = numbers
    stats = TensorStats(*counts)
    return stats if histogram is None else stats._replace(histogram=BeforeAfter(*histogram))


def gathered_checksums(group: Group, parts: Iterable[Sequence[int]]) -> list[Sequence[int]]:
    """Return what all processes pass, each a few integers, in the order of the ranks."""
    own = json.dumps([list(part) for part in parts]).encode()
    return [part for sent in group.gather(own) for part in json.loads(sent)]
