"""Packed weights are found in the files of every quantizer, counted, and never pruned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from support.pruning import stored
from support.small import saved

from prunecli import SelectionError, inspect, prune
from prunecli.formats.open import open_checkpoint
from prunecli.strategies.unstructured import L1

if TYPE_CHECKING:
    from pathlib import Path

    from support import Weights

IN, OUT = 64, 32
"""The inputs and outputs of the packed layer, of which every file holds 2048 weights."""

LATER = "prune the model from before quantization, then quantize it again"
"""The hint for models of quantized weights."""


def ints(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    """Return a tensor of zeros."""
    return torch.zeros(shape, dtype=dtype)


def bytes_of(*shape: int) -> torch.Tensor:
    """Return bytes."""
    return ints(*shape, dtype=torch.uint8)


HALF, FP8 = torch.float16, torch.float8_e4m3fn

FILES: dict[str, tuple[str, Weights]] = {
    "gptq 4": (
        "GPTQ, 4 bits",
        {
            "x.qweight": ints(IN // 8, OUT),
            "x.qzeros": ints(2, OUT // 8),
            "x.scales": torch.rand(2, OUT).half(),
            "x.g_idx": ints(IN),
        },
    ),
    "gptq 8": (
        "GPTQ, 8 bits",
        {"x.qweight": ints(IN // 4, OUT), "x.qzeros": ints(2, OUT // 4), "x.scales": torch.rand(2, OUT).half()},
    ),
    "gptq 2, without zero points": (
        "GPTQ, 2 bits",
        {"x.qweight": ints(IN // 16, OUT), "x.g_idx": ints(IN), "x.scales": torch.rand(2, OUT)},
    ),
    "gptq 3": (
        "GPTQ, 3 bits",
        {"x.qweight": ints(IN * 3 // 32, OUT), "x.qzeros": ints(2, OUT * 3 // 32), "x.scales": torch.rand(2, OUT)},
    ),
    "awq": (
        "AWQ, 4 bits",
        {"x.qweight": ints(IN, OUT // 8), "x.qzeros": ints(2, OUT // 8), "x.scales": torch.rand(2, OUT).half()},
    ),
    "bitsandbytes nf4": (
        "bitsandbytes NF4",
        {
            "x.weight": bytes_of(IN * OUT // 2, 1),
            "x.weight.absmax": bytes_of(IN * OUT // 64),
            "x.weight.quant_map": torch.rand(16),
            "x.weight.nested_absmax": torch.rand(1),
            "x.weight.nested_quant_map": torch.rand(256),
            "x.weight.quant_state.bitsandbytes__nf4": bytes_of(90),
        },
    ),
    "bitsandbytes fp4": (
        "bitsandbytes FP4",
        {
            "x.weight": bytes_of(IN * OUT // 2, 1),
            "x.weight.absmax": torch.rand(IN * OUT // 64),
            "x.weight.quant_map": torch.rand(16),
            "x.weight.quant_state.bitsandbytes__fp4": bytes_of(90),
        },
    ),
    "bitsandbytes int8": (
        "8-bit integers",
        {"x.weight": ints(OUT, IN, dtype=torch.int8), "x.SCB": torch.rand(OUT), "x.weight_format": bytes_of()},
    ),
    "int8": ("8-bit integers", {"x.weight": ints(OUT, IN, dtype=torch.int8), "x.weight_scale": torch.rand(OUT, 1)}),
    "gpt-oss": ("MXFP4", {"x.w_blocks": bytes_of(2, OUT // 2, IN // 32, 16), "x.w_scales": bytes_of(2, OUT // 2, 2)}),
    "modelopt nvfp4": (
        "NVFP4",
        {
            "x.weight": bytes_of(OUT, IN // 2),
            "x.weight_scale": torch.rand(OUT, IN // 16).to(FP8),
            "x.weight_scale_2": torch.rand(()),
        },
    ),
    "compressed-tensors nvfp4": (
        "NVFP4",
        {
            "x.weight_packed": bytes_of(OUT, IN // 2),
            "x.weight_scale": torch.rand(OUT, IN // 16).to(FP8),
            "x.weight_global_scale": torch.rand(1),
        },
    ),
    "mxfp4 weights": ("MXFP4", {"x.weight": bytes_of(OUT, IN // 2), "x.weight_scale": bytes_of(OUT, IN // 32)}),
    "uint8": ("8-bit integers", {"x.weight": bytes_of(OUT, IN), "x.weight_scale": torch.rand(OUT, 1)}),
    "compressed-tensors int4": (
        "compressed-tensors, 4 bits",
        {
            "x.weight_packed": ints(OUT, IN // 8),
            "x.weight_scale": torch.rand(OUT, IN // 32).bfloat16(),
            "x.weight_shape": ints(2, dtype=torch.int64),
        },
    ),
    "mlx": (
        "MLX, 4 bits",
        {
            "x.weight": ints(OUT, IN // 8, dtype=torch.uint32),
            "x.scales": torch.rand(OUT, IN // 64).half(),
            "x.biases": torch.rand(OUT, IN // 64).half(),
        },
    ),
    "exllama": ("ExLlamaV2", {"x.q_weight": ints(IN // 8, OUT), "x.q_scale": ints(2, 4), "x.q_perm": ints(IN)}),
    "quanto": (
        "8-bit integers",
        {"x.weight._data": ints(OUT, IN, dtype=torch.int8), "x.weight._scale": torch.rand(OUT, 1)},
    ),
    "compressed-tensors int8": (
        "compressed-tensors, 8 bits",
        {
            "x.weight_packed": ints(OUT, IN // 4),
            "x.weight_scale": torch.rand(OUT, 1),
            "x.weight_g_idx": ints(IN),
        },
    ),
}
"""The format, and the tensors of one layer as each quantizer stores them."""

OTHERS: Weights = {"head.weight": torch.rand(20, 10), "norm.weight": torch.rand(99), "x.bias": torch.rand(OUT)}
"""Tensors that are not packed: a matrix, a gain and a bias."""


@pytest.mark.parametrize("name", FILES)
def test_weights_are_counted_and_nothing_of_a_layer_is_prunable(name: str, tmp_path: Path) -> None:
    """The format and the number of weights are known; scales, zero points and indices are not weights."""
    kind, tensors = FILES[name]
    path = stored(tmp_path, "in", {**tensors, **OTHERS})

    found = {t.name: t for t in open_checkpoint(path).tensors}

    packed = [t.packed for t in found.values() if t.packed is not None]
    assert [(one.format, one.weights) for one in packed] == [(kind, IN * OUT)]
    assert all(found[part].unprunable_reason for part in tensors)
    assert not any(found[other].unprunable_reason for other in OTHERS)


@pytest.mark.parametrize("name", FILES)
def test_a_model_of_packed_weights_is_refused(name: str, tmp_path: Path) -> None:
    """The error names the format and the share, and the hint names only weights that are floats."""
    kind, tensors = FILES[name]
    path = stored(tmp_path, "in", {**tensors, **OTHERS})

    with pytest.raises(SelectionError, match="prune before quantizing") as error:
        prune(path, L1(amount=0.5), output=tmp_path / "out.safetensors")

    assert str(error.value).startswith(f"2,048 of 2,379 weights (86%) are packed ({kind})")
    others = "include=['head.weight'] prunes weights that are not packed"
    assert error.value.hint == f"{LATER}; {others}"


@pytest.mark.parametrize("name", FILES)
def test_named_weights_of_such_a_model_are_pruned(name: str, tmp_path: Path) -> None:
    """With an include pattern the run goes on; totals count the packed weights, and a fact names them."""
    kind, tensors = FILES[name]
    path = stored(tmp_path, "in", {**tensors, **OTHERS})

    report = prune(path, L1(amount=0.5), include=("head.*",), output=tmp_path / "out.safetensors", reports=())

    floats = sum(t.numel() for t in {**tensors, **OTHERS}.values() if t.is_floating_point())
    assert (report.all.packed, report.all.numel, report.all.pruned) == (2048, 2048 + floats, 100)
    assert report.facts == (f"2,048 weights are packed ({kind}) and cannot be pruned here: prune before quantizing",)


def test_a_model_with_few_packed_weights_is_pruned(tmp_path: Path) -> None:
    """Where most weights are floats, those are pruned by default."""
    path = stored(tmp_path, "in", {**FILES["gptq 4"][1], "head.weight": torch.rand(100, 100)})

    report = prune(path, L1(amount=0.5), output=tmp_path / "out.safetensors", reports=())

    assert [row.name for row in report.rows if row.selected] == ["head.weight"]
    assert [(row.packed, row.reason) for row in report.rows if row.packed] == [
        (2048, "packed (GPTQ, 4 bits): prune before quantizing")
    ]


def test_without_floats_there_is_no_name_to_propose(tmp_path: Path) -> None:
    """A file of packed weights, norms and biases has no matrix that a hint could name."""
    path = stored(tmp_path, "in", {**FILES["int8"][1], "x.bias": torch.rand(OUT), "norm.weight": torch.rand(9)})

    with pytest.raises(SelectionError) as error:
        prune(path, L1(amount=0.5), output=tmp_path / "out.safetensors")

    assert error.value.hint == LATER


def test_a_pattern_of_scales_is_refused(tmp_path: Path) -> None:
    """Scales of packed weights cannot be pruned by name."""
    path = stored(tmp_path, "in", FILES["gptq 4"][1])

    with pytest.raises(SelectionError, match=r"only tensors that cannot be pruned.*a part of packed weights"):
        prune(path, L1(amount=0.5), include=("*.scales",), output=tmp_path / "out.safetensors")


def test_the_listing_counts_packed_weights(tmp_path: Path) -> None:
    """The result of inspect has the packed weights of each entry, and the refusal of a pruning command."""
    result = inspect(stored(tmp_path, "in", {**FILES["awq"][1], **OTHERS}))

    packed = {entry.name: entry.packed.weights for entry in result.entries if entry.packed is not None}
    assert packed == {"x.qweight": IN * OUT}
    assert "are packed (AWQ, 4 bits)" in str(result.refusal)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_tensors_that_torch_has_quantized(tmp_path: Path) -> None:
    """A state_dict of quantized tensors is refused with the same advice, and no hint names their scales."""
    weight = torch.quantize_per_tensor(torch.rand(8, 8), 0.1, 0, torch.qint8)
    path = saved(tmp_path / "in.pth", {"fc.weight": weight, "fc.scale": torch.rand(1), "fc.zero_point": ints(1)})

    with pytest.raises(SelectionError, match="holds 1 x quantized tensor") as e:
        prune(path, L1(amount=0.5), output=tmp_path / "out.pth")

    assert e.value.hint == LATER


@pytest.mark.parametrize(
    "tensors",
    [
        {"x.qweight": ints(4, 4)},
        {"x.weight": bytes_of(4, 4)},
        {"x.weight": ints(4, 4, dtype=torch.int8), "y.weight_scale": torch.rand(4)},
        {"x_blocks": bytes_of(4, 4)},
        {"x.weight": ints(4, 4), "x.weight_scale": torch.rand(4)},
    ],
)
def test_integers_without_their_scale_are_not_packed(tensors: Weights, tmp_path: Path) -> None:
    """Integers alone are integers."""
    path = stored(tmp_path, "in", tensors)

    assert [t.packed for t in open_checkpoint(path).tensors if t.packed] == []
