"""The same command line in one process and in several, and everything that it writes."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from support.together import Ended, Together

TIMES = {"seconds"}


def written(folder: Path) -> dict[str, Any]:
    """Return the bytes of all files in `folder` by their names, hidden ones too; JSON reports without their times."""
    result: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        data: Any = path.read_bytes()
        if path.name.endswith("report.json"):
            data = {key: value for key, value in json.loads(data).items() if key not in TIMES}
        result[path.relative_to(folder).as_posix()] = data
    return result


def compared(
    forks: Together,
    words: Sequence[object],
    folder: Path,
    sizes: Sequence[int] = (2, 3, 4),
    **options: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Return what one process writes into `folder`, after asserting that as many processes as `sizes` write the same.

    `options` are those of `Together.run`.
    """
    expected: dict[str, Any] = {}
    for size in (1, *sizes):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        ended = forks.run(size, words, **options)
        assert ended.codes == [0] * size, ended.stderr
        assert [set(text.splitlines()) for text in ended.stdout[1:]] == [set()] * (size - 1)
        found = written(folder)
        expected = expected or found
        assert list(found) == list(expected)
        assert [name for name in found if found[name] != expected[name]] == [], (size, words)
    return expected


def failed(ended: Ended, folder: Path) -> tuple[list[str], list[str]]:
    """Return the lines that the processes printed, and the names of what is in `folder`."""
    return [line for text in ended.stderr for line in text.splitlines()], sorted(written(folder))
