"""Warnings about a result: fixed filters among the weights, and less zeros than the request asks for."""

from __future__ import annotations

from glob import escape
from typing import TYPE_CHECKING

from prunecli.errors import Argument, Notice
from prunecli.text.escape import listed, printable
from prunecli.text.numbers import counted, magnitude, plural
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.engine.work import Job, Work
    from prunecli.errors import Hint
    from prunecli.report.model import Row

REMAINING: Hint = (Argument("of", "remaining"), " takes the amount of the weights that are not zero yet")
"""What to do where zeros of the input use up the amount."""

MOSTLY, FEW = 0.9, 0.1
"""The part of zeros above which a tensor may be a fixed filter, and below which others are not pruned yet."""

_NAMED = 2  # rules and tensors that a warning lists


@dataclass(frozen=True, slots=True)
class _Request:
    """Tensors that are ranked together, and the number of their weights that the strategy asks to be zero."""

    rows: tuple[Row, ...]
    asked: int

    @property
    def numel(self) -> int:
        return sum(row.numel for row in self.rows)

    @property
    def zeros(self) -> int:
        return sum(row.zeros_before or 0 for row in self.rows)

    @property
    def pruned(self) -> int:
        return sum(row.pruned or 0 for row in self.rows)

    @property
    def used_up(self) -> bool:
        """Whether zeros of the input took at least half of the requested weights, and other weights remain."""
        return 0 < self.asked >= 2 * self.pruned and 0 < self.zeros < self.numel - self.pruned


def outcome_notices(work: Work, rows: Sequence[Row]) -> tuple[Notice, ...]:
    """Return warnings about tensors that may be fixed filters, and about less pruning than was asked for.

    The latter is due to zeros of the input that use up the amount, or no weight became zero for another reason. `rows`
    are the rows of the targets, in their order.
    """
    return (*_fixed_filters(rows), *_less_than_asked(work, rows))


def _fixed_filters(rows: Sequence[Row]) -> Iterator[Notice]:
    """Yield a warning if most of the weights are in tensors that are mostly zeros, and the other tensors are not."""
    sparse = [row for row in rows if (row.zeros_before or 0) > MOSTLY * row.numel]
    others = [row for row in rows if (row.zeros_before or 0) <= MOSTLY * row.numel]
    count, rest = (sum(row.numel for row in part) for part in (sparse, others))
    if not others or count <= rest or sum(row.zeros_before or 0 for row in others) > FEW * rest:
        return
    largest = max(sparse, key=lambda row: row.numel)
    more = f" and of {counted(len(sparse) - 1, 'other tensor')}" if len(sparse) > 1 else ""
    yield Notice(
        f"{count:,} of the {count + rest:,} selected weights are those of {printable(largest.name)}{more}, over "
        f"{MOSTLY:.0%} zero before: fixed filters, such as mel filter banks, are no trained weights",
        hint=(Argument("exclude", [printable(escape(row.name)) for row in sparse[:_NAMED]]), " leaves them out"),
    )


def _less_than_asked(work: Work, rows: Sequence[Row]) -> tuple[Notice, ...]:
    """Return the warning about an amount that zeros use up, or the one that says why no weight became zero."""
    requests = [request for job in work.jobs for request in _requests(work, job, rows)]
    used_up = [request for request in requests if request.used_up]
    if used_up:
        return (_already_zero(used_up),)
    if not rows or any(row.pruned for row in rows):
        return ()
    if requests and not any(request.asked for request in requests):
        numel = sum(request.numel for request in requests)
        return (Notice(f"nothing is pruned: the request is for 0 of {numel:,} weights"),)
    return tuple(_nothing(work, rows))


def _requests(work: Work, job: Job, rows: Sequence[Row]) -> Iterator[_Request]:
    """Yield what a job asks for, unless it leaves out the weights that are already pruned."""
    if job.sources.has_pruned:
        return
    for members, asked in job.strategy.asked([work.selection.targets[member].tensor for member in job.members]):
        yield _Request(tuple(rows[job.members[member]] for member in members), asked)


def _already_zero(requests: Sequence[_Request]) -> Notice:
    rows = [row for request in requests for row in request.rows]
    largest = max(rows, key=lambda row: row.numel)
    others = f" and {counted(len(rows) - 1, 'other tensor')}" if len(rows) > 1 else ""
    zeros, numel, pruned, asked = (
        sum(getattr(request, key) for request in requests) for key in ("zeros", "numel", "pruned", "asked")
    )
    become = plural(pruned, "weight becomes", "weights become")
    return Notice(
        f"{zeros:,} of the {numel:,} weights of {printable(largest.name)}{others} are already zero and count as "
        f"pruned: {pruned:,} {become} zero, not {asked:,}",
        hint=REMAINING,
    )


def _nothing(work: Work, rows: Sequence[Row]) -> Iterator[Notice]:
    """Yield the reason why no weight became zero, unless the strategies have given it before the run."""
    tensors, zeros = [target.tensor for target in work.selection.targets], sum(row.zeros_before or 0 for row in rows)
    said = any(job.strategy.warnings([tensors[member] for member in job.members]) for job in work.jobs)
    if said and not zeros:
        return
    rules = listed([printable(rule) for rule in dict.fromkeys(row.rule or "" for row in rows)], _NAMED)
    amounts = any(job.strategy.describe().get("amount") and not job.sources.has_pruned for job in work.jobs)
    before = f"; {zeros:,} of {sum(row.numel for row in rows):,} weights were zero before" if zeros else ""
    detail = before if amounts else _smallest(rows) or before
    yield Notice(
        f"nothing is pruned: the rule ({rules}) chooses no weight that is not zero{detail}",
        hint=REMAINING if zeros and amounts and not said else None,
    )


def _smallest(rows: Sequence[Row]) -> str:
    """Return the smallest magnitude of the tensors that are cut at a magnitude, if there is one."""
    known = [(row.smallest_kept, row.name) for row in rows if row.cut is not None and row.smallest_kept is not None]
    if not known:
        return ""
    value, name = min(known, key=lambda pair: pair[0])
    return f"; the smallest magnitude is {magnitude(value)}, in {printable(name)}"
