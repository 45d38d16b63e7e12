"""A run of several processes writes the same bytes as one process: the checkpoint, the mask and the report."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from support.children import environment, run_python, start_python
from support.many_runs import compared
from support.together import PRUNE, free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.together import Together

COMMANDS = {
    "global": ["global", "--amount", "0.5"],
    "global-count": ["global", "--count", "777", "--min-numel", "20", "--html"],
    "global-l2": ["global", "--amount", "0.4", "--normalize", "l2"],
    "global-lamp": ["global", "--amount", "0.4", "--normalize", "lamp"],
    "global-max": ["global", "--amount", "0.4", "--max-per-tensor", "0.5"],
    "global-remaining": ["global", "--amount", "0.4", "--of", "remaining"],
    "l1": ["l1", "--amount", "0.5"],
    "l1-row": ["l1", "--amount", "0.5", "--scope", "row"],
    "l1-erk": ["l1", "--amount", "0.5", "--allocate", "erk"],
    "threshold": ["threshold", "--thr", "0.1"],
    "threshold-std": ["threshold", "--thr-std", "0.5"],
    "percentile": ["percentile", "--q", "40"],
    "topk": ["topk", "--pattern", "2:4"],
    "structured": ["structured", "--amount", "0.3", "--with-bias"],
    "block": ["block", "--shape", "2x2", "--amount", "0.5"],
    "random": ["random", "--amount", "0.5", "--seed", "3"],
    "random-structured": ["random", "--amount", "0.5", "--structured"],
}
FORMATS = ("safetensors", "safetensors-shards", "zip", "bin-shards")


def line(name: str, source: Path, folder: Path, *more: object) -> list[object]:
    """Return a command line that writes a checkpoint, a mask and a report."""
    words = [word for word in COMMANDS[name] if word != "--html"]
    reports: list[object] = ["--report", folder / "report.json"]
    if "--html" in COMMANDS[name]:
        reports += ["--report", folder / "report.csv"]
    suffix = source.suffix
    output = folder / f"out{suffix}"
    return [words[0], source, *words[1:], "-o", output, "--mask-out", folder / "mask.safetensors", *reports, *more]


@pytest.mark.parametrize(
    ("command", "container"),
    [
        ("global", "safetensors-shards"),
        ("global-lamp", "zip"),
        ("structured", "safetensors-shards"),
        pytest.param("l1-row", "non-contiguous", marks=pytest.mark.slow),
        pytest.param("threshold", "one-storage", marks=pytest.mark.slow),
        ("global-remaining", "sliced"),
    ],
)
def test_the_same_bytes(
    forks: Together, source: Callable[[str], Path], tmp_path: Path, command: str, container: str
) -> None:
    """Three processes write what one process writes."""
    folder = tmp_path / "out"
    files = compared(forks, line(command, source(container), folder, "--sha256"), folder, sizes=(3,))

    assert {"mask.safetensors", "report.json"} < set(files)


@pytest.mark.slow
@pytest.mark.parametrize("container", FORMATS)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_same_bytes_of_every_strategy(
    forks: Together, source: Callable[[str], Path], tmp_path: Path, command: str, container: str
) -> None:
    """Two or four processes write what one process writes, with every strategy and in every kind of files."""
    folder = tmp_path / "out"
    sizes = (2,) if container in {"safetensors", "bin-shards"} else (4,)
    compared(forks, line(command, source(container), folder), folder, sizes)


SELDOM = [pytest.param(case, marks=pytest.mark.slow) for case in ("few", "nothing", "everything", "many")]


@pytest.mark.parametrize("case", ["ties", "large", "narrow", *SELDOM])
def test_unusual_checkpoints(forks: Together, tmp_path: Path, case: str) -> None:
    """Ties across processes, processes that own nothing, amounts of 0 and 1, a large tensor, and missed brackets."""
    generator = torch.Generator().manual_seed(1)
    tensors = {name: torch.randn(40, 30, generator=generator).bfloat16() for name in "abcdef"}
    amount, code = "0.5", PRUNE
    if case == "ties":
        tensors = {name: torch.full_like(t, 0.5) * (1 - 2 * (t < 0)) for name, t in tensors.items()}
    elif case == "few":
        tensors = {"a": tensors["a"]}
    elif case in {"nothing", "everything"}:
        amount = "0%" if case == "nothing" else "100%"
    elif case == "large":
        tensors |= {"c": torch.randn(800, 600, generator=generator).double(), "d": torch.randn(999, 1000)}
    elif case == "narrow":  # no sample brackets the rank
        code = "import prunecli.ranking.kth_smallest as k\nk.MARGIN = 0\nk.HELD_LIMIT = 1000\n" + PRUNE
        tensors = {name: torch.randn(90, 800, generator=generator) for name in "abc"}
    elif case == "many":
        tensors = {f"{i}.weight": torch.randn(12, 10, generator=generator) for i in range(40)}
    save_file(tensors, tmp_path / "in.safetensors")
    folder = tmp_path / "out"
    words = [
        "global",
        tmp_path / "in.safetensors",
        "-i",
        "*",
        "--amount",
        amount,
        "--mask-out",
        folder / "mask.safetensors",
    ]
    compared(forks, [*words, "-q", "-o", folder / "out.safetensors"], folder, sizes=(3,), code=code)


@pytest.mark.parametrize(
    "command",
    [
        "l1",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("percentile", "random", "l1-erk", "global-remaining")
        ),
    ],
)
def test_tensors_that_are_too_large_for_one_read(forks: Together, tmp_path: Path, command: str) -> None:
    """A tensor that is ranked by itself is ranked by its owner alone, also if it is read several times."""
    generator = torch.Generator().manual_seed(1)
    tensors = {f"{i}.weight": torch.randn(50 + i, 30, generator=generator) for i in range(5)}
    save_file(tensors, tmp_path / "in.safetensors")
    folder = tmp_path / "out"
    code = "import prunecli.engine.rank_planner as r\nr.SMALL_TENSOR = 100\n" + PRUNE

    compared(forks, line(command, tmp_path / "in.safetensors", folder, "-q"), folder, sizes=(2,), code=code)


def test_a_recipe(forks: Together, source: Callable[[str], Path], tmp_path: Path) -> None:
    """Rules that continue each other, with masks between the passes, do the same in several processes."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        '[[rule]]\ninclude = "*weight"\nstrategy = "structured"\namount = 0.25\n\n'
        '[[rule]]\nstrategy = "global"\namount = "60%"\n'
    )
    folder = tmp_path / "out"
    words = ["run", recipe, source("zip"), "-q", "-o", folder / "out.pth", "--mask-out", folder / "mask.safetensors"]
    compared(forks, words, folder, sizes=(3,))


