"""The stack machine of pickle: it follows the opcodes, and its subclasses decide which values they describe.

No opcode imports, calls or unpickles anything. The numbers of opcodes, objects and memo entries are bounded, so a
hostile pickle exhausts neither time nor memory.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any, ClassVar, TypeAlias

from prunecli.formats.pickle.opcodes import ARGUMENTS, STOP, opcode_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from prunecli.formats.pickle.opcodes import ArgumentReader

MAX_OPCODES = 10_000_000
"""The most opcodes in a pickle: enough for about 250,000 tensors."""

MAX_OBJECTS = 2_000_000
"""The most objects, dicts, lists and persistent ids in a pickle; a tensor takes three to five."""

MAX_MEMO = 4_000_000
"""The most entries of the memo; a tensor takes ten. Together the three limits bound the memory."""

FREE_UNITS, BYTES_PER_UNIT = 400_000, 6
"""The values that a pickle may have, in units of about 70 bytes of memory: so many, and one more for so many bytes.

A pickle of one-byte opcodes could otherwise take a hundred times its size. A tensor takes 9 to 14 units, and 65 bytes
or more.
"""

MAX_PROTOCOL = 5

Opcodes: TypeAlias = "dict[bytes, tuple[ArgumentReader, Callable[[Any, Any], object]]]"
"""Maps each allowed opcode to the reader of its argument and the method of a machine that takes the argument."""


class StackMachine:
    """Follows the opcodes of one pickle: a method per opcode, which receives the opcode's argument or None.

    Subclasses define the methods of METHODS that are not defined here. Items of the stack are opaque to this class.
    """

    __slots__ = ("marks", "memo", "object_count", "opcode_count", "stack", "stored", "tell", "units")

    opcodes: ClassVar[Opcodes]
    bytes_per_unit: ClassVar[int] = BYTES_PER_UNIT

    def __init__(self) -> None:
        """Start with an empty stack and an empty memo."""
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []  # the stacks below each open MARK
        self.stored: list[Any] = []  # the entries of the memo with the numbers from 0 on, which take 8 bytes each
        self.memo: dict[int, Any] = {}  # its other entries
        self.opcode_count = 0
        self.object_count = 0
        self.units = 0
        self.tell: Callable[[], int] = int  # the bytes that were read from the stream

    def run(self, stream: IO[bytes]) -> Any:  # noqa: ANN401 - an item of the stack
        """Follow the pickle at the position of `stream` and return the top of the stack at its end.

        Leaves the stream after the STOP. Raises ValueError, with the reason, where the pickle is damaged or truncated,
        exceeds a limit, or has an opcode that no checkpoint needs.
        """
        try:
            self._follow(stream)
            return self.stack.pop()
        except IndexError:
            raise ValueError("a value is missing from the stack") from None
        except KeyError as error:
            raise ValueError(f"memo {error.args[0]!r} was never stored") from None
        except TypeError as error:
            raise ValueError(str(error)) from error

    def _follow(self, stream: IO[bytes]) -> None:
        find, read, code = self.opcodes.get, stream.read, b""
        self.tell = getattr(stream, "taken", stream.tell)
        while code != STOP:
            code = read(1)
            if (found := find(code)) is None:
                raise ValueError(opcode_error(code))
            argument, step = found
            step(self, argument(stream) if argument else None)
            self.opcode_count += 1
            if self.opcode_count > MAX_OPCODES:
                raise ValueError(f"there are more than {MAX_OPCODES:,} opcodes")

    def count_object(self) -> None:
        """Count an object; ValueError if there are too many."""
        self.object_count += 1
        if self.object_count > MAX_OBJECTS:
            raise ValueError(f"there are more than {MAX_OBJECTS:,} objects")
        self.spend(1)

    def spend(self, units: int) -> None:
        """Count the memory of values; ValueError if they are too many for the bytes that make them."""
        self.units += units
        if self.units > FREE_UNITS and self.units - FREE_UNITS > self.tell() // self.bytes_per_unit:
            raise ValueError("there are too many values for its length")

    def push(self, value: object) -> None:
        """Push a value that needs no further description."""
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        """Remove the last MARK and the items above it; return the items."""
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def short_tuple(self, count: int) -> None:
        """Replace the last `count` items by a tuple of them."""
        raise NotImplementedError

    # --- opcodes

    def proto(self, version: int) -> None:
        """Check the version of the pickle's protocol."""
        # Protocols 0 and 1 need the text opcodes, which no writer of checkpoints has used.
        if not 2 <= version <= MAX_PROTOCOL:
            raise ValueError(f"the protocol is {version}, not 2 to {MAX_PROTOCOL}")

    def frame(self, length: int) -> None:
        """Ignore the start of a frame: frames only help a reader to fetch ahead."""

    def stop(self, _: object) -> None:
        """Do nothing: the loop ends."""

    def none(self, _: object) -> None:
        """Push None."""
        self.push(None)

    def newtrue(self, _: object) -> None:
        """Push True."""
        self.push(True)

    def newfalse(self, _: object) -> None:
        """Push False."""
        self.push(False)

    def mark(self, _: object) -> None:
        """Begin a new stack above a MARK."""
        self.marks.append(self.stack)
        self.stack = []

    def pop(self, _: object) -> None:
        """Remove the top item, or the MARK if no item is above it."""
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def drop_to_mark(self, _: object) -> None:
        """Remove the items above the last MARK and the MARK."""
        self.pop_mark()

    def tuple1(self, _: object) -> None:
        """Make a tuple of the top item."""
        self.short_tuple(1)

    def tuple2(self, _: object) -> None:
        """Make a tuple of the last two items."""
        self.short_tuple(2)

    def tuple3(self, _: object) -> None:
        """Make a tuple of the last three items."""
        self.short_tuple(3)

    def put(self, index: int | None) -> None:
        """Store the top item in the memo, at the next free index if `index` is None."""
        stored = self.stored
        count = len(stored) + len(self.memo)
        if count >= MAX_MEMO:
            raise ValueError(f"there are more than {MAX_MEMO:,} memo entries")
        index = count if index is None else index
        if index == len(stored):
            stored.append(self.stack[-1])
            if self.memo:
                self.memo.pop(index, None)
        elif index < len(stored):
            stored[index] = self.stack[-1]
        else:
            self.spend(2)
            self.memo[index] = self.stack[-1]

    @property
    def memo_count(self) -> int:
        """The number of entries of the memo."""
        return len(self.stored) + len(self.memo)

    def fetched(self, index: int) -> Any:  # noqa: ANN401 - an item of the stack
        """Return an entry of the memo; KeyError if there is none."""
        return self.stored[index] if index < len(self.stored) else self.memo[index]


