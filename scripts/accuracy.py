#!/usr/bin/env python3
"""Score checkpoints of `demo/`: the accuracy on the test digits, and the part of the weights that is zero.

NumPy computes the networks, so a safetensors checkpoint needs no torch; a `.pth` does. Conv net and LSTM are
distinguished by the names of their tensors.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

Array: TypeAlias = NDArray[np.float32]
StateDict: TypeAlias = "dict[str, Array]"

TEST_SET = Path(__file__).resolve().parents[1] / "demo" / "digits_test.npz"


class UnscoredError(Exception):
    """A checkpoint cannot be scored; the message is one line that says why."""


def load_test_set() -> tuple[Array, NDArray[np.int64]]:
    """Return the test images (N, 8, 8), 0 to 1, and their labels (N,)."""
    with np.load(TEST_SET) as data:
        return data["images"].astype(np.float32) / 16, data["labels"].astype(np.int64)


def load_state_dict(path: Path) -> StateDict:
    """Return the tensors of a checkpoint by name; raise `UnscoredError` if it cannot be read."""
    if path.suffix != ".safetensors":
        return _load_torch(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UnscoredError(f"{path}: {error}") from error


def _load_torch(path: Path) -> StateDict:
    try:
        import torch  # noqa: PLC0415 - the demo runs without torch
    except ImportError as error:
        raise UnscoredError(f"{path}: scoring it needs torch; a .safetensors file does not") from error
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise UnscoredError(f"{path}: {error}") from error
    state_dict = checkpoint.get("state_dict", checkpoint)
    return {name: tensor.numpy() for name, tensor in state_dict.items()}


def predict(weights: StateDict, images: Array) -> NDArray[np.int64]:
    """`images` (N, 8, 8) -> the predicted digits (N,).

    Raise KeyError or ValueError where `weights` are another network's.
    """
    logits = lstm_logits if "lstm.weight_ih_l0" in weights else conv_logits
    digits: NDArray[np.int64] = logits(weights, images).argmax(1)
    return digits


def conv_logits(weights: StateDict, images: Array) -> Array:
    """`images` (N, 8, 8) -> logits (N, 10) of two convolutions, one pooling and two linear layers."""
    x = np.maximum(_conv(weights, "conv1", images[:, None]), 0)
    x = np.maximum(_conv(weights, "conv2", x), 0)
    n, channels, height, width = x.shape
    x = x.reshape(n, channels, height // 2, 2, width // 2, 2).max((3, 5))
    return _linear(weights, "fc2", np.maximum(_linear(weights, "fc1", x.reshape(n, -1)), 0))


def lstm_logits(weights: StateDict, images: Array) -> Array:
    """`images` (N, 8, 8) -> logits (N, 10) of an LSTM over the rows and a linear layer on its last state."""
    hidden = np.zeros((len(images), weights["lstm.weight_hh_l0"].shape[1]), np.float32)
    cell = np.zeros_like(hidden)
    for row in range(images.shape[1]):
        gates = images[:, row] @ weights["lstm.weight_ih_l0"].T + weights["lstm.bias_ih_l0"]
        gates += hidden @ weights["lstm.weight_hh_l0"].T + weights["lstm.bias_hh_l0"]
        entry, forget, candidate, exit_ = np.split(gates, 4, axis=1)  # torch's order: i, f, g, o
        cell = _sigmoid(forget) * cell + _sigmoid(entry) * np.tanh(candidate)
        hidden = _sigmoid(exit_) * np.tanh(cell)
    return _linear(weights, "fc", hidden)


def _conv(weights: StateDict, layer: str, x: Array) -> Array:
    """3x3 convolution of `x` (N, C, H, W), zero-padded by one -> (N, out, H, W), as one matrix product."""
    n, channels, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = sliding_window_view(padded, (3, 3), axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)
    kernel = weights[f"{layer}.weight"].reshape(-1, channels * 9)
    y: Array = patches.reshape(-1, channels * 9) @ kernel.T + weights[f"{layer}.bias"]
    return y.reshape(n, height, width, -1).transpose(0, 3, 1, 2)


def _linear(weights: StateDict, layer: str, x: Array) -> Array:
    y: Array = x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
    return y


def _sigmoid(x: Array) -> Array:
    half = np.float32(0.5)
    y: Array = np.tanh(x * half) * half + half  # equal to 1 / (1 + exp(-x)), and never overflows
    return y


def sparsity(weights: StateDict) -> float:
    """Return the fraction of zeros among the tensors of two or more dimensions, the ones `prune` selects."""
    matrices = [w for w in weights.values() if w.ndim >= 2]
    return 1 - sum(np.count_nonzero(w) for w in matrices) / sum(w.size for w in matrices)


def describe(path: Path) -> str:
    """Return one line: path, sparsity, correct predictions, and last the accuracy; raise `UnscoredError` on failure."""
    weights = load_state_dict(path)
    images, labels = load_test_set()
    try:
        right = int((predict(weights, images) == labels).sum())
    except (KeyError, ValueError) as error:
        raise UnscoredError(f"{path}: neither the conv net nor the LSTM of demo/") from error
    return (
        f"{path}: {sparsity(weights):6.1%} zeros, {right:3} of {len(labels)} right, accuracy {right / len(labels):.4f}"
    )


def main(paths: list[str]) -> int:
    """Print a line per path; return 0, or 2 if there is no path or one cannot be scored."""
    if not paths:
        print("usage: accuracy.py CKPT [CKPT ...]", file=sys.stderr)
        return 2
    try:
        for path in paths:
            print(describe(Path(path)))
    except UnscoredError as error:
        print(f"accuracy: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
