"""The checks of `bench_device.py`: a device gives the bytes and the reports of the CPU, and the zeros of torch."""

from __future__ import annotations

import gc
import importlib
import json
import struct
import tempfile
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from bench_device_models import CASES, make_model, restore, torch_global, torch_l1, torch_structured

import prunecli
from prunecli.dtypes import FLOATS, TORCH_DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench_device_models import Model
    from torch import Tensor

    from prunecli.report.model import Report
    from prunecli.strategies.strategy import Strategy

SPECIAL = (float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1e-45, -1e-45, 1e-310, 6e-8, -6e-8)
"""Values that some kernel may treat wrongly."""

STRATEGIES: dict[str, Strategy] = {
    "threshold": prunecli.Threshold(0.05),
    "threshold 0": prunecli.Threshold(0.0),
    "std": prunecli.StdThreshold(0.5),
    "percentile": prunecli.Percentile(60),
    "l1": prunecli.L1(amount=0.5),
    "l1 all": prunecli.L1(amount=1.0),
    "l1 row": prunecli.L1(amount=0.3, scope="row"),
    "global": prunecli.Global(amount=0.5),
    "global 1": prunecli.Global(count=1),
    "global most": prunecli.Global(amount=0.97),
    "global lamp": prunecli.Global(amount=0.5, normalize="lamp"),
    "random": prunecli.Random(amount=0.4, seed=3),
    "topk 2:4": prunecli.TopK(2, 4),
    "topk 2:4 dim 0": prunecli.TopK(2, 4, dim=0),
    "topk 2:7": prunecli.TopK(2, 7),
    "topk 2:7 zero": prunecli.TopK(2, 7, tail="zero"),
    "topk 8:32": prunecli.TopK(8, 32),
    "topk 3:150": prunecli.TopK(3, 150),
    "structured": prunecli.Structured(amount=0.25),
    "structured dim 1": prunecli.Structured(amount=0.4, dim=1, n=1),
    "structured inf": prunecli.Structured(amount=0.5, n=float("inf")),
    "random rows": prunecli.RandomStructured(amount=0.4),
    "block 4x4": prunecli.Block(4, 4, amount=0.5),
    "block 1x3": prunecli.Block(1, 3, count=2),
}


RUNS = [(what, name) for what in ("live", "file") for name in STRATEGIES]
"""What is compared: tensors that lie on the device, and files."""


