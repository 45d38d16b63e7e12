"""Print a digest of every file that 200 runs of `prune` write, to compare two versions byte for byte.

    python scripts/digests.py CHECKPOINT... > before.txt
    PYTHONPATH=/path/to/other/checkout python scripts/digests.py CHECKPOINT... > after.txt
    diff before.txt after.txt

A line holds the exit code, the digest of the output, of the mask and of the report, and the command. Reports lose
what may differ between runs and versions: seconds, command line, version, and the words of warnings and notes.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from prunecli.cli.main import main as run_command_line

MISSING = "-" * 12
"""What stands for the digest of a file that was not written."""

VARYING = {"seconds", "kernels", "command", "version", "warnings", "facts", "path", "recipe", "rule", "reason", "note"}
"""The keys of a report that are not compared."""

PRUNING = (
    "threshold --thr 0.05",
    "threshold --thr 0",
    "threshold --thr-std 0.5",
    "percentile --q 60",
    "l1 --amount 50% --sha256",
    "l1 --count 5 --of remaining",
    "l1 --amount 0.3 --scope row",
    "l1 --amount 0.3 --allocate erk",
    "global --amount 0.5 --mask-out {mask}",
    "global --amount 0.5 --normalize lamp",
    "global --amount 0.5 --normalize rms --min-per-tensor 0.1 --max-per-tensor 0.9",
    "topk --pattern 2:4",
    "topk --keep 2 --group 7 --dim 0 --tail zero",
    "structured --amount 0.25 --with-bias",
    "structured --amount 0.25 --dim 1 --n 1",
    "block --shape 4x4 --amount 0.5",
    "random --amount 0.5 --seed 3",
    "random --amount 0.25 --seed 3 --structured",
    "run {recipe}",
)
"""The pruning commands with their options; with 10 checkpoints they make 190 runs, and those that only read 40 more."""

LOOKING = (
    "inspect {ckpt} --json",
    "inspect {ckpt} --thresholds --json",
    "scan {ckpt} --json",
    "check {ckpt} --min-sparsity 1% --json",
)
"""Commands that only read; their standard output is compared."""

RECIPE = """
[[rule]]
include = "*weight*"
min_dim = 2
strategy = "l1"
amount = 0.3

[[rule]]
include = "*weight*"
min_dim = 2
strategy = "topk"
pattern = "2:4"
"""


def main() -> int:
    """Run every command on every checkpoint named on the command line."""
    checkpoints = [Path(name).resolve() for name in sys.argv[1:]]
    if not checkpoints:
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
        for checkpoint in checkpoints:
            for command in PRUNING:
                print(pruned(command, checkpoint, folder), flush=True)
            for command in LOOKING:
                print(looked(command, checkpoint), flush=True)
    return 0


def pruned(command: str, checkpoint: Path, folder: Path) -> str:
    """Run a pruning command and return its line."""
    output, mask, report = folder / f"out{checkpoint.suffix}", folder / "mask.safetensors", folder / "report.json"
    for path in (output, mask, report):
        path.unlink(missing_ok=True)
    words = command.format(mask=mask, recipe=folder / "recipe.toml").split()
    code, _ = prune(*words, str(checkpoint), "-o", str(output), "--report", str(report), "-q")
    return f"{code} {digest(output)} {digest(mask)} {report_digest(report)} {command} {checkpoint.name}"


def looked(command: str, checkpoint: Path) -> str:
    """Run a command that only reads and return its line."""
    code, text = prune(*command.format(ckpt=checkpoint).split())
    return f"{code} {_json_digest(text)} {command} {checkpoint.name}"


def prune(*arguments: str) -> tuple[int, str]:
    """Run `prune` in this process, which is ten times as fast, and return its exit code and standard output."""
    output, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with redirect_stdout(output), redirect_stderr(errors):
        code = run_command_line(arguments)
    output.flush()
    return code, output.buffer.getvalue().decode()


def digest(path: Path) -> str:
    """Return the first 12 hex digits of the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.exists() else MISSING


def report_digest(path: Path) -> str:
    """Return the digest of what a report measured."""
    return _json_digest(path.read_text(encoding="utf-8")) if path.exists() else MISSING


def _json_digest(text: str) -> str:
    """Return the digest of the numbers in a JSON document."""
    numbers = json.dumps(_measured(json.loads(text)), sort_keys=True)
    return hashlib.sha256(numbers.encode()).hexdigest()[:12]


def _measured(value: object) -> object:
    """Return a report without the keys of VARYING, at every depth."""
    if isinstance(value, dict):
        return {key: _measured(item) for key, item in value.items() if key not in VARYING}
    return [_measured(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
