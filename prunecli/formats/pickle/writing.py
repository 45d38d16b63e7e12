"""The opcodes with which Python and torch pickle texts, integers, and references to values, in protocol 2."""

from __future__ import annotations


def text_opcode(text: str) -> bytes:
    """Return the opcode that pushes a text, of which any part may be half a surrogate pair."""
    encoded = text.encode("utf-8", "surrogatepass")
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def put_opcode(index: int) -> bytes:
    """Return the opcode that stores the top of the stack in the memo."""
    return b"q" + bytes([index]) if index < 256 else b"r" + index.to_bytes(4, "little")


def get_opcode(index: int) -> bytes:
    """Return the opcode that pushes an entry of the memo."""
    return b"h" + bytes([index]) if index < 256 else b"j" + index.to_bytes(4, "little")


def integer_opcode(value: int) -> bytes:
    """Return the shortest opcode that pushes an integer."""
    if 0 <= value < 1 << 8:
        return b"K" + bytes([value])
    if 0 <= value < 1 << 16:
        return b"M" + value.to_bytes(2, "little")
    if -1 << 31 <= value < 1 << 31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(data) < 256:
        return b"\x8a" + bytes([len(data)]) + data
    return b"\x8b" + len(data).to_bytes(4, "little") + data
