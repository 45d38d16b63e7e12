#!/usr/bin/env python3
"""Train the two digit classifiers of `demo/` and write them as a training run does.

Needs torch and scikit-learn; under a minute on one CPU core. The same seed gives the same files on the same
machine with the same torch; elsewhere rounding may differ in the last bits.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer

DEMO = Path(__file__).resolve().parents[1] / "demo"
TEST_IMAGES = 450


class DigitsConv(nn.Module):
    """Two 3x3 convolutions, one pooling, two linear layers: 38,282 parameters."""

    def __init__(self) -> None:
        """Make the layers with torch's default initialisation."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * 4 * 4, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """`images` (N, 8, 8), values 0 to 1 -> logits (N, 10)."""
        x = functional.relu(self.conv1(images.unsqueeze(1)))
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(x)
        return logits


class DigitsLSTM(nn.Module):
    """An LSTM that reads the eight rows of an image from top to bottom: 41,674 parameters."""

    def __init__(self) -> None:
        """Make the layers with torch's default initialisation."""
        super().__init__()
        self.lstm = nn.LSTM(8, 96, batch_first=True)
        self.fc = nn.Linear(96, 10)

    def forward(self, images: Tensor) -> Tensor:
        """`images` (N, 8, 8), values 0 to 1 -> logits (N, 10)."""
        hidden, _ = self.lstm(images)
        logits: Tensor = self.fc(hidden[:, -1])
        return logits


@dataclass(frozen=True)
class Digits:
    """Images (N, 8, 8) in steps of 1/16 from 0 to 1 and their labels (N,), with a fixed split."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_split() -> Digits:
    """Split scikit-learn's 1,797 digits: a fixed random 450 for testing, the rest for training."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - only training needs scikit-learn

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = torch.from_numpy(data.images[order]).float() / 16
    labels = torch.from_numpy(data.target[order]).long()
    return Digits(images[TEST_IMAGES:], labels[TEST_IMAGES:], images[:TEST_IMAGES], labels[:TEST_IMAGES])


def train(model: nn.Module, optimizer: Optimizer, digits: Digits, args: argparse.Namespace) -> None:
    """Fit `model` in place for `args.epochs` epochs, the learning rate falling to zero along a cosine."""
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    shuffle = torch.Generator().manual_seed(args.seed)
    for _ in range(args.epochs):
        for batch in torch.split(torch.randperm(len(digits.labels), generator=shuffle), args.batch_size):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(digits.images[batch]), digits.labels[batch])
            torch.autograd.backward(loss)
            optimizer.step()
        schedule.step()


def accuracy(model: nn.Module, digits: Digits) -> float:
    """Return the accuracy (0-1) of `model` on the test images."""
    with torch.no_grad():
        guesses = model(digits.test_images).argmax(1)
    return float((guesses == digits.test_labels).double().mean())


def train_conv(digits: Digits, args: argparse.Namespace) -> tuple[DigitsConv, dict[str, Any]]:
    """Train the conv net; return it with its training checkpoint: weights, momentum, counters."""
    torch.manual_seed(args.seed)
    model = DigitsConv()
    optimizer = SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=1e-3)
    train(model, optimizer, digits, args)
    checkpoint = {
        "epoch": args.epochs,
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best_accuracy": accuracy(model, digits),
        "args": vars(args),
    }
    return model, checkpoint


def train_lstm(digits: Digits, args: argparse.Namespace) -> DigitsLSTM:
    """Train the LSTM with Adam, because plain SGD is slow on recurrent weights."""
    torch.manual_seed(args.seed)
    model = DigitsLSTM()
    optimizer = Adam(model.parameters(), lr=args.lr, weight_decay=3e-4)
    train(model, optimizer, digits, args)
    return model


def save_safetensors(model: nn.Module, name: str, scored: float) -> None:
    """Write the weights of `model` to demo/NAME.safetensors and print its accuracy."""
    path = DEMO / f"{name}.safetensors"
    metadata = {"format": "pt", "model": name, "test_accuracy": f"{scored:.4f}"}
    path.write_bytes(_with_sorted_metadata(save(model.state_dict(), metadata)))
    print(f"{name}: {scored:.2%} of {TEST_IMAGES} test images, {path.stat().st_size:,} bytes")


def _with_sorted_metadata(data: bytes) -> bytes:
    """Return the safetensors file `data` with sorted metadata, because the library shuffles it in every run."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    return data[:8] + json.dumps(header, separators=(",", ":")).encode().ljust(end - 8) + data[end:]


def save_test_set(digits: Digits) -> None:
    """Write the test images as bytes from 0 to 16, and their labels."""
    images = (digits.test_images * 16).to(torch.uint8).numpy()
    labels = digits.test_labels.to(torch.uint8).numpy()
    np.savez_compressed(DEMO / "digits_test.npz", images=images, labels=labels)


def main() -> None:
    """Train both models and write all five files."""
    torch.use_deterministic_algorithms(mode=True)
    torch.set_num_threads(1)
    digits = load_split()
    DEMO.mkdir(exist_ok=True)
    save_test_set(digits)

    conv, checkpoint = train_conv(digits, argparse.Namespace(seed=0, epochs=40, batch_size=32, lr=0.05))
    torch.save(checkpoint, DEMO / "digits_conv.pth")
    save_safetensors(conv, "digits_conv", checkpoint["best_accuracy"])

    lstm = train_lstm(digits, argparse.Namespace(seed=0, epochs=60, batch_size=32, lr=0.01))
    torch.save(lstm.state_dict(), DEMO / "digits_lstm.pth")
    save_safetensors(lstm, "digits_lstm", accuracy(lstm, digits))


if __name__ == "__main__":
    main()
