"""Amounts and counts: parse, check and resolve them, and turn order statistics into cuts.

Pure arithmetic without NumPy; weights are never read here.
"""

from __future__ import annotations

from dataclasses import field
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from glob import escape
from math import isfinite
from numbers import Integral, Real
from typing import TYPE_CHECKING

from prunecli.dtypes import FLOATS, Float, cast
from prunecli.errors import Argument, Notice, SelectionError, UsageError
from prunecli.plans import Cut, RankGroup
from prunecli.strategies.nearest import nearest_amount, nearest_fraction
from prunecli.text.escape import printable, quoted, shortened
from prunecli.text.nearest import nearest_number, nearest_whole
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.errors import Hint
    from prunecli.layout import SliceView
    from prunecli.plans import OrderStatistic


def _either(number: int) -> Hint:
    part = Argument("amount", nearest_fraction(float(max(min(number, 100), -100))) if abs(number) != 1 else 1.0)
    return part, " for that part of them, ", Argument("count", abs(number)), " for the number"


def parse_amount(text: str, name: str = "amount", *, allow_whole: bool = False) -> float:
    """Return the fraction (0 to 1) that "0.5" or "50%" means.

    A bare whole number such as "1" could also mean a number of weights, so it is refused, except "0". `allow_whole`
    accepts "1" for all, as a sparsity does. `name` is the argument's name in messages. Raises UsageError.
    """
    digits = text.removesuffix("%").strip()
    label = f"the {name.replace('_', ' ')}"
    try:
        value = Decimal(digits)
    except InvalidOperation:
        hint = Argument(name, nearest_amount(text))
        raise UsageError(f"{label} is a fraction or a percentage, not {quoted(text)}", hint=hint) from None
    percent = text.endswith("%")
    if not (percent or allow_whole) and digits.removeprefix("+").isdecimal() and value:
        raise _ambiguous(digits)
    # Decimal, because 33.3 / 100 is not the float of 0.333.
    value = value.scaleb(-2) if percent and value.is_finite() else value
    if value.is_nan() or not 0 <= value <= 1:
        message = f"{label} is 0 to 1 (or 0% to 100%), not {printable(shortened(text, 40))}"
        raise UsageError(message, hint=Argument(name, nearest_amount(text)))
    return float(value)


def _ambiguous(digits: str) -> UsageError:
    """Return the error for a whole number: a part, or a number of weights."""
    shown = shortened(digits, 40)
    message = f"the amount {shown} could mean a part or a number of weights"
    if digits.strip("+0") == "1":
        hint: Hint = (Argument("amount", "100%"), " for all of them, ", Argument("count", 1), " for one")
    elif len(digits) <= 9 and int(digits) <= 100:
        message = f"the amount {shown} could mean {int(digits)}% or a count of {int(digits)} weights"
        hint = Argument("amount", f"{int(digits)}%")
    else:
        hint = Argument("count", int(digits) if len(digits) <= 18 else 1000)
    return UsageError(message, hint=hint)


def check_amount(amount: float | None, count: int | None) -> None:
    """Raise UsageError unless exactly one of the two is given and it is in range."""
    if (amount is None) == (count is None):
        raise UsageError(
            "either an amount or a count is needed", hint=(Argument("amount", 0.5), " or ", Argument("count", 1000))
        )
    _check_types(amount, count)
    if amount is not None and not 0 <= amount <= 1:
        hint = Argument("amount", nearest_fraction(amount))
        raise UsageError(f"the amount is 0 to 1 (or 0% to 100%), not {amount:g}", hint=hint)
    if count is not None and count < 0:
        raise UsageError(f"the count is 0 or more, not {count}", hint=Argument("count", -count))


