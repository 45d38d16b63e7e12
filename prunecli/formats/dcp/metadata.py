"""Read the `.metadata` of a distributed checkpoint: its tensors, their chunks, and where each chunk is stored.

The pickle is followed symbolically and builds nothing. Its chunks and places go into columns of integers as soon as
they are complete, and only the values that the pickle fetches again are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from prunecli.checkpoint import MAX_RANK, MAX_SIZE
from prunecli.dtypes import TORCH_DTYPES
from prunecli.errors import CheckpointError
from prunecli.formats.dcp.known import (
    CHUNK,
    CHUNK_MEMOS,
    FETCHES,
    INDEX,
    PLACE_MEMOS,
    fetched_number,
    is_part_of_known,
    known,
    number,
)
from prunecli.formats.dcp.rows import ChunkRows, PlaceRows, Rows
from prunecli.formats.dcp.window import AHEAD, Window, fetched_numbers
from prunecli.formats.pickle.machine import MAX_OPCODES, opcodes_of
from prunecli.formats.pickle.opcodes import STOP, opcode_error
from prunecli.formats.pickle.reader import Call, Global, ValueMachine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import IO, BinaryIO

    from prunecli.formats.dcp.known import Known


@dataclass(frozen=True, slots=True)
class TensorChunks:
    """A tensor of a `.metadata`: its dtype (safetensors' name, or what torch calls it), its shape and its chunks."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Rows, ...]


@dataclass(frozen=True, slots=True)
class Metadata:
    """The contents of one `.metadata`.

    Attributes:
        tensors: The tensors by name.
        objects: The names of the items that are no tensors.
        paths: The path of each name in the nested dict that was saved, where it is known.
        chunks: The chunks of all tensors.
        places: The places of all chunks and objects.
    """

    tensors: Mapping[str, TensorChunks]
    objects: tuple[str, ...]
    paths: Mapping[str, tuple[object, ...]]
    chunks: ChunkRows
    places: PlaceRows


def read_metadata(file: BinaryIO, label: str) -> Metadata:
    """Read a `.metadata`; CheckpointError, naming `label`, where it is damaged or is not one."""
    machine = _Machine(fetched_numbers(file))
    try:
        root = machine.run(cast("IO[bytes]", Window(file)))
        return _contents(root, machine)
    except (TypeError, ValueError) as problem:
        raise CheckpointError(f"{label} is not the metadata of a distributed checkpoint: {problem}") from problem


class _Machine(ValueMachine):
    """A machine of symbolic values that moves chunks and places into columns."""

    __slots__ = ("chunks", "known", "moved", "numbers", "owner", "places", "put_count", "waiting")
    bytes_per_unit = 2  # most values are gone when they are in a column

    def __init__(self, numbers: set[int]) -> None:
        super().__init__()
        self.numbers, self.waiting = numbers, sorted(numbers, reverse=True)
        self.chunks, self.places = ChunkRows(), PlaceRows()
        self.put_count = 0
        self.moved = 0  # places that are in the columns and in the dict
        self.owner: dict[object, object] | None = None  # the dict that has the places
        self.known: dict[int, Known] = {}  # by number of dimensions

    def _follow(self, stream: IO[bytes]) -> None:
        window, opcodes, code = cast("Window", stream), self.opcodes, b""
        self.tell = window.tell
        while code != STOP:
            code = window.read(1)
            if code in FETCHES and self.known and self._follow_known(window):
                continue
            if code not in opcodes:
                raise ValueError(opcode_error(code))
            argument, step = opcodes[code]
            step(self, argument(stream) if argument else None)
            self.opcode_count += 1
            if self.opcode_count > MAX_OPCODES:
                raise ValueError(f"there are more than {MAX_OPCODES:,} opcodes of unusual chunks")

    # --- many chunks and places at once

    def _follow_known(self, window: Window) -> bool:
        """Take all chunks and places that look as usual, from the opcode on that was just read; return if there are."""
        window.at -= 1
        begin = window.tell()
        while any(self._take(window, one) for one in self.known.values()):
            pass
        taken = window.tell() > begin
        window.at += not taken
        return taken

    def _take(self, window: Window, one: Known) -> bool:
        """Take a chunk or a place, if one is at the position of `window`."""
        if len(window.data) - window.at < AHEAD:
            window.look_ahead()
        return self._take_chunk(window, one) or (one.place is not None and self._take_place(window, one))

    def _is_fetched(self, count: int) -> bool:
        """Return whether one of the next `count` values that go into the memo may be fetched."""
        waiting = self.waiting
        while waiting and waiting[-1] < self.put_count:
            waiting.pop()
        return bool(waiting) and waiting[-1] < self.put_count + count

    def _take_chunk(self, window: Window, one: Known) -> bool:
        match = one.chunk.match(window.data, window.at)
        if match is None or self._is_fetched(CHUNK_MEMOS):
            return False
        numbers = list(map(number, match.groups()))
        half = len(numbers) // 2
        self._push_rows(numbers[:half], numbers[half:])
        self.put_count += CHUNK_MEMOS
        window.at = match.end()
        return True

    def _push_rows(self, offsets: Sequence[int], sizes: Sequence[int]) -> None:
        top = self.stack[-1] if self.stack else None
        start = len(self.chunks.numbers)
        rows = self.chunks.add(offsets, sizes)
        if isinstance(top, Rows) and top.joins(start, rows.rank):
            top.end = rows.end
        else:
            self.stack.append(rows)

    def _take_place(self, window: Window, one: Known) -> bool:
        match = one.place and one.place.match(window.data, window.at)
        if not match:
            return False
        (name_length, name, name_number, *offsets, path_length, path, path_number, start, length) = match.groups()
        memos = PLACE_MEMOS + (name is not None) + (path is not None)
        if self._is_fetched(memos):
            return False
        names = self._text(name_length, name, name_number), self._text(path_length, path, path_number)
        places = self.places
        places.add(
            places.name_number(names[0]),
            list(map(number, offsets)),
            places.path_number(names[1]),
            number(start),
            number(length),
        )
        top = self.stack[-1] if self.stack else None
        if not isinstance(top, _Places):
            top = _Places()
            self.stack += [top, top]  # in the place of a key and of a value
        top.count += 1
        self.put_count += memos
        window.at = match.end()
        return True

    def _text(self, length: bytes | None, text: bytes | None, fetched: bytes) -> str:
        if text is None or length is None:
            value = self.memo[fetched_number(fetched)]
        elif len(text) != length[0]:
            raise ValueError("a text has another length than it says")
        else:
            value = text.decode("ascii")
        if not isinstance(value, str):
            raise TypeError("a name is not text")
        return value

    # --- opcode by opcode

    def put(self, index: int | None) -> None:
        index = self.put_count if index is None else index
        self.put_count += 1
        if index not in self.numbers:
            return
        self.spend(1)
        self.memo[index] = value = self.stack[-1]
        if is_part_of_known(value):
            self.known.clear()

    def dup(self, _: object) -> None:
        raise ValueError("the opcode DUP is not allowed")

    pop = drop_to_mark = dup

    def append(self, _: object) -> None:
        item = self.stack.pop()
        self._extend([item])

    def extend(self, _: object) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: Sequence[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError("items are added to no list")
        for item in items:
            target.append(self._rows(item) if _is_made(item, CHUNK) else item)

    def _rows(self, chunk: object) -> Rows:
        state = _state(chunk)
        offsets, sizes = _size(state.get("offsets")), _size(state.get("sizes"))
        if len(offsets) != len(sizes):
            raise ValueError("the offsets and the sizes of a chunk differ in number")
        rows = self.chunks.add(offsets, sizes)
        self._learn(rows.rank)
        return rows

    def setitem(self, _: object) -> None:
        value = self.stack.pop()
        self._set([self.stack.pop(), value])

    def setitems(self, _: object) -> None:
        self._set(self.pop_mark())

    def _set(self, items: Sequence[object]) -> None:
        if len(items) % 2:
            raise ValueError("a key has no value")
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, _Places) and key is value:
                self._own(target)
                key.count, self.moved = 0, self.moved + key.count
            elif _is_made(key, INDEX):
                self._own(target)
                self._add_place(key, value)
            elif isinstance(target, dict) and not isinstance(value, _Places):
                target[self.key(key)] = value
            else:
                raise TypeError("keys are set on no dict")

    def _own(self, target: object) -> None:
        if not isinstance(target, dict) or (self.owner is not None and self.owner is not target):
            raise ValueError("places are outside the list of places")
        self.owner = target

    def _add_place(self, key: object, value: object) -> None:
        index, info, places = _state(key), _state(value), self.places
        name, path, start, length = (
            index.get("fqn"), *(info.get(part) for part in ("relative_path", "offset", "length"))
        )  # fmt: skip
        if not (isinstance(name, str) and isinstance(path, str) and type(start) is type(length) is int):
            raise ValueError("a chunk has no place")
        offset = index.get("offset")
        if extensions := info.get("transform_descriptors"):
            known = isinstance(extensions, list) and all(isinstance(one, str) for one in extensions)
            places.extensions[len(places)] = ", ".join(extensions) if known else "of an unknown kind"
        offsets = None if offset is None else _size(offset)
        self.moved += 1
        places.add(places.name_number(name), offsets, places.path_number(path), start, length)
        self._learn(0 if offsets is None else len(offsets))

    def _learn(self, rank: int) -> None:
        """Compile the expressions for chunks of `rank` dimensions when all that they name is in the memo."""
        old = self.known.get(rank)
        if (old is None or old.place is None) and (new := known(self.memo, rank)):
            self.known[rank] = new

    def _call(self, func: object, args: tuple[object, ...]) -> Call:
        self.count_object()
        self.spend(2)
        return Call(func, args)


_Machine.opcodes = opcodes_of(_Machine)


class _Places:
    """Stands on the stack for places that are in the columns, `count` of them, until they are set in a dict."""

    def __init__(self) -> None:
        self.count = 0


def _is_made(value: object, cls: Global) -> bool:
    return isinstance(value, Call) and value.func == cls


def _state(value: object) -> dict[object, Any]:
    if not isinstance(value, Call) or not isinstance(value.state, dict):
        raise TypeError("a chunk, or the place of one, has no attributes")
    return value.state


def _size(value: object) -> tuple[int, ...]:
    """Return the numbers of a torch.Size, which the machine describes as a tuple."""
    if not isinstance(value, tuple) or len(value) > MAX_RANK:
        raise ValueError("a size is not a list of numbers")
    if not all(type(n) is int and 0 <= n <= MAX_SIZE for n in value):
        raise ValueError("a size is negative, too large or not a number")
    return value


# --- the whole


def _contents(root: object, machine: _Machine) -> Metadata:
    state = _state(root)
    listed, places = state.get("state_dict_metadata"), state.get("storage_data")
    if not isinstance(listed, dict) or not isinstance(places, dict):
        raise TypeError("it lists no tensors with their places")
    if (machine.owner is not None and machine.owner is not places) or machine.moved != len(machine.places):
        raise ValueError("places are outside the list of places")
    tensors: dict[str, TensorChunks] = {}
    objects: list[str] = []
    for name, item in listed.items():
        if not isinstance(name, str) or not isinstance(item, Call) or not isinstance(item.func, Global):
            raise TypeError("a tensor has no name or no description")
        if item.func.name == "BytesStorageMetadata":
            objects.append(name)
        else:
            tensors[name] = _tensor(name, item)
    return Metadata(tensors, tuple(objects), _paths(state.get("planner_data")), machine.chunks, machine.places)


def _tensor(name: str, item: Call) -> TensorChunks:
    state = _state(item)
    chunks, shape = state.get("chunks"), _size(state.get("size"))
    if not isinstance(chunks, list) or not all(isinstance(rows, Rows) and rows.rank == len(shape) for rows in chunks):
        raise ValueError(f"the tensor {name!r} has chunks of other dimensions than its own")
    return TensorChunks(_dtype(state.get("properties")), shape, tuple(chunks))


def _dtype(properties: object) -> str:
    match properties:
        case Call(state=(Global(module="torch", name=name), *_)):
            return TORCH_DTYPES.get(name, name)
        case _:
            return "an unknown dtype"


def _paths(planned: object) -> dict[str, tuple[object, ...]]:
    """Return the paths of names; a planner of another library may store anything else."""
    if not isinstance(planned, dict):
        return {}
    return {
        name: path
        for name, path in planned.items()
        if isinstance(name, str) and isinstance(path, tuple) and all(isinstance(part, (str, int)) for part in path)
    }
