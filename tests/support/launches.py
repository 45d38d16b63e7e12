"""The cost of pruning tensors on a device, counted with torch on the CPU: kernels that are started, and waits for them.

Every operation of torch that computes is one kernel. The Triton kernels are replaced by plain torch, and each counts as
one. A wait is whatever needs a number of the device on the host, or copies one from the host.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prunecli.kernels import torch_folds, torch_tables
from prunecli.kernels.folds import Numbers
from prunecli.kernels.norms import block_norms, slice_norms, smallest_norms
from prunecli.kernels.random_bits import draw
from prunecli.kernels.torch_blocks import prune_blocks
from prunecli.kernels.torch_fused import Fused
from prunecli.kernels.torch_groups import smallest_of_rows
from prunecli.kernels.torch_views import mark_alive, of_blocks
from support.ranks import CountedRanks
from support.tables import CountedTables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import pytest

    from prunecli.layout import SliceView

VIEWS = (
    "view", "slice", "select", "expand", "permute", "t", "transpose", "as_strided", "detach", "alias", "unsqueeze",
    "squeeze", "split", "split_with_sizes", "unbind", "_unsafe_view", "_reshape_alias", "unfold", "lift_fresh", "empty",
    "empty_strided", "new_empty", "set_", "resize_", "diagonal", "is_pinned", "unflatten",
)  # fmt: skip
"""Operations that compute nothing on the device."""

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "equal")
"""Operations whose result, or its size, is a number on the host."""

TO_DEVICE = (
    "kernels.torch_tables", "kernels.torch_many", "kernels.torch_totals", "kernels.fused_ranks",
    "kernels.torch_in_place", "kernels.torch_ops", "kernels.torch_values", "ranking.device_ranks",
    "ranking.device_tables", "engine.device_counts", "engine.device_measure", "engine.scorers", "engine.scored_ranks",
)  # fmt: skip
"""The modules that copy numbers to devices from page-locked memory, without a wait."""

COPIES = ("cpu", "numpy", "tolist")


class Launches(TorchDispatchMode):
    """What was counted: kernels and waits, and the names of the kernels."""

    def __init__(self) -> None:
        """Count nothing yet."""
        super().__init__()
        self.kernels = self.waits = 0
        self.names: dict[str, int] = {}
        self.paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - as torch's
        """Count an operation."""
        if not self.paused:
            self._count(func.overloadpacket.__name__, args)
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, args: Any) -> None:  # noqa: ANN401 - as torch's
        by_flags = name == "index" and any(x is not None and x.dtype == torch.bool for x in args[1])
        self.waits += name in WAITS or by_flags
        for _ in range(0 if name in VIEWS else _kernels(name, args)):
            self.add(name)

    def add(self, name: str) -> None:
        """Count a kernel."""
        self.kernels += 1
        self.names[name] = self.names.get(name, 0) + 1

    def one(self, name: str) -> AbstractContextManager[None]:
        """Count what runs inside as one kernel."""
        return self.several(name, 1)

    @contextmanager
    def several(self, name: str, number: int) -> Iterator[None]:
        """Count what runs inside as so many kernels."""
        outer = self.paused
        for _ in range(0 if outer else number):
            self.add(name)
        self.paused = True
        try:
            yield
        finally:
            self.paused = outer


def _kernels(name: str, args: Any) -> int:  # noqa: ANN401 - as torch's
    """Return the kernels of an operation: one kernel copies only tensors whose elements lie in the same order."""
    if name != "_foreach_copy_":
        return 1
    pairs = zip(*args[:2], strict=True)
    return max(sum(not (source.is_contiguous() and target.is_contiguous()) for target, source in pairs), 1)


class CountedKernels(CountedTables):
    """The calls of `Fused`, computed by plain torch."""

    def __init__(self, counted: Launches) -> None:
        """Count each call as a kernel of `counted`."""
        super().__init__(counted)
        self._checks: Any = Fused.__new__(Fused)
        self.slices, self.ranks = self, CountedRanks(counted)

    def takes(self, x: Any, keep: Any) -> bool:  # noqa: ANN401 - as `Fused`
        """Return what the kernels do."""
        return bool(self._checks.takes(x, keep))

    def prune_blocks(self, x: Any, keep: Any, dtype: Any) -> Any:  # noqa: ANN401 - as `Fused`
        """Prune a run."""
        with self._counted.one("prune_kernel"):
            return prune_blocks(torch, x, keep, dtype)

    def keep_rows(self, rows: Any, wanted: Any, kept: Any) -> bool:  # noqa: ANN401 - as `Fused`
        """Rank rows."""
        with self._counted.one("smallest_kernel"):
            kept.copy_(-smallest_of_rows(torch, rows, wanted[:, None]).to(torch.int8))
        return True

    def mark_alive(self, alive: Any, after: Any, first: int, view: Any, dtype: Any, _: Any) -> bool:  # noqa: ANN401
        """Mark slices."""
        with self._counted.one("rows or columns kernel"):
            nonzero = self._plain.magnitudes(after, dtype) != 0
            mark_alive(torch, alive, nonzero, first, view)
        return True

    def fold(self, x: Any, dtype: Any, n: float, shape: tuple[int, int, int], part: int) -> Any:  # noqa: ANN401
        """Fold magnitudes."""
        with self._counted.one("fold_kernel"):
            numbers = Numbers(lambda *_: None, dtype)
            return torch_folds.plain_fold(x, numbers, n, shape, part).reshape(-1, 1, shape[2])

    def slice_norms(self, arrays: Any, dtype: Any, view: SliceView, n: float) -> Any:  # noqa: ANN401
        """Fold magnitudes of slices."""
        kernels = 1 if view.after > 1 and view.before > 1 else 0
        with self._counted.several("fold_kernel", 2 + kernels + (n == 2)):
            return torch.stack([_norms(x, dtype, lambda own: slice_norms(own, view, n)) for x in arrays])

    def block_norms(self, arrays: Any, dtype: Any, view: SliceView, block: tuple[int, int]) -> Any:  # noqa: ANN401
        """Fold squares of blocks."""
        with self._counted.one("blocks_kernel"):
            return torch.stack([_norms(x, dtype, lambda own: block_norms(own, view, block)) for x in arrays])

    def spread(self, flags: Any, view: SliceView, block: tuple[int, int]) -> Any:  # noqa: ANN401
        """Repeat the flags of blocks."""
        with self._counted.one("spread_kernel"):
            return torch.cat([of_blocks(torch, row, 0, view.total * view.size, view, block) for row in flags])

    def smallest(self, norms: Any, k: int) -> Any:  # noqa: ANN401
        """Rank norms."""
        with self._counted.several("smallest", 5):
            found = [smallest_norms(row.numpy(), k) for row in norms]
            flags = torch.stack([torch.frombuffer(bytearray(flags), dtype=torch.int8) for flags, _ in found])
            return flags, torch.tensor([value or 0.0 for _, value in found], dtype=torch.float64)

    def moments(self, x: Any, dtype: Any, scale: float, rows: int) -> Any:  # noqa: ANN401
        """Fold both sums."""
        with self._counted.one("moments_kernel"):
            numbers = Numbers(lambda *_: None, dtype)
            return torch_folds.plain_moments(x, numbers, scale, rows).T[:, :, None]

    def joined(self, sums: Any) -> Any:  # noqa: ANN401
        """Fold sums."""
        with self._counted.one("join_kernel"):
            return torch_folds.fold_again(sums, 1.0, (*sums.shape, 1), sums.shape[1])[:, :, 0]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return the counterpart in plain torch of another call."""

        def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - as `Fused`
            with self._counted.one(name):
                return getattr(self._plain, name)(*args, **options)

        return call


