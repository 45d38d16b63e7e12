#!/usr/bin/env python3
"""Score a checkpoint of burn's MNIST classifier on the test images; the accuracy is the last number printed.

    python scripts/mnist_accuracy.py CKPT --data DIR [--limit N]

DIR holds t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz. NumPy computes the network, three convolutions, two
linear layers and two batch normalisations, so a safetensors checkpoint needs no torch; a `.pt` does.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

Array: TypeAlias = NDArray[np.float32]
Weights: TypeAlias = "dict[str, Array]"

BATCH = 500
EPSILON = np.float32(1e-5)  # of a batch normalisation


def load_images(path: Path) -> Array:
    """Return the images (N, 1, 28, 28) of an IDX file, normalised as in training."""
    with gzip.open(path) as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    return (pixels.astype(np.float32) / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)


def load_labels(path: Path) -> NDArray[np.uint8]:
    """Return the labels (N,) of an IDX file."""
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=8)


def load_weights(path: Path) -> Weights:
    """Return the tensors of a checkpoint by name."""
    if path.suffix == ".safetensors":
        return load_file(path)
    import torch  # noqa: PLC0415 - a safetensors file needs none

    return {name: t.numpy() for name, t in torch.load(path, map_location="cpu", weights_only=True).items()}


def predict(weights: Weights, images: Array) -> NDArray[np.int64]:
    """`images` (N, 1, 28, 28) -> the predicted digits (N,); KeyError or ValueError if the weights do not fit."""
    x = images
    for layer in ("conv1", "conv2", "conv3"):
        x = np.maximum(_conv(weights, layer, x), 0)
    x = _norm(weights, "norm1", x).reshape(len(x), -1)
    x = np.maximum(_linear(weights, "fc1", x), 0)
    digits: NDArray[np.int64] = _norm(weights, "norm2", _linear(weights, "fc2", x)).argmax(1)
    return digits


def _conv(weights: Weights, layer: str, x: Array) -> Array:
    """3x3 convolution of `x` (N, C, H, W) without padding -> (N, out, H - 2, W - 2), as one matrix product."""
    n, channels, height, width = x.shape
    patches = sliding_window_view(x, (3, 3), axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)
    kernel = weights[f"{layer}.weight"].reshape(-1, channels * 9)
    y: Array = patches.reshape(-1, channels * 9) @ kernel.T + weights[f"{layer}.bias"]
    return y.reshape(n, height - 2, width - 2, -1).transpose(0, 3, 1, 2)


def _norm(weights: Weights, layer: str, x: Array) -> Array:
    """Batch normalisation over dim 1 of `x` by the running mean and variance."""
    mean, var, scale, shift = (
        weights[f"{layer}.{part}"].reshape(1, -1, *[1] * (x.ndim - 2))
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    y: Array = (x - mean) / np.sqrt(var + EPSILON) * scale + shift
    return y


def _linear(weights: Weights, layer: str, x: Array) -> Array:
    y: Array = x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
    return y


def main() -> int:
    """Print the accuracy; return 0, or 2 if a file cannot be read or contains another network."""
    parser = argparse.ArgumentParser(description="Score burn's MNIST classifier.")
    parser.add_argument("ckpt", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the t10k files")
    parser.add_argument("--limit", type=int, help="only the first N images")
    given = parser.parse_args()
    try:
        weights = load_weights(given.ckpt)
        images = load_images(given.data / "t10k-images-idx3-ubyte.gz")[: given.limit]
        labels = load_labels(given.data / "t10k-labels-idx1-ubyte.gz")[: given.limit]
        batches = [predict(weights, images[at : at + BATCH]) for at in range(0, len(images), BATCH)]
    except (OSError, SafetensorError, ImportError, KeyError, ValueError) as error:
        print(f"mnist_accuracy: {given.ckpt}: {error}", file=sys.stderr)
        return 2
    right = int((np.concatenate(batches) == labels).sum())
    print(f"{right} of {len(labels)} right, accuracy {right / len(labels):.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
