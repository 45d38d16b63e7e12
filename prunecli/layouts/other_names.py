"""Names of tensors that are never proposed as weights: scales, zero points, biases, statistics and tables."""

from __future__ import annotations

from prunecli.layouts.names import other_half, words

_WORDS = frozenset(
    {
        *("scale", "scales", "zero", "zeros", "qzeros", "zp", "bias", "biases", "b", "absmax", "quant", "map", "g"),
        *("mean", "means", "std", "stddev", "var", "variance", "running", "stat", "stats", "min", "max", "moment"),
        *("avg", "average", "momentum", "step", "count", "counts", "eps", "idx", "index", "indices", "refs", "ids"),
        *("mask", "masks", "original", "gain", "gamma", "beta", "alpha", "offset", "offsets", "anchor", "anchors"),
        *("grid", "freq", "freqs", "inv", "table", "window", "buffer", "cache", "cos", "sin", "state"),
    }
)


def is_other_by_name(name: str) -> bool:
    """Return whether the last part of a dotted name has a word of tensors that are no weights, such as `scales`."""
    if other_half(name):  # the B of LoRA is a matrix
        return False
    last = name.rpartition(".")[2]
    return last.startswith("_") or not _WORDS.isdisjoint(words(last))
