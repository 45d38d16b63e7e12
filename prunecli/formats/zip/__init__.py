"""zip."""

from __future__ import annotations
