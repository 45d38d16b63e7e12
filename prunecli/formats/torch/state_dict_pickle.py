"""The pickle of a dict of tensors, as torch.save writes it: the same opcodes, memo numbers and batches.

torch and Python's pickle module are not needed: a state_dict takes a dozen opcodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.dtypes import BITS, TORCH_DTYPES
from prunecli.formats.pickle.writing import get_opcode, integer_opcode, put_opcode, text_opcode
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

TYPED = {
    "F64": "DoubleStorage",
    "F32": "FloatStorage",
    "F16": "HalfStorage",
    "BF16": "BFloat16Storage",
    "I64": "LongStorage",
    "I32": "IntStorage",
    "I16": "ShortStorage",
    "I8": "CharStorage",
    "U8": "ByteStorage",
    "BOOL": "BoolStorage",
    "C64": "ComplexFloatStorage",
    "C128": "ComplexDoubleStorage",
}
"""The storage classes of torch by dtype; other dtypes have storages of bytes, and tensors that name the dtype."""

TORCH_NAMES = {name: torch_name for torch_name, name in TORCH_DTYPES.items()}
"""The name that torch gives each dtype that it can store."""

_BATCH = 1000  # entries of a dict that one SETITEMS sets


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of the dict: its storage, the storage's key and number of elements, and its place in it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    key: str
    length: int


def pickled_state_dict(tensors: Sequence[StoredTensor]) -> bytes:
    """Return the pickle of protocol 2 of a dict of these tensors, in their order."""
    pickler = _Pickler()
    pickler.dict_of(tensors)
    return bytes(pickler.out)


class _Pickler:
    """Writes opcodes, and numbers the values that may be fetched again."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self._memo: dict[Hashable, int] = {}
        self._count = 0

    def dict_of(self, tensors: Sequence[StoredTensor]) -> None:
        self.out += b"}"
        self._put(None)
        if len(tensors) == 1:
            self._entry(tensors[0])
            self.out += b"s"
        elif tensors:
            # As in Python: a last batch that is full is followed by an empty one.
            for start in range(0, len(tensors) + (len(tensors) % _BATCH == 0), _BATCH):
                self.out += b"("
                for tensor in tensors[start : start + _BATCH]:
                    self._entry(tensor)
                self.out += b"u"
        self.out += b"."

    def _put(self, value: Hashable | None) -> None:
        if value is not None:
            self._memo[value] = self._count
        self.out += put_opcode(self._count)
        self._count += 1

    def _got(self, value: Hashable) -> bool:
        index = self._memo.get(value)
        if index is not None:
            self.out += get_opcode(index)
        return index is not None

    def _text(self, text: str, identity: Hashable | None = None) -> None:
        if identity is not None and self._got(identity):
            return
        self.out += text_opcode(text)
        self._put(identity)

    def _global(self, module: str, name: str) -> None:
        if not self._got((module, name)):
            self.out += f"c{module}\n{name}\n".encode()
            self._put((module, name))

    def _integers(self, numbers: tuple[int, ...]) -> None:
        if not numbers:
            self.out += b")"
            return
        self.out += b"(" if len(numbers) > 3 else b""
        for number in numbers:
            self.out += integer_opcode(number)
        self.out += b"t" if len(numbers) > 3 else (b"\x85", b"\x86", b"\x87")[len(numbers) - 1]
        self._put(None)

    def _entry(self, tensor: StoredTensor) -> None:
        self._text(tensor.name)
        typed = tensor.dtype in TYPED
        self._global("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3")
        self.out += b"("
        self._storage(tensor)
        self.out += integer_opcode(tensor.offset)
        self._integers(tensor.shape)
        self._integers(tensor.strides)
        self.out += b"\x89"
        self._global("collections", "OrderedDict")
        self.out += b")R"
        self._put(None)
        if not typed:
            self._global("torch", TORCH_NAMES[tensor.dtype])
        self.out += b"t"
        self._put(None)
        self.out += b"R"
        self._put(None)

    def _storage(self, tensor: StoredTensor) -> None:
        self.out += b"("
        self._text("storage", "text storage")
        if tensor.dtype in TYPED:
            self._global("torch", TYPED[tensor.dtype])
        else:
            self._global("torch.storage", "UntypedStorage")
        self._text(tensor.key, f"key {tensor.key}")
        self._text("cpu", "text cpu")
        self.out += integer_opcode(tensor.length if tensor.dtype in TYPED else tensor.length * BITS[tensor.dtype] // 8)
        self.out += b"t"
        self._put(None)
        self.out += b"Q"