def _check_types(amount: object, count: object) -> None:
    """Refuse `amount=1`: in torch, 1 means one weight and 1.0 means all of them."""
    if isinstance(amount, Integral) and amount != 0:
        raise UsageError(f"the amount {amount} could mean a part or a number of weights", hint=_either(int(amount)))
    if amount is not None and not isinstance(amount, Real):
        raise UsageError(
            f"the amount is a number from 0 to 1, not {printable(repr(amount))}",
            hint=Argument("amount", nearest_fraction(nearest_number(str(amount), 0.5))),
        )
    if count is not None and not isinstance(count, Integral):
        hint = Argument("count", nearest_whole(str(count), 1000) or 1000)
        if isinstance(count, Real) and 0 < float(count) < 1:
            hint = Argument("amount", count)
        raise UsageError(f"the count is a whole number, not {printable(repr(count))}", hint=hint)


def check_number(value: object, name: str, example: Argument, *, whole: bool = False) -> None:
    """Raise UsageError for a value that is no number, or with `whole` no whole number."""
    if not isinstance(value, Integral if whole else Real):
        kind = "whole number" if whole else "number"
        raise UsageError(f"{name} is a {kind}, not {printable(shortened(repr(value), 40))}", hint=example)


def check_finite(value: float, name: str, example: Argument) -> None:
    """Raise UsageError for a negative number and one that is not finite."""
    check_number(value, name, example)
    if not (isfinite(value) and value >= 0):
        hint = Argument(example.name, -value) if isfinite(value) else example
        raise UsageError(f"{name} is a finite number of 0 or more, not {value}", hint=hint)


def check_counts(count: int | None, tensors: Sequence[TensorInfo]) -> None:
    """Raise UsageError for a tensor with fewer weights than `count`."""
    if count is not None:
        resolve_counts(None, count, tensors, [tensor.numel for tensor in tensors])


