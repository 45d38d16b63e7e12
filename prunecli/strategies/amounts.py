"""The arithmetic that strategies share: how many weights an amount is, and what a cut or a ranking of norms means."""

from __future__ import annotations

import shlex
from glob import escape
from numbers import Integral, Real
from typing import TYPE_CHECKING

from prunecli.dtypes import FLOATS, Float, cast
from prunecli.errors import SelectionError, UsageError
from prunecli.plans import Cut, RankGroup
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.plans import OrderStatistic


_EITHER = "amount=1.0 for all of them, count=1 for one"


def cut_above(value: float, dtype: Float) -> Cut:
    """Return the cut that prunes magnitudes up to and including `value` rounded to `dtype`, and only finite ones."""
    bits = min(cast(value, dtype), dtype.finite_max)
    return Cut(bits + 1, value=dtype.decode(bits))


def exact_cuts(order: OrderStatistic) -> list[Cut]:
    """Return the cuts that prune exactly `order.rank` weights of the group."""
    left = order.rank - order.less
    if left == order.equal:
        return [
            Cut(bits + hit, equal=equal, equal_pruned=equal, value=order.value)
            for bits, hit, equal in zip(order.cuts, order.hits, order.equals, strict=True)
        ]
    cuts = []
    for bits, equal in zip(order.cuts, order.equals, strict=True):
        ties = min(left, equal or 0)
        left -= ties
        cuts.append(Cut(bits, ties, equal, ties, order.value))
    return cuts


def one_each(counts: Sequence[int]) -> list[RankGroup]:
    """Return a group for each tensor by itself, with the rank `counts` says; no rank where nothing is to be pruned."""
    return [RankGroup((at,), (k,) if k else ()) for at, k in enumerate(counts)]


def from_each(amount: float | None, count: int | None, tensors: Sequence[TensorInfo], left: Sequence[int]) -> list[int]:
    """Return `how_many` of what is `left` of each tensor; UsageError for a count that is too much for the smallest."""
    if tensors:
        n, tensor = min(zip(left, tensors, strict=True), key=lambda pair: pair[0])
        how_many(amount, count, n, "weights" if n == tensor.numel else "weights left", tensor)
    return [how_many(amount, count, n) for n in left]


def check_amount(amount: float | None, count: int | None) -> None:
    """Raise UsageError unless exactly one of the two is given and it is in range."""
    if (amount is None) == (count is None):
        raise UsageError("give either an amount or a count", hint="--amount 0.5 or --count 1000")
    _check_kinds(amount, count)
    if amount is not None and not 0 <= amount <= 1:
        raise UsageError(f"an amount is 0 to 1 (or 0% to 100%), not {amount:g}", hint="--amount 0.5")
    if count is not None and count < 0:
        raise UsageError(f"a count is 0 or more, not {count}", hint="--count 1000")


def _check_kinds(amount: object, count: object) -> None:
    """Refuse what Python callers may mean otherwise: torch takes an amount of 1 for one weight, and 1.0 for all."""
    if isinstance(amount, Integral) and amount != 0:
        raise UsageError(f"an amount of {amount} could mean a part or a number of weights", hint=_EITHER)
    if amount is not None and not isinstance(amount, Real):
        raise UsageError(f"an amount is a number from 0 to 1, not {printable(repr(amount))}", hint="amount=0.5")
    if count is not None and not isinstance(count, Integral):
        raise UsageError(f"a count is a whole number, not {printable(repr(count))}", hint="count=1000")


def how_many(
    amount: float | None,
    count: int | None,
    total: int,
    of_what: str = "selected weights",
    tensor: TensorInfo | None = None,
) -> int:
    """Return k of `total`: round(amount * total), half to even as torch does; UsageError if count > total."""
    if count is None:
        return round((amount or 0.0) * total)
    if count > total:
        where = "" if tensor is None else f" of {printable(repr(tensor.name))}"
        raise UsageError(f"--count {count} is more than the {total} {of_what}{where}", hint=f"--count {total}")
    return count


def front_dim(tensor: TensorInfo, dim: int) -> int:
    """Return `dim` counted from the front; SelectionError where `tensor` has no such dimension."""
    rank = len(tensor.shape)
    if not -rank <= dim < rank:
        raise SelectionError(
            f"{printable(repr(tensor.name))} has {rank} dimension{'s' * (rank != 1)}, so it has no dim {dim}",
            hint=f"-x {shlex.quote(printable(escape(tensor.name)))} leaves it out"
            + (", --dim -1 takes its last dimension" if rank else ""),
        )
    return dim % rank


def single(value: float) -> float:
    """Round `value` (>= 0) to float32; one operation on float32 numbers, done in float64 and rounded, is float32's."""
    single = FLOATS["F32"]
    return single.decode(single.encode(value))
