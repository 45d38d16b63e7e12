"""The `config.json` that the Hugging Face Hub keeps next to a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.errors import CheckpointError
from prunecli.formats.strict_json import parse_json_object

if TYPE_CHECKING:
    from pathlib import Path

LARGEST = 1 << 20
"""The most bytes of a `config.json` that are read; real ones have a few thousand."""


def model_type_in(folder: Path) -> str:
    """Return the architecture that `config.json` in `folder` names, such as "gpt2"; "" if it names none.

    The file is a hint only, so one that cannot be read or is no JSON is passed over.
    """
    path = folder / "config.json"
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return ""
        text = path.read_bytes()
    except OSError:
        return ""
    try:
        config = dict(parse_json_object(text, "config.json"))
    except CheckpointError:
        return ""
    model_type = config.get("model_type")
    return model_type if isinstance(model_type, str) else ""
