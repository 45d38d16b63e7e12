"""Names of tensors that are never proposed as weights: scales, zero points, biases, statistics and tables."""

from __future__ import annotations

import re

from prunecli.layouts.names import other_half

_WORDS = frozenset(
    {
        *("scale", "scales", "zero", "zeros", "qzeros", "zp", "bias", "biases", "b", "absmax", "quant", "map", "g"),
        *("mean", "means", "std", "stddev", "var", "variance", "running", "stat", "stats", "min", "max", "moment"),
        *("avg", "average", "momentum", "step", "count", "counts", "eps", "idx", "index", "indices", "refs", "ids"),
        *("mask", "masks", "original", "gain", "gamma", "beta", "alpha", "offset", "offsets", "anchor", "anchors"),
        *("grid", "freq", "freqs", "inv", "table", "window", "buffer", "cache", "cos", "sin", "state"),
    }
)

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def is_other_by_name(name: str) -> bool:
    """Return whether the last part of a dotted name has a word of tensors that are no weights, such as `scales`."""
    if other_half(name):  # the B of LoRA is a matrix
        return False
    last = name.rpartition(".")[2]
    return last.startswith("_") or any(word.lower() in _WORDS for word in _WORD.findall(last))
