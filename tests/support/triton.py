"""Triton's kernels without a GPU: Triton's interpreter computes them on the host."""

from __future__ import annotations

import importlib.util
import os

import torch

from prunecli.kernels.torch_ops import TorchOps

INSTALLED = importlib.util.find_spec("triton") is not None

DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"
"""Where tensors lie that the kernels prune."""

if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when the kernels are imported


def triton_ops() -> TorchOps:
    """Return operations that call the Triton kernels."""
    from prunecli.kernels.torch_fused import Fused

    ops = TorchOps(DEVICE)
    ops.fused = Fused(torch)
    return ops
