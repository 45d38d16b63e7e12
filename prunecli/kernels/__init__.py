"""Array operations on weights and magnitudes, with NumPy on the CPU and with torch on other devices."""

from __future__ import annotations
