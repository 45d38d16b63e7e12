"""Write the transformer-shaped files of the benchmark, in pieces and with little memory."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

Shape = tuple[int, ...]
ITEMSIZE = {"BF16": 2, "F32": 4}


def transformer(path: Path, size: int, dtypes: Sequence[str]) -> Path:
    """Write about `size` bytes of transformer weights as one safetensors file; dtypes alternate from layer to layer."""
    if not path.exists():
        write(path, list(layers(size, dtypes)))
    return path


def shards(folder: Path, size: int, number: int) -> Path:
    """Write a directory of `number` safetensors shards with an index."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return folder
    folder.mkdir(exist_ok=True)
    tensors = list(layers(size, ("BF16",)))
    weight_map: dict[str, str] = {}
    for at in range(number):
        name = f"model-{at + 1:05d}-of-{number:05d}.safetensors"
        part = tensors[at * len(tensors) // number : (at + 1) * len(tensors) // number]
        write(folder / name, part, seed=at)
        weight_map |= {tensor: name for tensor, _, _ in part}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def many(path: Path, size: int, number: int) -> Path:
    """Write one safetensors file of about `size` bytes with `number` tensors, of which every second one is a bias."""
    if not path.exists():
        rows = max(1, size // (number // 2) // (400 * ITEMSIZE["F32"]))
        tensors: list[tuple[str, str, Shape]] = []
        for at in range(number // 2):
            tensors += [(f"l.{at}.weight", "F32", (rows, 400)), (f"l.{at}.bias", "F32", (rows,))]
        write(path, tensors)
    return path


def plain_pth(path: Path, size: int, dtype: str) -> Path:
    """Write a state_dict with torch.save."""
    if path.exists():
        return path
    import torch  # noqa: PLC0415 - the other files do without it

    generator = torch.Generator().manual_seed(0)
    as_type = {"F32": torch.float32, "BF16": torch.bfloat16}[dtype]
    sizes = layers(size, (dtype,))
    torch.save({k: (torch.randn(shape, generator=generator) * 0.02).to(as_type) for k, _, shape in sizes}, path)
    return path


def nested_pth(path: Path, size: int) -> Path:
    """Write {"state_dict", "optimizer", "epoch"} with torch.save: fp32, Adam's two moments, a tied head."""
    if path.exists():
        return path
    import torch  # noqa: PLC0415 - the other files do without it

    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) * 0.02 for name, _, shape in layers(size // 3, ("F32",))}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    state = {at: {"exp_avg": w * 0.1, "exp_avg_sq": w * w} for at, w in enumerate(weights.values())}
    torch.save({"epoch": 3, "state_dict": weights, "optimizer": {"state": state}}, path)
    return path


def layers(size: int, dtypes: Sequence[str]) -> Iterator[tuple[str, str, Shape]]:
    """Yield name, dtype and shape of the tensors of a llama-shaped model of about `size` bytes."""
    hidden = 2048 if size > 500_000_000 else 512 if size > 20_000_000 else 128
    vocabulary, inner = 8 * hidden, hidden * 11 // 4
    yield "model.embed_tokens.weight", dtypes[0], (vocabulary, hidden)
    size -= 2 * vocabulary * hidden * ITEMSIZE[dtypes[0]]
    at = 0
    while size > 0:
        dtype = dtypes[at % len(dtypes)]
        shapes: dict[str, Shape] = {f"self_attn.{k}_proj.weight": (hidden, hidden) for k in "kqvo"}
        shapes |= {f"mlp.{k}_proj.weight": (inner, hidden) for k in ("gate", "up")}
        shapes |= {"mlp.down_proj.weight": (hidden, inner), "input_layernorm.weight": (hidden,)}
        for name, shape in shapes.items():
            yield f"model.layers.{at:03d}.{name}", dtype, shape
            size -= int(np.prod(shape)) * ITEMSIZE[dtype]
        at += 1
    yield "lm_head.weight", dtypes[0], (vocabulary, hidden)


def write(path: Path, tensors: Iterable[tuple[str, str, Shape]], seed: int = 0) -> None:
    """Write a safetensors file of normally distributed weights (standard deviation 0.02)."""
    tensors = sorted(tensors)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dtype, shape in tensors:
        end = at + int(np.prod(shape)) * ITEMSIZE[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for _, dtype, shape in tensors:
            for part in weights(random, int(np.prod(shape)), dtype):
                file.write(part.tobytes())


def weights(random: np.random.Generator, number: int, dtype: str) -> Iterator[NDArray[np.generic]]:
    """Yield `number` weights in pieces, as the bytes of `dtype`."""
    while number:
        piece = min(number, 1 << 22)
        floats = random.standard_normal(piece, dtype=np.float32) * np.float32(0.02)
        yield floats if dtype == "F32" else (floats.view(np.uint32) >> 16).astype(np.uint16)
        number -= piece
