"""Helpers that many tests share: one model's weights in every container, every strategy, and the expected results."""

from support.containers import CONTAINERS, FOLDABLE, make_checkpoint
from support.expected import STRATEGIES, chosen, expected, pruned_weights
from support.paths import DEMO, ROOT, SCRIPTS, SHARED
from support.profiles import examples
from support.reading import files, prune_tensors, read, shards, state_dict
from support.scripts import load_script
from support.weights import INTS, Net, Weights, bits, different, make_weights, same_bits, zeroed

__all__ = [
    "CONTAINERS",
    "DEMO",
    "FOLDABLE",
    "INTS",
    "ROOT",
    "SCRIPTS",
    "SHARED",
    "STRATEGIES",
    "Net",
    "Weights",
    "bits",
    "chosen",
    "different",
    "examples",
    "expected",
    "files",
    "load_script",
    "make_checkpoint",
    "make_weights",
    "prune_tensors",
    "pruned_weights",
    "read",
    "same_bits",
    "shards",
    "state_dict",
    "zeroed",
]
