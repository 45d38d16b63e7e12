"""The commands and the first line of the help of each, so that `prune --help` imports no command."""

from __future__ import annotations

PRUNING = {
    "threshold": "Zero the weights of magnitude T or less.",
    "percentile": "Zero weights up to each tensor's percentile.",
    "l1": "Zero the smallest weights of each tensor.",
    "global": "Zero the smallest weights of all tensors.",
    "topk": "Keep K of every G consecutive weights.",
    "structured": "Zero whole outputs of each tensor.",
    "block": "Zero whole blocks of each tensor.",
    "random": "Zero weights of each tensor at random.",
    "mask": "Zero the weights where a mask is 0.",
    "run": "Zero the weights that the rules of a recipe choose.",
}

OTHER = {
    "inspect": "Show what is in a checkpoint.",
    "scan": "Show which tensors are most sensitive to pruning.",
    "check": "Exit with 1 unless all conditions hold.",
    "diff": "Show how two checkpoints differ.",
    "bake": "Fold pruned weights: x_orig * x_mask becomes x.",
    "search": "Find the largest amount that keeps your metric within a limit.",
    "sweep": "Show your metric at several amounts.",
}
