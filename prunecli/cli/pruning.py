"""The pruning commands. Each is a function from its own options to a strategy, and does nothing else.

Strategies are used through the package, which imports the module of a class when the class is first used.
`prunecli.cli.main` adds the options that all pruning commands share; `prunecli.cli.recipe_file` calls the same
functions for the rules of a recipe. Messages therefore name arguments, not flags.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import prunecli
from prunecli.cli import parsers
from prunecli.cli.value_options import flag_option, fraction_option, number_option, text_option, whole_option
from prunecli.errors import Argument, UsageError
from prunecli.strategies.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Callable

Amount = Annotated[
    float | None, text_option("--amount", "A", "A fraction (0.5) or a percentage (50%).", parser=parsers.amount)
]
Count = Annotated[int | None, whole_option("--count", "K", 1000, "This number instead of a fraction.")]


def threshold(
    thr: Annotated[float | None, number_option("--thr", "T", 0.1, "Zero weights with |w| <= T.")] = None,
    thr_std: Annotated[
        float | None, number_option("--thr-std", "Q", 0.5, "T = Q * std(w) of each tensor instead.")
    ] = None,
) -> Strategy:
    """Zero the weights of magnitude T or less."""
    if thr is not None and thr_std is not None:
        raise UsageError("thr and thr_std exclude each other", hint=Argument("thr", thr))
    if thr is not None:
        return prunecli.Threshold(thr)
    if thr_std is not None:
        return prunecli.StdThreshold(thr_std)
    raise UsageError("threshold needs thr or thr_std", hint=Argument("thr", 0.1))


def percentile(
    q: Annotated[
        float | None,
        text_option("--q", "Q", "Percentile of |w|, as in 90, 99.5 or 0.9%.  [required]", parser=parsers.percentile),
    ] = None,
) -> Strategy:
    """Zero weights up to each tensor's percentile.

    In each tensor, every weight with |w| <= np.percentile(|w|, Q).
    """
    if q is None:
        raise UsageError("percentile needs q", hint=Argument("q", 60))
    return prunecli.Percentile(q)


def global_(
    amount: Amount = None,
    count: Count = None,
    normalize: Annotated[
        str,
        text_option(
            "--normalize", "none|l2|rms|lamp", "Rank by |w|, by |w| over its tensor's norm, or by the LAMP score."
        ),
    ] = "none",
    min_per_tensor: Annotated[
        float | None,
        fraction_option("--min-per-tensor", "A", "Prune at least A (0.1 or 10%) of each tensor. [default: 0]"),
    ] = None,
    max_per_tensor: Annotated[
        float | None, fraction_option("--max-per-tensor", "A", "Prune at most A of each tensor. [default: 1]")
    ] = None,
) -> Strategy:
    """Zero the smallest weights of all tensors.

    All selected tensors are ranked together, and exactly the requested number of weights becomes zero.
    """
    least, most = min_per_tensor or 0.0, 1.0 if max_per_tensor is None else max_per_tensor
    return prunecli.Global(*_one_amount("global", amount, count), normalize, least, most)


def l1(
    amount: Amount = None,
    count: Count = None,
    scope: Annotated[
        str,
        text_option("--scope", "tensor|row", "Rank within a tensor, or within each row (the weights of one output)."),
    ] = "tensor",
    allocate: Annotated[
        str | None,
        text_option(
            "--allocate",
            "uniform|erk|uniform+|ramp",
            "Distribute A of all weights over the tensors by their shapes, or by the depth of their layers.",
        ),
    ] = None,
    slope: Annotated[
        float | None,
        number_option(
            "--slope", "B", 0.01, "For ramp, which needs it: each layer loses B (0.01: 1 %) more than the layer before."
        ),
    ] = None,
) -> Strategy:
    """Zero the smallest weights of each tensor.

    Exactly the requested number in each tensor, or in each of its output rows.
    """
    return prunecli.L1(*_one_amount("l1", amount, count), scope, allocate, slope)


def topk(
    keep: Annotated[int | None, whole_option("--keep", "K", 2, "Keep the K largest weights ...")] = None,
    group: Annotated[int | None, whole_option("--group", "G", 4, "... of every G consecutive ones.")] = None,
    pattern: Annotated[str | None, text_option("--pattern", "K:G", "Both in one: 2:4 keeps 2 of every 4.")] = None,
    dim: Annotated[
        int | None, whole_option("--dim", "D", 1, "Groups run along this dimension, by default along the inputs.")
    ] = None,
    tail: Annotated[
        str,
        text_option(
            "--tail",
            "keep|zero|error",
            "A shorter last group keeps its K largest weights, becomes zero, or is an error.",
        ),
    ] = "keep",
) -> Strategy:
    """Keep K of every G consecutive weights.

    In every group of G inputs of an output the K largest stay, and the others become zero. `prune inspect` shows which
    dimension of each tensor counts its inputs.
    """
    if (pattern is None) == (keep is None and group is None):
        hint = Argument("pattern", pattern or "2:4")
        raise UsageError("topk needs either keep and group, or a pattern", hint=hint)
    if pattern is not None:
        return prunecli.TopK(*parsers.parse_pattern(pattern), dim, tail)
    if keep is None or group is None:
        missing = Argument("group", 2 * (keep or 2)) if group is None else Argument("keep", group // 2)
        raise UsageError("keep and group go together", hint=missing)
    return prunecli.TopK(keep, group, dim, tail)


def structured(
    amount: Amount = None,
    count: Count = None,
    dim: Annotated[int | None, whole_option("--dim", "D", 0, "Slices along this dimension instead of outputs.")] = None,
    n: Annotated[float, number_option("--n", "1|2|inf|-inf", 2, "The norm that ranks the slices.")] = 2.0,
    with_bias: Annotated[
        bool, flag_option("--with-bias", "Zero the entries of the pruned outputs in each tensor's bias as well.")
    ] = False,
) -> Strategy:
    """Zero whole outputs of each tensor.

    The outputs (rows or channels) with the smallest Ln norm, summed in float64. `prune inspect` shows which dimension
    of each tensor counts its outputs.
    """
    return prunecli.Structured(*_one_amount("structured", amount, count), dim, n, with_bias)


def block(
    shape: Annotated[
        str | None, text_option("--shape", "RxC", "Rows and columns of a block, as in 4x4.  [required]")
    ] = None,
    amount: Amount = None,
    count: Count = None,
) -> Strategy:
    """Zero whole blocks of each tensor.

    The blocks of R outputs and C inputs with the smallest root mean square; of a convolution, all dimensions but the
    outputs count as one.
    """
    if shape is None:
        raise UsageError("block needs a shape", hint=Argument("shape", "4x4"))
    return prunecli.Block(*parsers.parse_shape(shape), *_one_amount("block", amount, count))


def random(
    amount: Amount = None,
    count: Count = None,
    seed: Annotated[int, whole_option("--seed", "S", 0, "Random seed. A different seed prunes different weights.")] = 0,
    structured: Annotated[bool, flag_option("--structured", "Prune whole outputs instead of single weights.")] = False,
    dim: Annotated[int | None, whole_option("--dim", "D", 0, "Slices along this dimension instead of outputs.")] = None,
) -> Strategy:
    """Zero weights of each tensor at random.

    The choice depends on the seed and on a tensor's name and shape only.
    """
    amounts = _one_amount("random", amount, count)
    if structured:
        return prunecli.RandomStructured(*amounts, dim, seed)
    if dim is not None:
        raise UsageError("dim needs structured", hint=(Argument("structured", value=True), Argument("dim", dim)))
    return prunecli.Random(*amounts, seed)


def mask(
    mask: Annotated[
        str | None,
        text_option("--mask", "FILE", "A file of --mask-out, or zeros and ones under the tensors' names.  [required]"),
    ] = None,
    any_base: Annotated[
        bool, flag_option("--any-base", "Also prune other weights than those that the mask was made of.")
    ] = False,
) -> Strategy:
    """Zero the weights where a mask is 0.

    Prunes the tensors that the mask file names, unless -i selects others. A mask of --mask-out has the SHA-256 of the
    weights that it was made of, and is refused for others.
    """
    if mask is None:
        raise UsageError("mask needs a mask file", hint=Argument("mask", "FILE"))
    return prunecli.Mask(mask, any_base)


def _one_amount(name: str, amount: float | None, count: int | None) -> tuple[float | None, int | None]:
    """Return both, of which exactly one is given; UsageError otherwise."""
    if amount is None and count is None:
        raise UsageError(f"{name} needs an amount or a count", hint=Argument("amount", 0.5))
    if amount is not None and count is not None:
        raise UsageError("an amount and a count exclude each other", hint=Argument("amount", amount))
    return amount, count


_ALL: tuple[Callable[..., Strategy], ...] = (
    *(threshold, percentile, l1, global_, topk),
    *(structured, block, random, mask),
)

BY_NAME = {make.__name__.rstrip("_"): make for make in _ALL}
"""The functions by the names of their commands, in the order in which the help lists them."""
