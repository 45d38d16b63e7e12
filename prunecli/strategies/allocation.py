"""How many weights each tensor gives up when an amount is shared out among tensors by their shapes alone.

Shares are exact fractions until the last step, which makes them whole numbers that add up to the count that was
asked for. Nothing here knows about names, weights or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor, prod
from typing import TYPE_CHECKING

from prunecli.errors import UsageError
from prunecli.strategies.amounts import check_amount, resolve_count
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS = ("uniform", "erk", "uniform+")
"""The ways to share out an amount."""

LAST_KEEPS = Fraction(1, 5)
"""The part of the last layer that uniform+ keeps."""


@dataclass(frozen=True, slots=True)
class Share:
    """One tensor's part of a plan: of `numel` weights, `count` go; `sparsity` (0 to 1) is what it will have."""

    numel: int
    count: int
    sparsity: float


def allocate(kind: str, shapes: Sequence[tuple[int, ...]], left: Sequence[int], amount: float) -> list[int]:
    """Return how many weights go from each tensor: round(amount * sum(left)) in all, half to even.

    `left` is how many weights each tensor has left to prune, normally its numel; no count is below 0 or above it.
    `kind` is one of `KINDS`, as `share_out` says. Raises UsageError for an amount that is not 0 to 1, a kind there is
    not, or a count that the kind has no room for.
    """
    check_amount(amount, None)
    return share_out(kind, shapes, left, resolve_count(amount, None, sum(left)))


def share_out(kind: str, shapes: Sequence[tuple[int, ...]], left: Sequence[int], total: int) -> list[int]:
    """Return how many weights go from each tensor, `total` (0 to sum(left)) in all.

    "uniform": the same fraction of each. "erk": Erdos-Renyi-Kernel, a tensor keeps in proportion to sum(shape) /
    prod(shape), and those that would keep more than they have stay dense (google-research/rigl, sparse_utils.py; Evci
    et al. 2020). "uniform+": the first convolution stays dense, the last matrix keeps 20 % or more, the others share
    the rest evenly (Gale et al. 2019). What is left over by rounding down goes to the largest remainders, of equals
    to the first.
    """
    if kind == "uniform":
        return _whole(_evenly(left, left, total), total)
    if kind == "erk":
        return _whole(_erdos_renyi(shapes, left, total), total)
    if kind == "uniform+":
        return _whole(_evenly(left, _room(shapes, left, total), total), total)
    raise UsageError(f"--allocate is {', '.join(KINDS[:-1])} or {KINDS[-1]}, not {printable(repr(kind))}", hint="erk")


def shares(shapes: Sequence[tuple[int, ...]], left: Sequence[int], counts: Sequence[int]) -> list[Share]:
    """Return the plan to print: what `counts` make of tensors that have `left` weights left to prune."""
    found = []
    for shape, rest, count in zip(shapes, left, counts, strict=True):
        numel = prod(shape)
        found.append(Share(numel, count, (numel - rest + count) / numel if numel else 0.0))
    return found


def _whole(ideal: Sequence[Fraction], total: int) -> list[int]:
    """Round to whole numbers that add up to `total`, by the largest remainders."""
    counts = [floor(share) for share in ideal]
    by_remainder = sorted(range(len(ideal)), key=lambda at: (counts[at] - ideal[at], at))
    for at in by_remainder[: total - sum(counts)]:
        counts[at] += 1
    return counts


def _evenly(left: Sequence[int], room: Sequence[int], total: int) -> list[Fraction]:
    """Take the same fraction of each, and no more than there is `room`: what is full leaves more to the others."""
    found = [Fraction(0)] * len(left)
    waiting, rest = [at for at, weights in enumerate(left) if weights], total
    while waiting:
        rate = Fraction(rest, sum(left[at] for at in waiting))
        full = [at for at in waiting if rate * left[at] > room[at]]
        if not full:
            for at in waiting:
                found[at] = rate * left[at]
            break
        for at in full:
            found[at] = Fraction(room[at])
        rest -= sum(room[at] for at in full)
        waiting = [at for at in waiting if at not in full]
    return found


def _erdos_renyi(shapes: Sequence[tuple[int, ...]], left: Sequence[int], total: int) -> list[Fraction]:
    """Return what goes where the density is epsilon * sum(shape) / prod(shape), at most 1."""
    found = [Fraction(0)] * len(left)
    raw = [_raw(shape) for shape in shapes]
    sparse, keeps = [at for at, weights in enumerate(left) if weights], sum(left) - total
    while sparse:
        epsilon = keeps / sum((raw[at] * left[at] for at in sparse), Fraction(0))
        largest = max(raw[at] for at in sparse)
        if epsilon * largest <= 1:
            for at in sparse:
                found[at] = (1 - epsilon * raw[at]) * left[at]
            break
        keeps -= sum(left[at] for at in sparse if raw[at] == largest)
        sparse = [at for at in sparse if raw[at] < largest]
    return found


def _raw(shape: tuple[int, ...]) -> Fraction:
    """Return the density of a tensor but for epsilon; a single number, which has no dims, counts as a row of one."""
    numel = prod(shape)
    return Fraction(sum(shape or (1,)), numel) if numel else Fraction(1)


def _room(shapes: Sequence[tuple[int, ...]], left: Sequence[int], total: int) -> list[int]:
    """Return how many weights may go from each tensor under uniform+; UsageError where they are fewer than `total`."""
    room = list(left)
    matrices = [at for at, shape in enumerate(shapes) if len(shape) == 2]
    if matrices:
        room[matrices[-1]] = floor((1 - LAST_KEEPS) * left[matrices[-1]])
    kernels = [at for at, shape in enumerate(shapes) if len(shape) > 2]
    if kernels:
        room[kernels[0]] = 0
    if sum(room) < total:
        raise UsageError(
            f"uniform+ keeps the first convolution and a fifth of the last matrix, so at most {sum(room)} of "
            f"{sum(left)} weights can go, not {total}",
            hint=f"--amount {floor(1000 * Fraction(sum(room), sum(left))) / 1000:.3f}, or --allocate erk",
        )
    return room