_NAMED_ALIKE = (
    *("PROTO", "FRAME", "STOP", "NONE", "NEWTRUE", "NEWFALSE", "BINFLOAT", "MARK", "POP", "DUP", "BUILD", "BINPERSID"),
    *("EMPTY_TUPLE", "EMPTY_DICT", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "SETITEM", "SETITEMS"),
    *("STACK_GLOBAL", "NEWOBJ_EX"),
)
"""The opcodes whose method has the opcode's name in lower case."""

METHODS: dict[str, str] = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4"), "push"),
    **dict.fromkeys(("BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE"), "push"),
    **dict.fromkeys(("BINBYTES", "BINBYTES8", "BYTEARRAY8", "SHORT_BINBYTES"), "byte_string"),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), "python2_text"),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), "put"),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), "get"),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), "empty_list"),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), "extend"),
    "REDUCE": "call",
    "NEWOBJ": "new",
    "POP_MARK": "drop_to_mark",
    "TUPLE": "tuple_to_mark",
    "FROZENSET": "frozenset_to_mark",
    "GLOBAL": "named_global",
    **{name: name.lower() for name in _NAMED_ALIKE},
}
"""The method of a machine for each allowed opcode. INST, OBJ, EXT*, PERSID and out-of-band buffers are rejected."""


def opcodes_of(machine: type[StackMachine]) -> Opcodes:
    """Return the opcodes with the methods of `machine` that handle them."""
    return {
        code: (argument, getattr(machine, METHODS[name]))
        for code, (name, argument) in ARGUMENTS.items()
        if name in METHODS
    }