def check_devices(device: str, file_device: str, runs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield a line for each difference between `device` and the CPU, and a count of what was compared.

    `file_device` is what `prune` is called with for files.
    """
    differences = 0
    for what, name in runs:
        compare = live_differences if what == "live" else file_differences
        try:
            found = list(compare(device if what == "live" else file_device, STRATEGIES[name]))
        except Exception as error:  # noqa: BLE001 - the other checks go on
            found = [short(error)]
        differences += bool(found)
        yield from (f"DIFFERENT {what} {name}: {line}" for line in found[:8])
    yield f"bytes and reports: {len(runs)} runs compared, {differences} of them different"


@contextmanager
def computed_by_torch(device: str) -> Iterator[None]:
    """Let torch's kernels compute also for tensors on the host, if that stands in for a device."""
    modules = [importlib.import_module(f"prunecli.{name}") for name in ("io.memory_reader", "engine.in_memory")]
    real = modules[0].on_host
    for module in modules if device == "cpu" else ():
        setattr(module, "on_host", lambda _: False)  # noqa: B010 - not typed
    try:
        yield
    finally:
        for module in modules:
            setattr(module, "on_host", real)  # noqa: B010 - not typed


def release(device: str) -> None:
    """Return free memory to the device."""
    gc.collect()
    if device != "cpu":
        torch.get_device_module(device).empty_cache()


def short(error: BaseException) -> str:
    """Return an error in one line, with the one that caused it."""
    first = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return first if error.__cause__ is None else f"{first} <- {short(error.__cause__)}"


def live_differences(device: str, strategy: Strategy) -> Iterator[str]:
    """Yield the differences between pruning on the CPU and pruning tensors where they lie."""
    here, there = odd_model("cpu"), odd_model(device)
    expected = prunecli.prune_state_dict(here, strategy)
    with computed_by_torch(device):
        report = prunecli.prune_state_dict(there, strategy)
    for name, tensor in here.items():
        if not equal(tensor, there[name].cpu()):
            yield f"{name}: {count_different(tensor, there[name].cpu())} elements"
    yield from report_differences(expected, report)


def file_differences(device: str, strategy: Strategy) -> Iterator[str]:
    """Yield the differences between pruning a file on the CPU and on the device."""
    with tempfile.TemporaryDirectory() as folder:
        source, host, other = (Path(folder) / name for name in ("in.safetensors", "cpu.safetensors", "out.safetensors"))
        write_safetensors(source, {name: t.contiguous() for name, t in odd_model("cpu").items()})
        expected = prunecli.prune(source, strategy, output=host, reports=())
        report = prunecli.prune(source, strategy, output=other, reports=(), device=device)
        if host.read_bytes() != other.read_bytes():
            yield "the output files"
        yield from report_differences(expected, report)


def report_differences(expected: Report, report: Report) -> Iterator[str]:
    """Yield the fields of rows that differ."""
    for a, b in zip(expected.rows, report.rows, strict=True):
        for field in fields(a):
            left, right = getattr(a, field.name), getattr(b, field.name)
            if left != right and repr(left) != repr(right):  # NaN is not equal to itself
                yield f"{a.name}: {field.name} {left!r} on the CPU, {right!r} there"


def equal(a: Tensor, b: Tensor) -> bool:
    """Return whether all bits of two tensors are equal."""
    return torch.equal(bits(a), bits(b))


def count_different(a: Tensor, b: Tensor) -> int:
    """Return the number of elements with different bits."""
    size = a.element_size()
    return int((bits(a) != bits(b)).view(-1, size).any(1).sum())


def bits(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor on the host."""
    return tensor.contiguous().view(-1).view(torch.uint8)


def odd_model(device: str) -> Model:
    """Return matrices of every dtype with special values, ties, strided and tied ones, on `device`."""
    generator = torch.Generator().manual_seed(0)
    model: Model = {}
    for dtype in float_dtypes():
        t = torch.randn(61, 167, generator=generator, dtype=torch.float64).mul_(0.1)
        t[::3] = t[::3].mul(20).round().div(20)
        t.view(-1)[: 13 * len(SPECIAL) : 13] = torch.tensor(SPECIAL, dtype=torch.float64)
        name = str(dtype).removeprefix("torch.")
        model[f"{name}.weight"] = t.to(dtype).to(device)
        for at, (first, shape) in enumerate([(0, (16, 64)), (1024, (16, 64)), (2048, (10, 30))]):
            small = t.view(-1)[first : first + shape[0] * shape[1]].view(shape)  # those of a kind are pruned together
            model[f"{name}.small{at}.weight"] = small.to(dtype, copy=True).to(device)
    wide = torch.randn(96, 4096, generator=generator).to(device)
    model["transposed.weight"] = wide.t()
    model["sliced.weight"] = torch.randn(300, 700, generator=generator).to(device)[10:, 5:600]
    model["kernel.weight"] = torch.randn(9, 23, 3, 5, generator=generator).to(device)
    model["large.weight"] = torch.randn(1200, 2048, generator=generator).to(torch.bfloat16).to(device)
    model["tied.weight"] = model["large.weight"]
    return model


def float_dtypes() -> list[torch.dtype]:
    """Return the dtypes of torch whose weights can be pruned."""
    names = [name for name, ours in TORCH_DTYPES.items() if ours in FLOATS]
    found = [getattr(torch, name, None) for name in names]
    return list(dict.fromkeys(dtype for dtype in found if isinstance(dtype, torch.dtype)))


def write_safetensors(path: Path, model: Model) -> None:
    """Write a safetensors file, tensor by tensor."""
    header, end = {}, 0
    for name, t in model.items():
        size = t.numel() * t.element_size()
        dtype = TORCH_DTYPES[str(t.dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(t.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for t in model.values():
            bits(t.cpu()).numpy().tofile(file)


def check_zeros(device: str, shapes: list[tuple[int, ...]]) -> Iterator[str]:
    """Yield a line for each function of torch.nn.utils.prune: whether its zeros are ours, in fp32."""
    functions: dict[str, Callable[[Model], Model]] = {
        "L1": torch_l1,
        "Global": torch_global,
        "Structured": torch_structured,
    }
    pristine = make_model(device, torch.float32, shapes)
    model = {name: w.clone() for name, w in pristine.items()}
    for name, function in functions.items():
        yield f"zeros of torch.nn.utils.prune, {name}, fp32: {zeros_of(name, function, model, pristine)}"


def zeros_of(name: str, function: Callable[[Model], Model], model: Model, pristine: Model) -> str:
    """Say whether a strategy and a function of torch have the same zeros, or return the error of one of them."""
    try:
        restore(model, pristine)
        theirs = function({key: w.clone() for key, w in model.items()})
        prunecli.prune_state_dict(model, CASES[name].strategy)
        return compare_zeros(pristine, model, theirs)
    except Exception as error:  # noqa: BLE001 - the other checks go on
        return short(error)


def compare_zeros(pristine: Model, ours: Model, theirs: Model) -> str:
    """Say whether two results have the same zeros; weights equal to the cut may be chosen otherwise."""
    different = others = number = 0
    cut = max(float(w[ours[name] == 0].abs().max()) for name, w in pristine.items())
    for name, w in pristine.items():
        unequal = (ours[name] == 0) != (theirs[name] == 0)
        own = float(w[ours[name] == 0].abs().max())
        different += int(unequal.sum())
        others += int((unequal & (w.abs() != own) & (w.abs() != cut)).sum())
        number += int((ours[name] == 0).sum()) - int((theirs[name] == 0).sum())
    if not different:
        return "the same"
    return f"{different} differ, {others} of them not equal to the cut, {number} more are ours"
