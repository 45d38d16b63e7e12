"""Opcodes of pickles as bytes, for generators of pickles."""

from __future__ import annotations

import pickle
import struct


def number(value: int) -> bytes:
    """Return the opcode that pushes a number."""
    return pickle.dumps(value, 2)[2:-1]


def text(value: str) -> bytes:
    """Return the opcode that pushes a text."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def tuple_of(*items: bytes) -> bytes:
    """Return the opcodes of a tuple."""
    return b"(" + b"".join(items) + b"t"


def global_(module: str, name: str) -> bytes:
    """Return the opcode that pushes a global."""
    return f"c{module}\n{name}\n".encode()


def call(function: bytes, *args: bytes) -> bytes:
    """Return the opcodes of a call."""
    return function + tuple_of(*args) + b"R"