def test_what_processes_exchange(forks: Together, tmp_path: Path) -> None:
    """Counts are sent and no weights: less than the sample, the bins and some bytes for each tensor."""
    save_file({f"{i}": torch.randn(500, 1000).bfloat16() for i in range(8)}, tmp_path / "in.safetensors")
    count = "import prunecli.distributed.gloo as gloo\nfinish = gloo.GlooGroup.finish\n"
    count += "def counted(group, code):\n    open(PATH + str(rank), 'w').write(str(group.exchanged))\n"
    count += "    return finish(group, code)\ngloo.GlooGroup.finish = counted\n"
    sent = {}
    for command in (["global", "--amount", "0.5"], ["l1", "--amount", "0.5"]):
        words = [
            command[0],
            tmp_path / "in.safetensors",
            "-i",
            "*",
            *command[1:],
            "-q",
            "-f",
            "-o",
            tmp_path / "out.safetensors",
        ]
        code = count.replace("PATH", repr(str(tmp_path / "sent")))
        assert forks.run(2, words, code + PRUNE).codes == [0, 0]
        sent[command[0]] = [int((tmp_path / f"sent{rank}").read_text()) for rank in (0, 1)]

    sample = 2 * 62_500 // 2
    assert max(sent["l1"]) < 10_000
    assert max(sent["global"]) < sample + 100_000
    assert min(sent["global"]) > sample // 2


@pytest.mark.slow
def test_peak_memory(tmp_path: Path) -> None:
    """A process takes at most 110 MB more than importing torch takes, less than its half of the file."""
    code = """
import sys
if len(sys.argv) > 1:
    from prunecli.cli.main import main
    assert main(sys.argv[1:]) == 0
else:
    import torch.distributed
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
"""
    save_file({f"{i}.weight": torch.randn(2000, 2000) for i in range(16)}, tmp_path / "in.safetensors")
    words = ["global", tmp_path / "in.safetensors", "--amount", "0.5", "-q", "-o", tmp_path / "out.safetensors"]
    variables = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "LOCAL_WORLD_SIZE": "2",
    }
    alone = run_python("-c", code)
    children = [
        start_python("-c", code, *map(str, words), env=environment(RANK=rank, **variables), stderr=subprocess.PIPE)
        for rank in "01"
    ]
    peaks = [int(child.communicate(timeout=100)[1].split()[-1]) for child in children]

    assert max(peaks) - int(alone.stderr) < 110 << 10
