"""Bytes: open files, windows, threads with buffers, temporary files, atomic outputs, tensors in memory."""

from __future__ import annotations
