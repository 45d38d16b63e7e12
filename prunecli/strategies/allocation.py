"""Distribution of an amount over tensors: uniform, Erdos-Renyi-Kernel (ERK), uniform+, and a ramp over the layers.

The counts add up exactly: shares are fractions until the last step, which rounds them by largest remainders.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from fractions import Fraction
from math import floor, prod
from typing import TYPE_CHECKING

from prunecli.errors import Argument, UsageError
from prunecli.strategies.amounts import check_amount, resolve_count
from prunecli.text.escape import printable
from prunecli.text.nearest import nearest_choice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecli.checkpoint import TensorInfo

BY_SHAPES = ("uniform", "erk", "uniform+")
"""The names of the distributions that follow from shapes."""

ALLOCATIONS = (*BY_SHAPES, "ramp")
"""The names of all distributions."""

LAST_KEEPS = Fraction(1, 5)
"""The fraction of the last matrix that uniform+ keeps."""


def check_allocation(name: str) -> None:
    """Raise UsageError if `name` is not one of `ALLOCATIONS`."""
    if name not in ALLOCATIONS:
        names = f"{', '.join(ALLOCATIONS[:-1])} or {ALLOCATIONS[-1]}"
        hint = Argument("allocate", nearest_choice(name, ALLOCATIONS, "erk"))
        raise UsageError(f"the allocation is {names}, not {printable(repr(name))}", hint=hint)


def check_slope(allocation: str | None, slope: float | None) -> None:
    """Raise UsageError unless a ramp has a slope of -1 to 1, and no other allocation has one."""
    if (allocation == "ramp") != (slope is not None):
        text = "a ramp needs a slope" if slope is None else "a slope belongs to the allocation ramp"
        raise UsageError(text, hint=Argument("slope", 0.01) if slope is None else Argument("allocate", "ramp"))
    if slope is not None and not -1 <= slope <= 1:
        raise UsageError(f"the slope is -1 to 1, not {slope}", hint=Argument("slope", 0.01))


def matrix_shape(tensor: TensorInfo) -> tuple[int, ...]:
    """Return the shape that the shares of a tensor follow from: its own, or that of one matrix of a stack."""
    return tensor.shape if tensor.layout.experts is None else tensor.shape[1:]


def allocate(name: str, shapes: Sequence[tuple[int, ...]], remaining: Sequence[int], amount: float) -> list[int]:
    """Return how many weights to prune in each tensor by its shape, round(amount * sum(remaining)) in all.

    `shapes` are those of `matrix_shape`: E stacked matrices have the density of one, and are no kernel.

    "uniform": the same fraction of each. "erk": Erdos-Renyi-Kernel, a tensor's density is proportional to sum(shape) /
    prod(shape), and tensors whose density would exceed 1 stay dense (google-research/rigl, sparse_utils.py; Evci et
    al. 2020). "uniform+": the first convolution is kept dense, the last matrix keeps 20 % or more, the others get the
    same fraction (Gale et al. 2019).

    `remaining` is the number of weights of each tensor that are not already pruned, normally its numel; each count is
    0 to that number. Raises UsageError for an amount that is not 0 to 1, and for one that uniform+ cannot reach.
    """
    check_amount(amount, None)
    total = resolve_count(amount, None, sum(remaining))
    if name == "erk":
        return _round_to(_erdos_renyi(shapes, remaining, total), total)
    limits = remaining if name == "uniform" else _limits(shapes, remaining, total)
    return _round_to(_evenly(remaining, limits, total), total)


def allocate_ramp(depths: Sequence[int], remaining: Sequence[int], amount: float, slope: float) -> list[int]:
    """Return how many weights to prune in each tensor, round(amount * sum(remaining)) in all, half to even.

    The pruned fractions of the layers are an arithmetic progression: each layer's is `slope` larger than that of the
    layer before, within 0 to 1 (ATP: Huang et al. 2025, arXiv 2502.14770). `depths` are the positions of
    the tensors' layers, see `prunecli.strategies.depth`. The first fraction is the one for which the total is exact.

    Raises UsageError for an amount that is not 0 to 1.
    """
    check_amount(amount, None)
    total, step = resolve_count(amount, None, sum(remaining)), Fraction(slope)
    layers: Counter[int] = Counter()
    for depth, weights in zip(depths, remaining, strict=True):
        layers[depth] += weights
    first = _first_fraction(layers, total, step)
    shares = [_clamped(first + step * depth) * weights for depth, weights in zip(depths, remaining, strict=True)]
    return _round_to(shares, total)


def _first_fraction(layers: Mapping[int, int], total: int, step: Fraction) -> Fraction:
    """Return the fraction at depth 0 for which the layers' shares add up to `total`; `layers` has weights by depth."""

    def pruned(first: Fraction) -> Fraction:
        return sum((_clamped(first + step * depth) * weights for depth, weights in layers.items()), Fraction(0))

    # Between two of these corners the sum is linear in the first fraction.
    corners = sorted({limit - step * depth for depth in layers for limit in (0, 1)})
    above = bisect_left(corners, Fraction(total), key=pruned) if corners else 0
    if above == 0:
        return corners[0] if corners else Fraction(0)
    low, high = corners[above - 1], corners[above]
    least, most = pruned(low), pruned(high)
    return low + (high - low) * (total - least) / (most - least)


