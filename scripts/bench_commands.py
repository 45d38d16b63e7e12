"""The commands that the benchmark measures, the scripts that they replace, and the goals."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

COPY = "cp && sync"
HOT = "cp, hot"
TWICE = "read twice"

STRATEGIES = {
    "threshold": ("threshold", "--thr", "0.0135"),
    "global": ("global", "--amount", "0.5"),
    "percentile": ("percentile", "--q", "50"),
    "l1": ("l1", "--amount", "0.5"),
    "l1 by row": ("l1", "--amount", "0.5", "--scope", "row"),
    "topk 2:4": ("topk", "--pattern", "2:4"),
    "topk 2:7": ("topk", "--pattern", "2:7"),
    "topk 8:32": ("topk", "--pattern", "8:32"),
    "structured": ("structured", "--amount", "0.25"),
    "structured dim 1": ("structured", "--amount", "0.25", "--dim", "1"),
    "block 4x4": ("block", "--shape", "4x4", "--amount", "0.5"),
    "random": ("random", "--amount", "0.5"),
}
"""The arguments of `prune` by name."""

READERS = {
    "inspect": ("inspect", "CKPT"),
    "inspect --thresholds": ("inspect", "CKPT", "--thresholds"),
    "inspect --hist": ("inspect", "CKPT", "--hist", "*.weight"),
    "scan": ("scan", "CKPT"),
    "check --min-sparsity": ("check", "CKPT", "--min-sparsity", "0"),
    "check --pattern": ("check", "CKPT", "--pattern", "4:4"),
    "diff": ("diff", "CKPT", "CKPT"),
}
"""The arguments of commands that only read; CKPT is the file."""

LOAD = """
import sys, torch
src, dst = sys.argv[1:]
if src.endswith(".pth"):
    ckpt = torch.load(src, map_location="cpu", weights_only=True); sd = ckpt.get("state_dict", ckpt)
    save = lambda: torch.save(ckpt, dst)
else:
    from safetensors.torch import load_file, save_file
    sd = ckpt = load_file(src); save = lambda: save_file(sd, dst)
weights = {k: v for k, v in sd.items() if v.is_floating_point() and v.dim() >= 2}
"""

MODULE = """
import torch.nn.utils.prune as prune
class Holder(torch.nn.Module):
    def __init__(self, w): super().__init__(); self.weight = torch.nn.Parameter(w, requires_grad=False)
held = {k: Holder(w) for k, w in weights.items()}
"""

RIVALS = {
    "load, mask, save": LOAD + "for w in weights.values(): w.mul_(w.abs() > 0.0135)\nsave()",
    "np.percentile per layer": LOAD
    + "import numpy as np\nfor w in weights.values():\n"
    + "    w.mul_(w.abs() > float(np.percentile(w.float().abs().numpy(), 50)))\nsave()",
    "topk + scatter, 2:4": LOAD
    + "for w in weights.values():\n    g = w.view(-1, 4); keep = g.abs().topk(2, 1).indices\n"
    + "    g.mul_(torch.zeros_like(g).scatter_(1, keep, 1))\nsave()",
    "l1_unstructured": LOAD
    + MODULE
    + "for k, h in held.items():\n    prune.l1_unstructured(h, 'weight', 0.5); prune.remove(h, 'weight')\n"
    + "    sd[k] = h.weight.data\nsave()",
    "global_unstructured": LOAD
    + MODULE
    + "prune.global_unstructured([(h, 'weight') for h in held.values()], prune.L1Unstructured, amount=0.5)\n"
    + "for k, h in held.items():\n    prune.remove(h, 'weight'); sd[k] = h.weight.data\nsave()",
}
"""Scripts by name: `python -c SCRIPT SRC DST`."""

TIMES_FASTER = {"load, mask, save": ("threshold", 12), "global_unstructured": ("global", 100)}
"""The command that replaces a rival, and how many times as fast it is meant to be."""


@dataclass(frozen=True, slots=True)
class Goal:
    """The most wall time next to `cp && sync`, CPU seconds per GB, and peak memory in MB that a command may take."""

    ratio: float
    cpu: float
    peak: float

    def with_checksums(self) -> Goal:
        """Return the goal for a .pth, whose checksums are computed as well."""
        return Goal(self.ratio + 0.1, self.cpu + 0.15, self.peak)


_RANKED, _GROUPS, _SLICES, _SORTED = Goal(0.75, 0.5, 70), Goal(0.6, 0.45, 70), Goal(0.9, 0.6, 80), Goal(1.2, 1.5, 80)

GOALS = {
    "threshold": Goal(0.5, 0.3, 60),
    "global": _RANKED,
    "percentile": _RANKED,
    "l1": _RANKED,
    "topk 2:4": _GROUPS,
    "topk 2:7": _GROUPS,
    "structured": _SLICES,
    "structured dim 1": _SLICES,
    "block 4x4": _SLICES,
    "l1 by row": _SORTED,
    "topk 8:32": _SORTED,
}
"""The goals for 2 GB on 2 CPUs."""

SMALL_SECONDS = {"46MB": 0.15, "1MB": 0.12}
"""The most seconds of a common strategy on a small file."""

MANY_TENSORS = 1.2
"""How many times as long 10,000 tensors may take as the same bytes in few."""


def tool(words: str) -> list[str]:
    """Return the words of the command that runs `prune`; by default the one next to this Python, else the module."""
    installed = Path(sys.executable).with_name("prune")
    return shlex.split(words) or ([str(installed)] if installed.is_file() else [sys.executable, "-m", "prunecli"])


def commands(
    source: Path, out: Path, prune: Sequence[str], names: Sequence[str], threads: Sequence[int], rivals: Sequence[str]
) -> dict[str, list[str]]:
    """Return the commands by name; `cp` is first. With several numbers of `threads` their names say which they have."""
    found = {
        COPY: ["sh", "-c", 'cp -r "$1" "$2" && find "$2" -type f -exec sync {} +', "sh", str(source), str(out)],
        HOT: ["cp", "-r", str(source), str(out)],
    }
    readers = [name for name in names if name in READERS]
    if readers:
        found[TWICE] = ["sh", "-c", 'find "$1" "$1" -type f -exec cat {} + >/dev/null', "sh", str(source)]
    for name in names:
        if name in READERS:
            words = (str(source) if word == "CKPT" else word for word in READERS[name])
            found[name] = [*prune, *words, "--no-progress"]
            continue
        for number in threads:
            options = ["-q", "--report", str(report_of(out)), "--threads", str(number)]
            found[with_threads(name, number, threads)] = [
                *prune,
                *STRATEGIES[name],
                str(source),
                "-o",
                str(out),
                *options,
            ]
    return found | {name: [sys.executable, "-c", RIVALS[name], str(source), str(out)] for name in rivals}


def with_threads(name: str, number: int, threads: Sequence[int]) -> str:
    """Return the name of a command with this number of threads."""
    return name if len(threads) == 1 else f"{name}, {number} threads"


def report_of(out: Path) -> Path:
    """Return the path of the report of an output."""
    return Path(f"{out}.report.json")
