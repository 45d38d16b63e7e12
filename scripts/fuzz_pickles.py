"""Generate torch files and compare their listings with the tensors that torch's own loader sees.

    python scripts/fuzz_pickles.py --count 200000 --keep findings

Each disagreement is printed once per signature: its kind and the odd constructs of the file. The same seeds make the
same files.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from pickle_grammar import made
from pickle_judge import judged

BATCH = 5000
"""Files per process: torch may crash, and a crash ends only a batch."""

ADDRESS_SPACE = 8 << 30
"""Bytes of address space, so that a huge allocation fails at once."""


def main() -> int:
    """Judge the files of the seeds and print the findings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--start", type=int, default=0, help="The first seed.")
    parser.add_argument("--count", type=int, default=20000, help="The number of files.")
    parser.add_argument("--keep", type=Path, help="A folder for one file of each signature.")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    failed = 0
    for start in range(options.start, options.start + options.count, BATCH):
        stop = min(start + BATCH, options.start + options.count)
        failed += _in_child(range(start, stop), options.keep)
    print("no disagreement" if not failed else f"{failed} batches have findings")
    return 1 if failed else 0


def _in_child(seeds: range, keep: Path | None) -> bool:
    """Judge a batch in a child process; return whether there is a finding or a crash."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        found = 1
        try:
            found = _batch(seeds, keep)
        except Exception:  # noqa: BLE001 - the parent goes on
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(1 if found else 0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        print(f"a crash by signal {-status} in seeds {seeds.start} to {seeds.stop}")
    return status != 0


def _batch(seeds: range, keep: Path | None) -> int:
    before = time.process_time()
    accepted: Counter[str] = Counter()
    signatures: dict[tuple[str, frozenset[str]], int] = {}
    for seed in seeds:
        file = made(seed)
        verdict = judged(file.data)
        accepted["ours"] += verdict.ours
        accepted["both"] += verdict.torch and verdict.ours
        for finding in verdict.findings:
            if (finding, file.features) not in signatures:
                signatures[finding, file.features] = seed
                if keep:
                    (keep / f"{seed}.pth").write_bytes(file.data)
    for (finding, features), seed in sorted(signatures.items(), key=lambda item: len(item[0][1])):
        print(f"{seed}: {finding}; {', '.join(sorted(features))}")
    seconds = time.process_time() - before
    print(f"{len(seeds):,} files from {seeds.start:,}: {dict(accepted)}, {len(signatures)} findings, {seconds:.0f} s")
    sys.stdout.flush()
    return len(signatures)


if __name__ == "__main__":
    sys.exit(main())
