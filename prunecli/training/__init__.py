"""Training a pruned model: masks as torch tensors, and optimizers whose steps keep pruned weights at zero."""

from __future__ import annotations
