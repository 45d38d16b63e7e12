"""The pruning commands: each is a function from its own options to a strategy, and does nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

from typer import Option

from prunecli.cli import parsers
from prunecli.errors import UsageError
from prunecli.strategies.mask import Mask
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.unstructured import (
    L1,
    Block,
    Global,
    Percentile,
    Random,
    RandomStructured,
    StdThreshold,
    Strategy,
    Structured,
    Threshold,
)

if TYPE_CHECKING:
    from collections.abc import Callable

Amount: TypeAlias = Annotated[
    float | None,
    Option(metavar="A", parser=parsers.parse_amount, help="A fraction (0.5) or a percentage (50%)."),
]
Count: TypeAlias = Annotated[
    int | None, Option(metavar="K", parser=parsers.whole("--count", "1000"), help="This many instead.")
]


def threshold(
    thr: Annotated[
        float | None,
        Option(metavar="T", parser=parsers.number("--thr", "0.1"), help="Zero weights with |w| <= T."),
    ] = None,
    thr_std: Annotated[
        float | None,
        Option(metavar="Q", parser=parsers.number("--thr-std", "0.5"), help="T = Q * std(w) of each tensor instead."),
    ] = None,
) -> Strategy:
    """Zero the weights of magnitude T or less."""
    if thr is not None and thr_std is not None:
        raise UsageError("--thr and --thr-std are two answers to one question", hint="--thr 0.1, or --thr-std 0.5")
    if thr is not None:
        return Threshold(thr)
    if thr_std is not None:
        return StdThreshold(thr_std)
    raise UsageError("threshold needs --thr or --thr-std", hint="--thr 0.1, or --thr-std 0.5")


def percentile(
    q: Annotated[
        float | None,
        Option("--q", metavar="Q", parser=parsers.number("--q", "60"), help="Percentile of |w|, 0 to 100.  [required]"),
    ] = None,
) -> Strategy:
    """Zero weights up to each tensor's percentile.

    In each tensor, every weight with |w| <= np.percentile(|w|, Q).
    """
    if q is None:
        raise UsageError("percentile needs --q", hint="--q 60")
    return Percentile(q)


def global_(
    amount: Amount = None,
    count: Count = None,
    normalize: Annotated[
        str, Option(metavar="none|l2|rms|lamp", help="Rank |w|, or |w| over its tensor's norm, or LAMP's score.")
    ] = "none",
    min_per_tensor: Annotated[
        float | None,
        Option(metavar="A", parser=parsers.fraction("--min-per-tensor"), help="Prune at least this part of each."),
    ] = None,
    max_per_tensor: Annotated[
        float | None,
        Option(metavar="A", parser=parsers.fraction("--max-per-tensor"), help="Prune at most this part of each."),
    ] = None,
) -> Strategy:
    """Zero the smallest weights of all tensors.

    All selected tensors are ranked together, and exactly as many weights become zero as asked.
    """
    least, most = min_per_tensor or 0.0, 1.0 if max_per_tensor is None else max_per_tensor
    return Global(*_one_amount("global", amount, count), normalize, least, most)


def l1(
    amount: Amount = None,
    count: Count = None,
    scope: Annotated[str, Option(metavar="tensor|row", help="Rank within a tensor, or within each row.")] = "tensor",
    allocate: Annotated[
        str | None,
        Option(metavar="uniform|erk|uniform+", help="Share A of all weights out among tensors, by their shapes."),
    ] = None,
) -> Strategy:
    """Zero the smallest weights of each tensor.

    Exactly as many in each tensor, or in each output row of it, as asked.
    """
    return L1(*_one_amount("l1", amount, count), scope, allocate)


def topk(
    keep: Annotated[
        int | None,
        Option(metavar="K", parser=parsers.whole("--keep", "2"), help="Keep the K largest weights ..."),
    ] = None,
    group: Annotated[
        int | None,
        Option(metavar="G", parser=parsers.whole("--group", "4"), help="... of every G consecutive ones."),
    ] = None,
    pattern: Annotated[str | None, Option(metavar="K:G", help="The same in one: 2:4 keeps 2 of every 4.")] = None,
    dim: Annotated[
        int,
        Option(metavar="D", parser=parsers.whole("--dim", "1"), help="Groups run along this dimension."),
    ] = 1,
    tail: Annotated[str, Option(metavar="keep|zero|error", help="What becomes of a short last group.")] = "keep",
) -> Strategy:
    """Keep K of every G consecutive weights.

    In every group of G along a dimension the K largest stay, and the others become zero.
    """
    if (pattern is None) == (keep is None and group is None):
        raise UsageError("topk needs --keep with --group, or --pattern", hint="--keep 2 --group 4, or --pattern 2:4")
    if pattern is not None:
        return TopK(*parsers.parse_pattern(pattern), dim, tail)
    if keep is None or group is None:
        raise UsageError("--keep and --group go together", hint="--keep 2 --group 4")
    return TopK(keep, group, dim, tail)


def structured(
    amount: Amount = None,
    count: Count = None,
    dim: Annotated[
        int, Option(metavar="D", parser=parsers.whole("--dim", "0"), help="Slices along this dimension.")
    ] = 0,
    n: Annotated[
        float,
        Option("--n", metavar="1|2|inf|-inf", parser=parsers.number("--n", "2"), help="The norm that ranks them."),
    ] = 2.0,
    with_bias: Annotated[
        bool, Option("--with-bias", help="Zero the matching entries of each tensor's bias, too.")
    ] = False,
) -> Strategy:
    """Zero whole slices of each tensor.

    The slices along a dimension (0: output rows or channels) with the smallest Ln norm, summed in float64.
    """
    return Structured(*_one_amount("structured", amount, count), dim, n, with_bias)


def block(
    shape: Annotated[
        str | None, Option(metavar="RxC", help="Rows and columns of a tile, as in 4x4.  [required]")
    ] = None,
    amount: Amount = None,
    count: Count = None,
) -> Strategy:
    """Zero whole tiles of each tensor.

    The RxC tiles with the smallest root mean square; dimensions after the first count as one.
    """
    if shape is None:
        raise UsageError("block needs --shape", hint="--shape 4x4")
    return Block(*parsers.parse_shape(shape), *_one_amount("block", amount, count))


def random(
    amount: Amount = None,
    count: Count = None,
    seed: Annotated[int, Option(metavar="S", parser=parsers.whole("--seed", "0"), help="Another seed, others go.")] = 0,
    structured: Annotated[bool, Option("--structured", help="Whole slices instead of single weights.")] = False,
    dim: Annotated[
        int | None, Option(metavar="D", parser=parsers.whole("--dim", "0"), help="Slices along this dimension. [0]")
    ] = None,
) -> Strategy:
    """Zero weights of each tensor at random.

    Which ones depends on the seed and on a tensor's name and shape, and on nothing else.
    """
    chosen = _one_amount("random", amount, count)
    if structured:
        return RandomStructured(*chosen, dim or 0, seed)
    if dim is not None:
        raise UsageError("--dim is for slices", hint=f"--structured --dim {dim}")
    return Random(*chosen, seed)


def mask(
    mask: Annotated[
        str | None, Option("--mask", metavar="FILE", help="Zeros and ones under the tensors' names.  [required]")
    ] = None,
) -> Strategy:
    """Zero the weights where a mask is 0.

    Tensors are those that the mask file names, unless -i says otherwise.
    """
    if mask is None:
        raise UsageError("mask needs --mask", hint="--mask FILE")
    return Mask(mask)


def _one_amount(name: str, amount: float | None, count: int | None) -> tuple[float | None, int | None]:
    """Return both, of which exactly one is given; UsageError otherwise."""
    if amount is None and count is None:
        raise UsageError(f"{name} needs --amount or --count", hint="--amount 0.5, or --count 1000")
    if amount is not None and count is not None:
        raise UsageError("--amount and --count are two answers to one question", hint="--amount 0.5, or --count 1000")
    return amount, count


ALL: tuple[Callable[..., Strategy], ...] = (
    threshold,
    percentile,
    l1,
    global_,
    topk,
    structured,
    block,
    random,
    mask,
)
"""The commands, in the order in which the help lists them."""
