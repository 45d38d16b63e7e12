"""Write a graph of terms as a pickle: the opposite of `graph.trace`.

Each term becomes the opcodes that it was read from, so the pickle builds the same objects. Nothing is executed.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from prunecli.formats.pickle.graph import ADD, SET, Term
from prunecli.formats.pickle.writing import get_opcode, integer_opcode, put_opcode, text_opcode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_MARKED = (b"t", b"\x91")  # TUPLE and FROZENSET take the items above a MARK
_EMPTY_SET = b"\x8f"
_BATCH = 1000


class Edits:
    """Changes of a graph: new parts of terms, and effects that are left out or changed. By the ids of terms."""

    def __init__(
        self,
        parts: Mapping[int, tuple[object, ...]] | None = None,
        effects: Mapping[int, Sequence[tuple[Any, ...]]] | None = None,
    ) -> None:
        """Change nothing but these."""
        self._parts = {} if parts is None else parts  # the caller may add to them
        self._effects = {} if effects is None else effects

    def parts(self, term: Term) -> tuple[object, ...]:
        """Return the values that a term is made of."""
        return self._parts.get(id(term), term.parts)

    def effects(self, term: Term) -> Sequence[tuple[Any, ...]]:
        """Return the effects of a term."""
        return self._effects.get(id(term), term.effects)


def terms_below(root: object, edits: Edits) -> Iterator[Term]:
    """Yield each term of a graph once, in the order in which it is built."""
    seen: set[int] = set()
    stack = [root]
    while stack:
        term = stack.pop()
        if not isinstance(term, Term) or id(term) in seen:
            continue
        seen.add(id(term))
        yield term
        effects = [value for effect in edits.effects(term) for value in effect[1:]]
        stack.extend(reversed((*edits.parts(term), *effects)))


def emit(root: object, protocol: int, edits: Edits) -> bytes:
    """Return the pickle of a graph with `edits`; ValueError if a value contains itself before it is made."""
    return _Emitter(root, edits).written(root, protocol)


class _Emitter:
    def __init__(self, root: object, edits: Edits) -> None:
        self.edits = edits
        self.out = bytearray()
        self.memo: dict[object, int] = {}
        self.open: set[int] = set()
        self.uses: Counter[object] = Counter([_identity(root)])
        for term in terms_below(root, edits):
            values = (*edits.parts(term), *(v for effect in edits.effects(term) for v in effect[1:]))
            self.uses.update(_identity(value) for value in values if isinstance(value, (Term, str)))

    def written(self, root: object, protocol: int) -> bytes:
        self.out += b"\x80" + bytes([protocol])
        # Bytes to write, values to build, and terms whose parts are complete, the next one at the end.
        stack: list[tuple[str, Any]] = [("value", root)]
        while stack:
            kind, item = stack.pop()
            if kind == "bytes":
                self.out += item
            elif kind == "made":
                self._made(item)
            elif isinstance(item, Term):
                self._term(item, stack)
            else:
                self._plain(item)
        return bytes(self.out + b".")

    def _term(self, term: Term, stack: list[tuple[str, Any]]) -> None:
        if self._got(id(term)):
            return
        if id(term) in self.open:
            raise ValueError("a value contains itself")
        self.open.add(id(term))
        steps: list[tuple[str, Any]] = [("bytes", b"(")] if term.opcode in _MARKED else []
        steps += [("value", part) for part in self.edits.parts(term)]
        steps += [("bytes", term.opcode), ("made", term), *self._effects(term)]
        stack.extend(reversed(steps))

    def _made(self, term: Term) -> None:
        self.open.discard(id(term))
        if self.uses[id(term)] > 1:
            self._put(id(term))

    def _effects(self, term: Term) -> Iterator[tuple[str, Any]]:
        effects = self.edits.effects(term)
        index = 0
        while index < len(effects):
            kind, *values = effects[index]
            stop = index + 1
            if kind == SET:
                while stop < len(effects) and effects[stop][0] == SET and stop - index < _BATCH:
                    stop += 1
                values = [value for effect in effects[index:stop] for value in effect[1:]]
                yield from _marked(values, b"u")
            elif kind == ADD:
                yield from _marked(values, b"\x90" if term.opcode == _EMPTY_SET else b"e")
            else:
                yield "value", values[0]
                yield "bytes", b"b"
            index = stop

    def _plain(self, value: object) -> None:
        if isinstance(value, str):
            if self._got(value):
                return
            self.out += text_opcode(value)
            if self.uses[value] > 1:
                self._put(value)
        elif value is None or isinstance(value, bool):
            self.out += {None: b"N", True: b"\x88", False: b"\x89"}[value]
        elif isinstance(value, int):
            self.out += integer_opcode(value)
        else:
            raise TypeError(f"{type(value).__name__} is no plain value")

    def _put(self, value: object) -> None:
        index = self.memo[value] = len(self.memo)
        self.out += put_opcode(index)

    def _got(self, value: object) -> bool:
        index = self.memo.get(value)
        if index is not None:
            self.out += get_opcode(index)
        return index is not None


def _identity(value: object) -> object:
    """Return what a value is known by: equal texts are one value."""
    return value if isinstance(value, str) else id(value)


def _marked(values: Sequence[object], opcode: bytes) -> Iterator[tuple[str, Any]]:
    yield "bytes", b"("
    yield from (("value", value) for value in values)
    yield "bytes", opcode
