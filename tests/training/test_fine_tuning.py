"""Fine-tuning the pruned demo network with `keep_sparse`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import DEMO, load_script
from support.training import OPTIMIZERS, revived
from torch.nn import functional

from prunecli.api import prune
from prunecli.strategies.unstructured import Global
from prunecli.training.keep_sparse import keep_sparse
from prunecli.training.masks import mask_from_checkpoint


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ANN401 - scripts are in no package
    """Prune the demo network to 97 %; returns its training script, its images and the path."""
    pytest.importorskip("sklearn", reason="scikit-learn, where the images to train on come from, is not installed")
    train_demo, output = load_script("train_demo"), tmp_path_factory.mktemp("demo") / "pruned.pth"
    prune(DEMO / "digits_conv.pth", Global(amount=0.97), output=output, reports=())
    return train_demo, train_demo.load_split(), output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_fine_tuning_keeps_the_zeros_and_recovers_accuracy(demo: Any, name: str) -> None:  # noqa: ANN401
    """Three epochs recover most of the lost accuracy, and every pruned weight is still +0.0."""
    train_demo, digits, path = demo
    model = train_demo.DigitsConv()
    model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    mask, optimizer = mask_from_checkpoint(path), OPTIMIZERS[name](model.parameters())
    before = train_demo.accuracy(model, digits)
    generator = torch.Generator().manual_seed(0)

    with keep_sparse(model, optimizer, mask):
        for _ in range(3):
            for batch in torch.split(torch.randperm(len(digits.labels), generator=generator), 32):
                optimizer.zero_grad()
                functional.cross_entropy(model(digits.images[batch]), digits.labels[batch]).backward()
                optimizer.step()

    assert revived(model, mask) == 0
    assert sum(int((~keep).sum()) for keep in mask.values()) == round(0.97 * 38_160)
    assert before < 0.9
    assert train_demo.accuracy(model, digits) > 0.94


def test_without_keep_sparse_the_zeros_are_lost(demo: Any) -> None:  # noqa: ANN401
    """A training step without keep_sparse changes pruned weights, so the test above can fail."""
    train_demo, digits, path = demo
    model = train_demo.DigitsConv()
    model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    optimizer = OPTIMIZERS["sgd"](model.parameters())

    functional.cross_entropy(model(digits.images[:32]), digits.labels[:32]).backward()
    optimizer.step()

    assert revived(model, mask_from_checkpoint(path)) > 1000
