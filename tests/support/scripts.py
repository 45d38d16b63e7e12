"""The programs of scripts/, imported as modules."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

from support.paths import SCRIPTS

if TYPE_CHECKING:
    from types import ModuleType


def load_script(name: str) -> ModuleType:
    """Import scripts/NAME.py, which is in no package, under the name NAME, and the scripts that it imports."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there, and scripts import each other
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return module