def resolve_count(
    amount: float | None,
    count: int | None,
    total: int,
    unit: str = "selected weights",
    tensor: TensorInfo | None = None,
) -> int:
    """Return `count`, or round(amount * total), half to even as in torch; UsageError if `count` exceeds `total`.

    `unit` and `tensor` name what is counted in the message.
    """
    if count is None:
        return round((amount or 0.0) * total)
    if count > total:
        where = "" if tensor is None else f" of {printable(repr(tensor.name))}"
        raise UsageError(f"the count {count} is more than the {total} {unit}{where}", hint=Argument("count", total))
    return count


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many of some weights are pruned: `resolve_count`, as a value. The tensor is one for messages alone."""

    amount: float | None
    count: int | None
    unit: str
    tensor: TensorInfo = field(compare=False)

    def __call__(self, total: int) -> int:
        """Return the number of `total` weights that are pruned."""
        return resolve_count(self.amount, self.count, total, self.unit, self.tensor)


def rounds_to_none(amount: float | None, totals: Sequence[tuple[TensorInfo, int]], unit: str) -> tuple[Notice, ...]:
    """Return a warning about tensors of whose `totals` the amount rounds to 0; `unit` names what is counted."""
    none = [(tensor, total) for tensor, total in totals if amount and not round(amount * total)]
    if not none:
        return ()
    tensor, total = max(none, key=lambda pair: pair[0].numel)
    more = "" if len(none) == 1 else f" and of {len(none) - 1:,} other tensor{'s' * (len(none) > 2)}"
    return (
        Notice(
            f"nothing is pruned of {printable(tensor.name)}{more}: {amount:g} of its {total} {unit} rounds to 0",
            # A count replaces the amount, so it is for this tensor alone.
            hint=(Argument("include", [printable(escape(tensor.name))]), Argument("count", 1), " prunes one of it"),
        ),
    )


def resolve_counts(
    amount: float | None, count: int | None, tensors: Sequence[TensorInfo], remaining: Sequence[int]
) -> list[int]:
    """Return `resolve_count` of the `remaining` weights of each tensor.

    Raises UsageError if `count` exceeds the weights of the smallest tensor.
    """
    if tensors:
        n, tensor = min(zip(remaining, tensors, strict=True), key=lambda pair: pair[0])
        resolve_count(amount, count, n, "weights" if n == tensor.numel else "remaining weights", tensor)
    return [resolve_count(amount, count, n) for n in remaining]


def group_per_tensor(counts: Sequence[int]) -> list[RankGroup]:
    """Return one group per tensor with its count as the rank; a count of 0 needs no rank."""
    return [RankGroup((index,), (k,) if k else ()) for index, k in enumerate(counts)]


@lru_cache(maxsize=256)  # tensors share it: a checkpoint may have 10,000 of them
def cut_above(value: float, dtype: Float) -> Cut:
    """Return the cut that prunes all finite magnitudes up to `value` rounded to `dtype`, inclusive."""
    bits = min(cast(value, dtype), dtype.finite_max)
    return Cut(bits + 1, value=dtype.decode(bits))


def exact_cuts(statistic: OrderStatistic) -> list[Cut]:
    """Return one cut per member of a group, which together prune exactly `statistic.rank` weights."""
    # Several weights can equal the cutoff. Take magnitudes [0.3, 0.1], [0.3, 0.3] of two tensors and a rank of 2: the
    # cutoff is 0.3, and a comparison alone prunes 1 weight (< 0.3) or 4 (<= 0.3), never 2. So everything below the
    # cutoff is pruned, plus the first `ties` weights that equal it: tensors in checkpoint order, then row-major order.
    # Here the first tensor gets ties=1 and the second ties=0. A fixed order, unlike a sort of the values, gives the
    # same bytes for any number of threads, any chunk size and any device.
    ties = statistic.rank - statistic.less
    if ties == statistic.equal:
        return [
            Cut(bits + hit, equal=equal, equal_pruned=equal, value=statistic.value)
            for bits, hit, equal in zip(statistic.cuts, statistic.hits, statistic.equals, strict=True)
        ]
    cuts = []
    for bits, equal in zip(statistic.cuts, statistic.equals, strict=True):
        own = min(ties, equal or 0)
        ties -= own
        cuts.append(Cut(bits, own, equal, own, statistic.value))
    return cuts


def front_dim(tensor: TensorInfo, dim: int) -> int:
    """Return `dim` counted from the front; SelectionError where `tensor` has no such dimension."""
    rank = len(tensor.shape)
    if not -rank <= dim < rank:
        exclude = Argument("exclude", [printable(escape(tensor.name))])
        near = Argument("dim", rank - 1 if dim > 0 else -rank)
        last = (", ", near, f" takes its {'last' if dim > 0 else 'first'} dimension") if rank else ()
        raise SelectionError(
            f"{printable(repr(tensor.name))} has {rank} dimension{'s' * (rank != 1)}, so it has no dim {dim}",
            hint=(exclude, " leaves it out", *last),
        )
    return dim % rank


def one_of_each(tensors: Iterable[TensorInfo]) -> Iterable[TensorInfo]:
    """Return the first tensor of each shape and layout: many tensors are checked once for what they have in common."""
    first: dict[Hashable, TensorInfo] = {}
    for tensor in tensors:
        first.setdefault((tensor.shape, tensor.layout), tensor)
    return first.values()


def outputs_of(tensor: TensorInfo) -> SliceView:
    """Return the view whose slices are the outputs; SelectionError for a tensor without outputs."""
    view = tensor.layout.output_view(tensor.shape)
    if view is None:
        raise _without("outputs", tensor)
    return view


def inputs_dim(tensor: TensorInfo) -> int:
    """Return the dimension of the inputs; SelectionError for a tensor without inputs."""
    if tensor.layout.inputs is None:
        raise _without("inputs", tensor)
    return tensor.layout.inputs


def _without(what: str, tensor: TensorInfo) -> SelectionError:
    rank = len(tensor.shape)
    why = f"is a {tensor.layout.role}" if rank > 1 else f"has {rank} dimension{'s' * (rank != 1)}"
    last = (", ", Argument("dim", 0), " takes its first dimension") if rank and what == "inputs" else ()
    exclude = Argument("exclude", [printable(escape(tensor.name))])
    return SelectionError(
        f"{printable(repr(tensor.name))} {why}, so it has no {what}", hint=(exclude, " leaves it out", *last)
    )


def to_float32(value: float) -> float:
    """Round `value` (>= 0) to float32.

    One operation on float32 numbers in float64, rounded so, equals the same operation in float32.
    """
    single = FLOATS["F32"]
    return single.decode(single.encode(value))
