"""The folds of `prunecli.kernels.folds` with torch, where the weights lie; the same bits.

Results stay on the device until `prunecli.kernels.norms` stores them. torch is imported when a function is called.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from math import inf, nextafter, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.kernels.torch_fused import fused
from prunecli.kernels.torch_values import values
from prunecli.layout import SliceView

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prunecli.kernels.folds import Numbers, Shape
    from prunecli.kernels.fused_folds import FusedFolds
    from prunecli.kernels.ops import Array

RUN, FUSED_RUN = 1 << 24, 1 << 26
"""Elements that are read at once, powers of two: in float64 the first take 128 MB, and the first sums half of that.

Kernels that fold in registers read more of them.
"""

RANKED_AT_ONCE, LEADING = 1 << 22, 47
"""More numbers than this are ranked by their leading 16 bits first, those from bit LEADING on."""


def run_of(device: object) -> int:
    """Return the elements that are read at once to fold magnitudes on a device."""
    return RUN if folding(str(device)) is None else FUSED_RUN


@lru_cache(maxsize=64)
def folding(device: str, use: str = "norms") -> FusedFolds | None:
    """Return the kernels that fold on a device, None where those for a use do not work.

    A use is one of the functions in `CHECKS`. Kernels that are not used are not compiled.
    """
    if fused(device) is None:
        return None
    # Whatever is wrong, torch computes the same without them.
    try:
        from prunecli.kernels.fused_folds import FusedFolds  # noqa: PLC0415 - where there is Triton

        kernels = FusedFolds(importlib.import_module("torch"))
        equal = CHECKS[use](kernels, importlib.import_module("torch").arange(600, device=device))
    except Exception:  # noqa: BLE001 - as said
        return None
    return kernels if equal else None


def _checked_norms(kernels: FusedFolds, numbers: Array) -> bool:
    """Return whether folds have the bits of plain torch, and roots those of NumPy."""
    x, dtype = (numbers * 54).short(), FLOATS["BF16"]
    wide = values(x, dtype)
    own = kernels.fold(x, dtype, 1.0, (2, 100, 3), 25)
    equal = bool((_folded(own, 1.0) == _folded(wide.reshape(8, 25, 3), 1.0)).all())
    roots = kernels.slice_norms([x, x], dtype, SliceView(1, 1, 200, 3), 2.0)
    squares = _folded(wide.square().reshape(200, 3, 1), 2.0).flatten()
    return equal and bool((roots.cpu().numpy() == np.sqrt(squares.cpu().numpy())).all())


def _checked_moments(kernels: FusedFolds, numbers: Array) -> bool:
    """Return whether sums have the bits of plain torch."""
    x, dtype = (numbers * 54).short(), FLOATS["BF16"]
    pieces = kernels.moments(x, dtype, 1.0, 1)[:2].reshape(2, -1)
    sums = _folded(kernels.joined(pieces)[:, :, None], 1.0)[0]
    return bool((sums == _folded(values(x, dtype).reshape(1, -1, 1), 1.0)).all())


def _checked_blocks(kernels: FusedFolds, numbers: Array) -> bool:
    """Return whether norms of blocks of single weights are their magnitudes, and flags are those of such blocks."""
    x, view = (numbers * 54).short(), SliceView(1, 1, 20, 30)
    norms = kernels.block_norms([x], FLOATS["BF16"], view, (1, 1))
    flags = (numbers % 3 == 0).char()
    spread = kernels.spread(flags[None], view, (1, 1))
    return bool((norms.flatten() == values(x, FLOATS["BF16"])).all() and (spread == flags).all())


def _checked_ranks(kernels: FusedFolds, numbers: Array) -> bool:
    """Return whether the first of equal numbers are the smallest."""
    norms = (numbers % 7).double()
    flags, cuts = kernels.by_digits(norms.view(numbers.dtype)[None], 300)
    pruned = norms.sort(stable=True).indices[:300]
    return not bool(flags[0][pruned].any()) and int(flags.sum()) == len(norms) - 300 and float(cuts) == 3.0


CHECKS = {
    "norms": _checked_norms, "moments": _checked_moments, "blocks": _checked_blocks, "ranks": _checked_ranks,
}  # fmt: skip


def fold(x: Array, numbers: Numbers, n: float, shape: Shape, part: int) -> Array:
    """Return the folds of parts, as `folds.fold` does."""
    kernels = folding(str(x.device))
    if kernels is not None and x.is_contiguous() and not numbers.ranked:
        outer, length, inner = shape
        part = min(part, length)
        pieces = kernels.fold(x, numbers.dtype, n, shape, part)
        return _folded(pieces, n).reshape(outer, -(-length // part), inner)
    return plain_fold(x, numbers, n, shape, part)


def plain_fold(x: Array, numbers: Numbers, n: float, shape: Shape, part: int) -> Array:
    """Return the same by plain torch."""
    powers = _own_values(x, numbers)
    powers = powers.square_() if n == 2 else powers.abs_()
    return fold_again(powers.nan_to_num_(nan=inf, posinf=inf), n, shape, part)


def fold_again(powers: Array, n: float, shape: Shape, part: int) -> Array:
    """Return the folds of folds, as `folds.fold_again` does; `powers` may be an array of NumPy."""
    torch = importlib.import_module("torch")
    outer, length, inner = shape
    part = min(part, length)
    parts = -(-length // part)
    powers = torch.as_tensor(powers).reshape(shape)
    if length % part:
        missing = (outer, parts * part - length, inner)
        powers = torch.cat([powers, powers.new_full(missing, inf if n == -inf else 0.0)], dim=1)
    return _folded(powers.reshape(outer * parts, part, inner), n).reshape(outer, parts, inner)


def fold_blocks(x: Array, numbers: Numbers, shape: Shape, wide: int) -> Array:
    """Return the sums of squares of blocks, as `folds.fold_blocks` does."""
    outer, high, width = shape
    return fold_again(fold(x, numbers, 2.0, shape, high), 2.0, (outer, width, 1), wide).reshape(outer, -1)


def moments(x: Array, numbers: Numbers, scale: float) -> Array:
    """Return the folded sums of the finite numbers and of their squares, and their count, as `folds.moments` does."""
    return moments_of_rows(x, numbers, scale, 1)[0]


def moments_of_rows(x: Array, numbers: Numbers, scale: float, rows: int) -> Array:
    """Return `moments` of each of `rows` equal parts, shape (rows, 3)."""
    kernels = folding(str(x.device), "moments")
    if kernels is not None and x.is_contiguous() and not numbers.ranked:
        pieces = kernels.moments(x, numbers.dtype, scale, rows)
        both = pieces[:2].reshape(2 * rows, -1)
        return _rows_of_moments(kernels.joined(both)[:, :, None], pieces[2])
    return plain_moments(x, numbers, scale, rows)


def plain_moments(x: Array, numbers: Numbers, scale: float, rows: int) -> Array:
    """Return the same by plain torch."""
    torch = importlib.import_module("torch")
    weights = _own_values(x, numbers)
    finite = weights.isfinite()
    weights = weights.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    weights = (weights if scale == 1 else weights.mul_(scale)).reshape(rows, -1, 1)
    # Both folds go on together from their second step on, which needs no more memory.
    both = torch.cat([_joined_once(y, torch.add) for y in (weights, weights.square())])
    return _rows_of_moments(both, finite.reshape(rows, -1))


def _rows_of_moments(both: Array, counts: Array) -> Array:
    """Return (rows, 3) from what is to be folded, (2 * rows, length, 1), and what is to be added up, (rows, length)."""
    torch, rows = importlib.import_module("torch"), len(counts)
    return torch.cat([_folded(both, 1.0).reshape(2, rows), counts.sum(1, dtype=torch.float64)[None]]).T


def empty(like: Array, count: int) -> Array:
    """Return memory for `count` numbers of float64 on the device of `like`."""
    torch = importlib.import_module("torch")
    return torch.empty(count, dtype=torch.float64, device=like.device)


def join_of(n: float) -> Callable[[Array, Array], Array]:
    """Return the operation that joins the numbers of an Ln norm."""
    torch: Any = importlib.import_module("torch")
    join: Callable[[Array, Array], Array] = {inf: torch.maximum, -inf: torch.minimum}.get(n, torch.add)
    return join


def divide(sums: Array, heights: Array, widths: Array) -> None:
    """Divide sums (stacks, bands, blocks) by heights times widths."""
    if len(set(heights.tolist())) == len(set(widths.tolist())) == 1:
        sums.div_(float(heights[0] * widths[0]))
        return
    torch = importlib.import_module("torch")
    high, wide = (torch.from_numpy(lengths).to(sums.device) for lengths in (heights, widths))
    for out in sums:
        step = max(1, RANKED_AT_ONCE // len(wide))
        for low in range(0, len(high), step):
            out[low : low + step].div_(high[low : low + step, None] * wide)


def smallest_roots(squares: Array, k: int) -> tuple[Array, float | None]:
    """Return a flag per number, 0 for the `k` smallest roots, of equals the first ones, and the largest of them.

    The flags lie where the numbers do. Roots are taken on the host, of few numbers: not all devices round them exactly.
    """
    torch = importlib.import_module("torch")
    if not k:
        return torch.ones(len(squares), dtype=torch.int8, device=squares.device), None
    cut = float(_smallest(torch, squares, k))
    least, most = cut, cut
    while least > 0 and sqrt(below := nextafter(least, 0.0)) == sqrt(cut):
        least = below
    while most < inf and sqrt(above := nextafter(most, inf)) == sqrt(cut):
        most = above
    ties = k - (squares < least).sum()
    keep = (squares > most).to(torch.int8)
    for first in range(0, len(squares), RANKED_AT_ONCE):
        run = squares[first : first + RANKED_AT_ONCE]
        equal = (run >= least) & (run <= most)
        ends = equal.cumsum(0)
        keep[first : first + RANKED_AT_ONCE] |= equal & (ends > ties)
        ties = ties - ends[-1]
    return keep, sqrt(cut)


def joined_flags(parts: Sequence[Array]) -> Array:
    """Return flags of several parts, one after the other."""
    joined: Array = importlib.import_module("torch").cat(list(parts))
    return joined


def _smallest(torch: Any, numbers: Array, rank: int) -> Array:  # noqa: ANN401 - the module
    """Return the `rank`-th smallest of `numbers`, none of which is negative or NaN."""
    if len(numbers) <= RANKED_AT_ONCE:
        return numbers.sort().values[rank - 1]
    # A sort needs several times the memory of its input, so only the numbers with the wanted leading bits are sorted.
    runs = [numbers[first : first + RANKED_AT_ONCE] for first in range(0, len(numbers), RANKED_AT_ONCE)]
    counts = torch.zeros(1 << 16, dtype=torch.int64, device=numbers.device)
    for run in runs:
        counts += torch.bincount(_leading(torch, run), minlength=1 << 16)
    ends = counts.cumsum(0)
    index = torch.searchsorted(ends, rank)
    inside = torch.cat([run[_leading(torch, run) == index] for run in runs])
    return inside.sort().values[rank - 1 - (ends[index] - counts[index])]


def _leading(torch: Any, numbers: Array) -> Array:  # noqa: ANN401 - the module
    return numbers.view(torch.int64) >> LEADING


def _own_values(x: Array, numbers: Numbers) -> Array:
    """Return what integers encode, in memory of its own."""
    wide = values(x.clamp(min=0) if numbers.ranked else x, numbers.dtype)
    # The values of float64 are the weights themselves, seen as numbers.
    return wide.clone() if numbers.dtype.itemsize == 8 else wide


def _folded(powers: Array, n: float) -> Array:
    """Return the fold along the middle dimension."""
    join = join_of(n)
    while powers.shape[1] > 1:
        powers = _joined_once(powers, join)
    return powers


def _joined_once(powers: Array, join: Callable[[Array, Array], Array]) -> Array:
    """Join neighbours along the middle dimension."""
    torch: Any = importlib.import_module("torch")
    even = powers.shape[1] // 2 * 2
    joined = join(powers[:, 0:even:2], powers[:, 1:even:2])
    return joined if even == powers.shape[1] else torch.cat([joined, powers[:, even:]], dim=1)