def _clamped(fraction: Fraction) -> Fraction:
    return min(max(fraction, Fraction(0)), Fraction(1))


def _round_to(shares: Sequence[Fraction], total: int) -> list[int]:
    """Round to integers that add up to `total`: the largest remainders are rounded up, of equal ones the first."""
    # A share is at most the whole limit of its tensor, so one with a remainder can be rounded up.
    counts = [floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda index: (counts[index] - shares[index], index))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


def _evenly(remaining: Sequence[int], limits: Sequence[int], total: int) -> list[Fraction]:
    """Take the same fraction of every tensor, at most `limits[i]`; the others share what a full one cannot take."""
    shares = [Fraction(0)] * len(remaining)
    active, rest = [index for index, weights in enumerate(remaining) if weights], total
    while active:
        rate = Fraction(rest, sum(remaining[index] for index in active))
        full = [index for index in active if rate * remaining[index] > limits[index]]
        if not full:
            for index in active:
                shares[index] = rate * remaining[index]
            break
        for index in full:
            shares[index] = Fraction(limits[index])
        rest -= sum(limits[index] for index in full)
        active = [index for index in active if index not in full]
    return shares


def _erdos_renyi(shapes: Sequence[tuple[int, ...]], remaining: Sequence[int], total: int) -> list[Fraction]:
    """Return the shares for which the density is epsilon * sum(shape) / prod(shape), at most 1."""
    shares = [Fraction(0)] * len(remaining)
    raw = [_raw_density(shape) for shape in shapes]
    sparse, kept = [index for index, weights in enumerate(remaining) if weights], sum(remaining) - total
    while sparse:
        epsilon = kept / sum((raw[index] * remaining[index] for index in sparse), Fraction(0))
        largest = max(raw[index] for index in sparse)
        if epsilon * largest <= 1:
            for index in sparse:
                shares[index] = (1 - epsilon * raw[index]) * remaining[index]
            break
        # Tensors of equal raw density become dense together, as in rigl's get_sparsities_erdos_renyi.
        kept -= sum(remaining[index] for index in sparse if raw[index] == largest)
        sparse = [index for index in sparse if raw[index] < largest]
    return shares


def _raw_density(shape: tuple[int, ...]) -> Fraction:
    """Return sum(shape) / prod(shape), the density up to the factor epsilon; a scalar counts as a row of one."""
    numel = prod(shape)
    return Fraction(sum(shape or (1,)), numel) if numel else Fraction(1)


def _limits(shapes: Sequence[tuple[int, ...]], remaining: Sequence[int], total: int) -> list[int]:
    """Return the most weights that uniform+ prunes in each tensor; UsageError if they add up to less than `total`."""
    limits = list(remaining)
    matrices = [index for index, shape in enumerate(shapes) if len(shape) == 2]
    if matrices:
        limits[matrices[-1]] = floor((1 - LAST_KEEPS) * remaining[matrices[-1]])
    kernels = [index for index, shape in enumerate(shapes) if len(shape) > 2]
    if kernels:
        limits[kernels[0]] = 0
    if sum(limits) < total:
        largest = floor(1000 * Fraction(sum(limits), sum(remaining))) / 1000
        raise UsageError(
            f"uniform+ keeps the first convolution and a fifth of the last matrix, so it prunes at most {sum(limits)} "
            f"of {sum(remaining)} weights, not {total}",
            hint=(Argument("amount", largest), " or ", Argument("allocate", "erk")),
        )
    return limits
