"""The page on notebooks: its Python runs in a fresh interpreter, with TensorBoard's own writer and reader."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support import DEMO, ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")

READ = """
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator("runs/pruned")
events.Reload()
for row in report.rows:
    if row.selected:
        assert abs(events.Scalars(f"sparsity/{row.name}")[0].value - row.sparsity_after) < 1e-6
print("read", len(events.Tags()["scalars"]))
"""


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path) -> None:
    """Each block runs after the ones before it, and TensorBoard reads what was written."""
    pytest.importorskip("tensorboard")
    pytest.importorskip("pandas")
    shutil.copytree(DEMO, tmp_path / "demo", ignore=shutil.ignore_patterns("out"))
    blocks = re.findall(r"(?<=^```python\n).*?(?=^```$)", PAGE, re.MULTILINE | re.DOTALL)

    run = subprocess.run(
        [sys.executable, "-c", "\n".join([*blocks, READ])], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stderr
    assert "fc*.weight" in run.stdout
    assert run.stdout.endswith("read 9\n")
