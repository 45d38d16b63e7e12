"""Names of files in a folder that come from elsewhere: an index, a graph, a server."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath


def leaves_its_folder(name: str) -> bool:
    """Return whether a name leaves its folder on any system, or is not the canonical path of its file."""
    windows = PureWindowsPath(name)
    if windows.drive or windows.root or ".." in windows.parts or "\\" in name:
        return True
    return not name.isprintable() or PurePosixPath(name).as_posix() != name or name == "."
