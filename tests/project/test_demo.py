"""The committed demo: its two containers agree, and its score is that of the torch modules."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support import DEMO, SCRIPTS, load_script

if TYPE_CHECKING:
    from pathlib import Path

MODELS = {"digits_conv": ("DigitsConv", 0.98), "digits_lstm": ("DigitsLSTM", 0.96)}


accuracy = load_script("accuracy")


def require_torch() -> Any:  # noqa: ANN401 - a module, which mypy cannot see into either way
    """Return torch, or skip the test: the demo itself runs without torch."""
    return pytest.importorskip("torch", reason="torch is not installed; the demo's models are torch's")


def torch_state_dict(name: str) -> dict[str, Any]:
    """Return the weights in demo/NAME.pth, nested or flat, loaded with weights_only."""
    checkpoint = require_torch().load(DEMO / f"{name}.pth", weights_only=True)
    weights: dict[str, Any] = checkpoint.get("state_dict", checkpoint)
    return weights


def torch_predictions(name: str, weights: dict[str, Any]) -> Any:  # noqa: ANN401 - an array of either library
    """Return the predictions of the torch module with `weights` for the test images, (N,)."""
    torch = require_torch()
    model = getattr(load_script("train_demo"), MODELS[name][0])()
    model.load_state_dict(weights, strict=True)
    with torch.no_grad():
        return model(torch.from_numpy(accuracy.load_test_set()[0])).argmax(1).numpy()


def pruned(weights: dict[str, Any]) -> dict[str, Any]:
    """Return `weights` with the smaller half of every matrix zeroed."""
    return {k: w * (w.abs() > w.abs().median()) if w.dim() > 1 else w for k, w in weights.items()}


@pytest.mark.parametrize("name", MODELS)
def test_both_containers_hold_the_same_bits(name: str) -> None:
    """The .safetensors file has the .pth's tensors: same names, dtypes, shapes and bytes."""
    expected = {k: v.numpy() for k, v in torch_state_dict(name).items()}

    actual = accuracy.load_state_dict(DEMO / f"{name}.safetensors")

    assert expected.keys() == actual.keys()
    for key, tensor in expected.items():
        assert (tensor.dtype, tensor.shape) == (actual[key].dtype, actual[key].shape)
        assert tensor.tobytes() == actual[key].tobytes()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("change", [dict, pruned])
def test_numpy_predicts_what_the_torch_module_predicts(name: str, change: Any) -> None:  # noqa: ANN401
    """NumPy and torch predict the same digit for every test image, with dense and with pruned weights."""
    weights = change(torch_state_dict(name))
    expected = torch_predictions(name, weights)

    images, _ = accuracy.load_test_set()

    assert np.array_equal(expected, accuracy.predict({k: v.numpy() for k, v in weights.items()}, images))


@pytest.mark.parametrize("name", MODELS)
def test_the_models_reach_the_documented_accuracy(name: str) -> None:
    """Both models reach a high accuracy, and none of their weights is zero."""
    weights = accuracy.load_state_dict(DEMO / f"{name}.safetensors")
    images, labels = accuracy.load_test_set()

    assert MODELS[name][1] <= (accuracy.predict(weights, images) == labels).mean()
    assert accuracy.sparsity(weights) == 0


def test_the_training_checkpoint_is_nested_as_real_ones_are() -> None:
    """digits_conv.pth holds the momentum of every weight next to the weights."""
    checkpoint = require_torch().load(DEMO / "digits_conv.pth", weights_only=True)

    assert list(checkpoint) == ["epoch", "state_dict", "optimizer", "best_accuracy", "args"]
    momenta = [state["momentum_buffer"].shape for state in checkpoint["optimizer"]["state"].values()]
    assert [w.shape for w in checkpoint["state_dict"].values()] == momenta


def test_the_test_set_was_not_trained_on() -> None:
    """The training script holds out the committed test images, and trains on none of them."""
    pytest.importorskip("sklearn", reason="scikit-learn, where the images come from, is not installed")
    require_torch()
    digits = load_script("train_demo").load_split()

    images, labels = accuracy.load_test_set()

    assert np.array_equal(digits.test_images.numpy(), images)
    assert np.array_equal(digits.test_labels.numpy(), labels)
    held_out = {image.tobytes() for image in images}
    assert held_out.isdisjoint(image.tobytes() for image in digits.images.numpy())


def test_training_needs_scikit_learn_only_when_it_runs() -> None:
    """The architectures can be imported where scikit-learn is not installed."""
    require_torch()
    before = {name for name in sys.modules if name.startswith("sklearn")}

    load_script("train_demo")

    assert before == {name for name in sys.modules if name.startswith("sklearn")}


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent.safetensors", "No such file"), ("other.safetensors", "neither the conv net nor the LSTM")],
)
def test_a_file_that_cannot_be_scored_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    """A missing file and the weights of another network end in one line and exit code 2."""
    from safetensors.numpy import save_file

    save_file({"conv1.weight": np.zeros((2, 3), np.float32)}, tmp_path / "other.safetensors")

    assert accuracy.main([str(tmp_path / name)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.skipif(os.name == "nt", reason="the scripts are for a POSIX shell")
@pytest.mark.parametrize("name", ["demo", "test"])
def test_a_machine_without_python_gets_one_line(tmp_path: Path, name: str) -> None:
    """Without a suitable Python, the scripts say which ones they tried and how to name one."""
    (tmp_path / "scripts").mkdir()
    for file in (name, "common.sh"):
        shutil.copy(SCRIPTS / file, tmp_path / "scripts" / file)

    result = subprocess.run(
        ["bash", tmp_path / "scripts" / name],
        env={**os.environ, "PYTHON": "/absent/python"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert f"{name}: needs Python 3.10 or newer, tried: /absent/python;" in result.stderr
