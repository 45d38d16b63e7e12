"""The compiled kernels: their C sources, and the library that is built from them, if a compiler was there."""

from __future__ import annotations
