"""Tensors of GGUF files are listed and pruned as llama.cpp's own package reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import bits, make_weights, zeroed
from support.foreign import library, native, write_gguf

import prunecli
from prunecli.api import prune
from prunecli.errors import CheckpointError, SelectionError
from prunecli.formats.contents import other_contents
from prunecli.formats.gguf.types import DTYPES, QUANTIZED
from prunecli.formats.open import open_checkpoint
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.thresholds import Threshold
from prunecli.strategies.unstructured import Global

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

W = np.random.default_rng(0).standard_normal((8, 32), dtype=np.float32)


def quantized(array: NDArray[np.float32], kind: str) -> NDArray[np.generic]:
    """Return the bytes of an array in a type, from the package's own quantizer."""
    gguf = library("gguf")
    packed: NDArray[np.generic] = gguf.quants.quantize(array, gguf.GGMLQuantizationType[kind])
    return packed


def test_the_types_are_those_of_the_package() -> None:
    """Names, weights and bytes of the blocks are those of the package; types that it adds later are not known."""
    gguf = library("gguf")
    sizes = {kind.value: (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}

    known = QUANTIZED | {kind: (name, 1, prunecli.dtypes.BITS[name] // 8) for kind, name in DTYPES.items()}

    shared = known.keys() & sizes.keys()  # older versions of the package lack the newest types
    assert len(shared) > 25
    assert {kind: sizes[kind] for kind in shared} == {kind: known[kind] for kind in shared}


def test_half_precision_and_bfloat16_are_pruned(tmp_path: Path) -> None:
    """F16, BF16 and F64 weights are pruned; the package reads zeros and all other bits unchanged."""
    weights = make_weights()["fc.weight"]
    arrays = {
        "a.weight": weights.half().numpy(),
        "b.weight": weights.bfloat16().view(torch.uint8).numpy(),
        "c.weight": weights.double().numpy(),
    }
    path = write_gguf(tmp_path / "m.gguf", arrays, **{"b.weight": 30})

    report = prune(path, Threshold(0.05), reports=())

    reader = library("gguf").GGUFReader(report.output_path)
    after = {tensor.name: native(np.array(tensor.data)) for tensor in reader.tensors}
    dtypes = {"a.weight": torch.float16, "b.weight": torch.bfloat16, "c.weight": torch.float64}
    for name, dtype in dtypes.items():
        before = weights.to(dtype)
        assert torch.equal(bits(zeroed(before, before.abs() > 0.05)), bits(after[name].view(dtype))), name


def test_quantized_tensors_are_counted_and_left_alone(tmp_path: Path) -> None:
    """A quantized tensor counts with its weights, is named with its type, and keeps its bytes."""
    arrays = {"blk.0.ffn_up.weight": quantized(W, "Q8_0"), "blk.0.ffn_down.weight": np.concatenate([W, W, W])}
    path = write_gguf(tmp_path / "m.gguf", arrays, **{"blk.0.ffn_up.weight": 8})

    report = prune(path, Threshold(0.5), reports=())

    packed = {t.name: t.packed for t in open_checkpoint(path).tensors}["blk.0.ffn_up.weight"]
    after = {t.name: np.array(t.data) for t in library("gguf").GGUFReader(report.output_path).tensors}
    assert packed == prunecli.checkpoint.PackedWeights("GGUF Q8_0", W.size)
    assert after["blk.0.ffn_up.weight"].tobytes() == arrays["blk.0.ffn_up.weight"].tobytes()
    assert (after["blk.0.ffn_down.weight"] == 0).any()


def test_a_quantized_model_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    """A file whose weights are mostly quantized is refused, and the hint names llama-quantize."""
    path = write_gguf(tmp_path / "m.gguf", {"a.weight": quantized(W, "Q4_0")}, **{"a.weight": 2})

    with pytest.raises(SelectionError, match=r"256 of 256 weights \(100%\) are packed \(GGUF Q4_0\)") as caught:
        prune(path, Threshold(0.5), reports=())

    assert "llama-quantize --allow-requantize" in str(caught.value.hint)


def test_quantized_blocks_are_not_converted(tmp_path: Path) -> None:
    """No other format knows what the blocks mean: they are part of what is left out, or an error."""
    arrays = {"a.weight": quantized(W, "Q8_0"), "b.weight": W}
    path = write_gguf(tmp_path / "m.gguf", arrays, **{"a.weight": 8})

    with pytest.raises(CheckpointError, match=r"safetensors cannot hold .*a\.weight \(GGUF Q8_0 blocks\)"):
        prunecli.convert(path, tmp_path / "m.safetensors")
    prunecli.convert(path, tmp_path / "m.safetensors", drop_rest=True)

    assert {name: t.numpy().tobytes() for name, t in load_file(tmp_path / "m.safetensors").items()} == {
        "b.weight": W.tobytes()
    }


def test_big_endian_files(tmp_path: Path) -> None:
    """A file of a big-endian machine is pruned, and the package reads the result."""
    gguf = library("gguf")
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("a.weight", W.copy())  # the writer swaps the bytes of the array itself
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    report = prune(tmp_path / "m.gguf", Threshold(0.5), reports=())

    (tensor,) = gguf.GGUFReader(report.output_path).tensors
    assert np.array_equal(np.where(np.abs(W) > 0.5, W, 0), tensor.data.astype(np.float32))


def test_metadata_of_every_kind_is_content(tmp_path: Path) -> None:
    """Each entry of the metadata is listed with a text; changing one is a difference."""
    gguf = library("gguf")

    def write(name: str, context: int, tokens: list[str]) -> Path:
        writer = gguf.GGUFWriter(tmp_path / name, "llama")
        writer.add_uint32("llama.context_length", context)
        writer.add_float32("llama.scale", 0.5)
        writer.add_bool("llama.causal", True)
        writer.add_array("tokenizer.ggml.tokens", tokens)
        writer.add_array("tokenizer.ggml.scores", [1.0, 2.0])
        writer.add_array("nested", [[1, 2], [3]])
        writer.add_custom_alignment(64)
        writer.add_tensor("a.weight", W)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / name

    one, two = write("one.gguf", 512, ["a", "b"]), write("two.gguf", 1024, ["a", "c"])

    checkpoint = open_checkpoint(one)
    contents = other_contents(checkpoint)
    assert contents["metadata general.architecture"] == "'llama'"
    assert contents["metadata llama.context_length"] == "512"
    assert contents["metadata general.alignment"] == "64"
    assert contents["metadata tokenizer.ggml.tokens"].startswith("30 bytes, sha256")
    assert one.read_bytes()[checkpoint.tensors[0].start :] == W.tobytes()
    difference = prunecli.diff(one, two)
    assert [content.name for content in difference.contents] == [
        "metadata llama.context_length",
        "metadata tokenizer.ggml.tokens",
    ]


def layouts(path: Path) -> dict[str, str]:
    """Return the label of the layout of each tensor that is a weight by default."""
    return {t.name: t.layout.label for t in open_checkpoint(path).tensors if t.layout.not_a_weight is None}


def test_matrices_have_outputs_first(tmp_path: Path) -> None:
    """The dimensions are those of torch, outputs first, for square matrices and stacks of experts too."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (50, 8),
        "blk.0.attn_q.weight": (8, 8),
        "blk.0.ffn_up_exps.weight": (4, 16, 8),
        "blk.0.ffn_gate_inp.weight": (4, 8),
        "blk.0.attn_norm.weight": (8,),
        "output.weight": (50, 8),
    }
    path = write_gguf(tmp_path / "m.gguf", {name: np.ones(shape, np.float32) for name, shape in shapes.items()})

    tensors = {t.name: t for t in open_checkpoint(path).tensors}

    assert {name: t.shape for name, t in tensors.items()} == shapes
    assert layouts(path) == {
        "token_embd.weight": "embedding out-in",
        "blk.0.attn_q.weight": "matrix out-in",
        "blk.0.ffn_up_exps.weight": "experts out-in",
        "blk.0.ffn_gate_inp.weight": "matrix out-in",
        "blk.0.attn_norm.weight": "vector",
        "output.weight": "matrix out-in",
    }
    assert not prune(path, TopK(2, 4), reports=(), dry_run=True).warnings


def test_the_parts_of_a_split_model(tmp_path: Path) -> None:
    """A part is pruned alone, and a note says so; their folder is one model, whose weights are ranked together."""
    gguf = library("gguf")
    folder = tmp_path / "m"
    folder.mkdir()
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama", split_max_tensors=1)
    for name, array in {"a.weight": W, "b.weight": 100 * W}.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    part = open_checkpoint(folder / "m-00002-of-00002.gguf")
    report = prune(folder, Global(amount=0.5), reports=())

    assert [t.name for t in part.tensors] == ["b.weight"]
    assert part.notes == ("the model is split into several files; their folder stands for all of them",)
    pruned = [gguf.GGUFReader(path).tensors[0].data for path in sorted((tmp_path / "m.pruned").iterdir())]
    assert sum(int((array == 0).sum()) for array in pruned) == W.size
    assert [row.pruned for row in report.rows] == [int((array == 0).sum()) for array in pruned]
    assert (pruned[0] == 0).mean() > 0.9


def test_a_key_is_refused(tmp_path: Path) -> None:
    """A GGUF file has one state_dict."""
    path = write_gguf(tmp_path / "m.gguf", {"a.weight": W})

    with pytest.raises(CheckpointError, match="is a GGUF file, which has no key 'model'"):
        open_checkpoint(path, key="model")