class CountedRandom:
    """The calls of `FusedRandom`, computed by NumPy."""

    def __init__(self, counted: Launches) -> None:
        """Count the kernels of `counted`."""
        self._counted = counted

    def ranked(self, keys: Sequence[int], length: int, rank: int, _: str) -> torch.Tensor:
        """Rank the keys of whole tensors."""
        with self._counted.several("random ranks", 16):
            rows = []
            for key in keys:
                numbers = draw(key, 0, length).astype(np.int64)
                wanted = int(np.sort((numbers << 32) | np.arange(length))[rank - 1])
                less, equal = int((numbers < wanted >> 32).sum()), int((numbers == wanted >> 32).sum())
                rows.append([less, equal, wanted, 0, equal])
            return torch.tensor(rows)

    def kept(self, keys: Sequence[int], cuts: Sequence[int], part: tuple[int, int], _: str) -> torch.Tensor:
        """Compare with the cuts."""
        with self._counted.several("random flags", 3):
            position = np.arange(part[0], sum(part))
            rows = [draw(key, *part).astype(np.int64) << 32 | position for key in keys]
            return torch.from_numpy(np.concatenate([row > cut for row, cut in zip(rows, cuts, strict=True)]))


def _norms(x: Any, dtype: Any, measure: Callable[[Numbers], Any]) -> Any:  # noqa: ANN401 - tensors
    """Return norms that the host computes."""
    return torch.from_numpy(measure(Numbers(lambda first, stop: x.numpy()[first:stop], dtype)))


def count_launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    """Return what counts from now on, while it is entered; all tensors are as if on a device with Triton."""
    for module in ("io.memory_reader", "engine.in_memory", "training.masks"):
        monkeypatch.setattr(f"prunecli.{module}.on_host", lambda _: False)
    counted = Launches()
    kernels, random = CountedKernels(counted), CountedRandom(counted)
    monkeypatch.setattr("prunecli.engine.together.folding", lambda *_: kernels)
    monkeypatch.setattr("prunecli.engine.random_ranks.drawing", lambda _: random)
    for module in ("torch_ops.fused", "torch_folds.folding", "torch_in_place.folding"):
        monkeypatch.setattr(f"prunecli.kernels.{module}", lambda *_: kernels)

    def waiting(real: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - as the methods
            # A storage is what a region shows where NumPy shares it.
            if counted.paused or getattr(args[0], "dtype", None) == torch.uint8:
                return real(*args, **options)
            with counted.one("copy to or from the host"):
                counted.waits += 1
                return real(*args, **options)

        return inner

    for name in COPIES:
        monkeypatch.setattr(torch.Tensor, name, waiting(getattr(torch.Tensor, name)))
    for name in ("tensor", "from_numpy", "frombuffer"):
        monkeypatch.setattr(torch, name, waiting(getattr(torch, name)))
    without_waits(monkeypatch, counted)
    return counted


def without_waits(monkeypatch: pytest.MonkeyPatch, counted: Launches) -> None:
    """Count copies from page-locked memory as kernels."""

    def without_a_wait(real: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any) -> Any:  # noqa: ANN401 - numbers, and where they go
            with counted.one("copy to the device"):
                return real(*args)

        return inner

    to_device = without_a_wait(torch_tables.to_device)
    for module in TO_DEVICE:
        monkeypatch.setattr(f"prunecli.{module}.to_device", to_device)
