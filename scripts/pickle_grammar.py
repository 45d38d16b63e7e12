"""Generate torch checkpoints from a grammar of pickles: mostly plain ones, each with a few odd constructs.

Every construct is one that `torch.load(weights_only=True)` may accept. The same seed makes the same file. `features`
names the odd constructs of a file, so that a finding names its possible causes.
"""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from pickle_pieces import call, global_, number, text, tuple_of

if TYPE_CHECKING:
    from collections.abc import Callable

STORAGES = {
    "Float": 4,
    "Double": 8,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Byte": 1,
    "Bool": 1,
    "ComplexFloat": 8,
    "QInt8": 1,
    "Untyped": 1,
}
"""The kinds of storages and the bytes of an element."""

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool", "uint16", "float8_e5m2")

UTILS = b"ctorch._utils\n"


@dataclass(frozen=True)
class Made:
    """A generated file: its bytes and the odd constructs in it."""

    data: bytes
    features: frozenset[str]


def made(seed: int) -> Made:
    """Return the file of a seed."""
    grammar = _Grammar(seed)
    pickled = b"\x80\x02" + grammar.root() + b"."
    data = grammar.legacy_file(pickled) if grammar.legacy else grammar.zip_file(pickled)
    return Made(data, frozenset(grammar.features))


class _Grammar:
    """The state of one file: its storages, the values in its memo, and the odd constructs so far."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.features: set[str] = set()
        self.legacy = self.random.random() < 0.3
        self.rate = self.random.choice([0.01, 0.03, 0.1])
        self.storages: dict[str, tuple[str, int]] = {}  # the first claim of each key
        self.memo: list[tuple[str, int]] = []
        self.used = 0

    def odd(self, feature: str, weight: float = 1) -> bool:
        """Return whether to use an odd construct, and note it."""
        if self.random.random() >= self.rate * weight:
            return False
        self.features.add(feature)
        return True

    def one_of(self, *makers: Callable[[], bytes]) -> bytes:
        """Return what one of the makers makes; the others are not called, so they use no storage and no memo."""
        return self.random.choice(makers)()

    def put(self, kind: str, opcodes: bytes) -> bytes:
        """Return `opcodes` with the value stored in the memo."""
        if self.random.random() < 0.5 and self.used < 250:
            self.memo.append((kind, self.used))
            opcodes += b"q" + bytes([self.used])
            self.used += 1
        return opcodes

    def again(self, kind: str) -> bytes | None:
        """Return the opcode that fetches an earlier value of a kind, or None."""
        known = [index for k, index in self.memo if k == kind]
        return b"h" + bytes([self.random.choice(known)]) if known else None

    # --- containers

    def root(self) -> bytes:
        if self.random.random() < 0.3:
            state = self.mapping(1)
            key = self.random.choice(["state_dict", "model", "params"])
            return b"}(" + text("epoch") + number(3) + text(key) + state + text("extra") + self.value(1) + b"u"
        return self.mapping(0)

    def mapping(self, depth: int) -> bytes:
        opcodes = self.put("dict", self.empty_mapping(depth))
        for _ in range(self.random.randrange(1, 4)):
            pairs = [self.key() + self.value(depth + 1) for _ in range(self.random.randrange(1, 4))]
            opcodes += b"(" + b"".join(pairs) + b"u" if self.random.random() < 0.7 else b"s".join(pairs) + b"s"
        if self.odd("dict state"):
            state = self.attributes(depth)
            opcodes += (state if self.random.random() < 0.5 else tuple_of(b"N", state)) + b"b"
        elif self.random.random() < 0.2:
            opcodes += b"}" + text("_metadata") + b"}sb" if b"OrderedDict" in opcodes[:30] else b""
        return opcodes

    def attributes(self, depth: int) -> bytes:
        return b"}" + text(self.random.choice(["extra", "items", "_x"])) + self.value(depth + 1) + b"s"

    def empty_mapping(self, depth: int) -> bytes:
        ordered = global_("collections", "OrderedDict")
        if self.odd("mapped module"):
            ordered = global_("UserDict", "OrderedDict")
        if self.odd("OrderedDict of a dict"):
            inner = self.again("dict") or self.mapping(depth + 1)
            return call(ordered, inner)
        if self.odd("OrderedDict of pairs"):
            pairs = [b"](" + self.key() + self.value(depth + 1) + b"e" for _ in range(2)]
            return call(ordered, b"](" + b"".join(pairs) + b"e")
        if self.odd("OrderedDict by NEWOBJ"):
            args = [self.mapping(depth + 1)] if self.random.random() < 0.7 else []
            return ordered + tuple_of(*args) + b"\x81"
        if self.odd("Counter of a dict"):
            inner = self.again("dict") or self.mapping(depth + 1)
            return global_("collections", "Counter") + tuple_of(inner) + self.random.choice([b"R", b"\x81"])
        if self.odd("Counter of a list"):
            return call(global_("collections", "Counter"), self.sequence(depth + 1))
        return b"}" if self.random.random() < 0.6 else call(ordered)

    def key(self) -> bytes:
        if self.odd("odd key", 4):
            values = [0, 1, 0.0, 1.0, -0.0, True, False, None, -1, 1 << 61, 1.5, (1 << 61) + 0.0, float("nan"), 1 << 80]
            return pickle.dumps(self.random.choice(values), 2)[2:-1]
        if self.odd("key made by a call"):
            encoded = call(global_("_codecs", "encode"), text("a"), text("latin1"))
            kinds = [encoded, global_("torch", "float32"), call(global_("builtins", "complex"), number(1))]
            return self.random.choice([*kinds, call(global_("torch", "Size"), b"](K\x01e"), tuple_of(text("a"))])
        if self.odd("tuple as key"):
            return tuple_of(*(self.random.choice([number(1), text("a"), b"\x88"]) for _ in range(2)))
        if self.odd("tensor as key"):
            return self.again("tensor") or self.tensor(2)
        names = ["weight", "bias", "a.weight", "b", "layer", "state_dict", "0", "1", "None", "True"]
        return text(self.random.choice(names))

    def sequence(self, depth: int) -> bytes:
        items = [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        if self.random.random() < 0.5:
            return self.put("tuple", tuple_of(*items))
        start = b"]"
        if self.odd("copied list"):
            start = call(global_("builtins", "set"), self.again("list") or b"]")
        return self.put("list", start) + b"(" + b"".join(items) + b"e"

    def value(self, depth: int) -> bytes:
        choice = self.random.random()
        if choice < 0.12 and (old := self.again(self.random.choice(["tensor", "dict", "list", "tuple"]))):
            return old
        if choice < 0.65 or depth > 3:
            return self.tensor(depth)
        if choice < 0.8:
            return self.mapping(depth)
        if choice < 0.9:
            return self.sequence(depth)
        if self.odd("set"):
            return call(global_("builtins", "set"), b"](" + b"".join(self.tensor(3) for _ in range(2)) + b"e")
        return self.random.choice([number(7), b"N", b"\x88", text("word"), pickle.dumps(2.5, 2)[2:-1]])

    # --- tensors

    def tensor(self, depth: int) -> bytes:
        opcodes = self.put("tensor", self.any_tensor(depth))
        if self.odd("tensor state"):
            opcodes += self.tensor_state(depth) + b"b"
        return opcodes

    def tensor_state(self, depth: int) -> bytes:
        return self.one_of(
            lambda: tuple_of(*self.arguments("_rebuild_tensor", None, None)),
            lambda: tuple_of(self.storage()[0]),
            lambda: tuple_of(self.tensor(depth + 1), b"N", b"N", b"\x89", b"\x89"),
            lambda: tuple_of(b"\x89", b"\x89", b"}"),
            lambda: self.state(depth),
        )

    def any_tensor(self, depth: int) -> bytes:
        choice = self.random.random()
        if depth > 4 or choice < 0.65:
            return self.strided()
        if choice >= 0.8 and choice < 0.88:
            return self.from_type(depth)
        if choice >= 0.92:
            return self.other_tensor(depth)
        inner = self.again("tensor") or self.tensor(depth + 1)
        if choice < 0.75:
            return call(UTILS + b"_rebuild_parameter\n", inner, b"\x89", self.hooks(depth))
        if choice < 0.8:
            return call(UTILS + b"_rebuild_parameter_with_state\n", inner, b"\x89", b"}", self.state(depth))
        dtype, device = global_("torch", self.random.choice(DTYPES[:3])), text("cpu")
        if self.odd("meta device"):
            device = text("meta")
        return call(UTILS + b"_rebuild_device_tensor_from_cpu_tensor\n", inner, dtype, device, b"\x89")

    def other_tensor(self, depth: int) -> bytes:
        kinds: dict[str, Callable[[], bytes]] = {
            "Parameter itself": lambda: self.parameter_class(depth),
            "tensor without storage": self.unstored,
            "bare storage": lambda: self.storage()[0],
            "meta tensor": self.meta_tensor,
            "sparse": self.sparse,
            "quantized": self.quantized,
        }
        kind = self.random.choice(list(kinds))
        return kinds[kind]() if self.odd(kind, 5) else self.strided()

    def parameter_class(self, depth: int) -> bytes:
        inner = self.again("tensor") or self.tensor(depth + 1)
        return global_("torch.nn.parameter", "Parameter") + tuple_of(inner) + self.random.choice([b"R", b"\x81"])

    def unstored(self) -> bytes:
        args = tuple_of(*self.random.choice([(), (b"](K\1K\2e",)]))
        name = self.random.choice(["Tensor", "FloatTensor"])
        return global_("torch", name) + args + self.random.choice([b"R", b"\x81"])

    def meta_tensor(self) -> bytes:
        dims = tuple_of(number(2)), tuple_of(number(1))
        return call(UTILS + b"_rebuild_meta_tensor_no_storage\n", global_("torch", "float32"), *dims, b"\x89")

    def sparse(self) -> bytes:
        layout = call(global_("torch.serialization", "_get_layout"), text("torch.sparse_coo"))
        parts = self.strided("Long", (1, 1)), self.strided("Float", (1,))
        data = tuple_of(*parts, call(global_("torch", "Size"), b"](K\x05e"))
        return call(UTILS + b"_rebuild_sparse_tensor\n", layout, data)

    def quantized(self) -> bytes:
        storage, count = self.storage("QInt8")
        scale = tuple_of(global_("torch", "per_tensor_affine"), b"G" + struct.pack(">d", 0.5), number(0))
        dims = number(0), tuple_of(number(count)), tuple_of(number(1))
        return call(UTILS + b"_rebuild_qtensor\n", storage, *dims, scale, b"\x89", b"}")

    def from_type(self, depth: int) -> bytes:
        name = self.random.choice(["_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_parameter"])
        if name == "_rebuild_parameter":
            args = tuple_of(self.again("tensor") or self.tensor(depth + 1), b"\x89", b"}")
        else:
            args = tuple_of(*self.arguments(name, None, None))
        if self.odd("list of arguments"):
            args = b"](" + args[1:-1] + b"e"
        func = UTILS + name.encode() + b"\n"
        if self.odd("odd function of a type", 2):
            func, args = global_("torch", self.random.choice(["Tensor", "FloatTensor"])), tuple_of(b"](K\1e")
        types = [("torch", "Tensor"), ("torch.nn.parameter", "Parameter")]
        if self.odd("odd type"):
            types = [("torch", "FloatTensor"), ("torch", "LongTensor")]
        kind = global_(*self.random.choice(types))
        return call(b"ctorch._tensor\n_rebuild_from_type_v2\n", func, kind, args, self.state(depth))

    def state(self, depth: int) -> bytes:
        if not self.odd("state with values", 3):
            return self.random.choice([b"}", b"}" + text("tag") + number(1) + b"s", tuple_of(b"N", b"}")])
        names = ["tag", "data", "grad", "real", "requires_grad", "names", "_backward_hooks", "__class__"]
        value = self.one_of(lambda: self.tensor(depth + 2), lambda: b"\x88", lambda: b"N")
        state = b"}" + text(self.random.choice(names)) + value + b"s"
        return self.random.choice([state, tuple_of(state, b"N"), tuple_of(b"N", state)])

    def hooks(self, depth: int) -> bytes:
        if self.odd("hooks with values"):
            return self.one_of(
                lambda: b"N",
                lambda: self.value(depth + 2),
                lambda: b"}" + text("h") + self.tensor(depth + 2) + b"s",
            )
        return self.random.choice([b"}", call(global_("collections", "OrderedDict"))])

    def strided(self, kind: str | None = None, shape: tuple[int, ...] | None = None) -> bytes:
        name = self.random.choice(["_rebuild_tensor_v2"] * 6 + ["_rebuild_tensor", "_rebuild_tensor_v3"])
        function = UTILS + name.encode() + b"\n"
        if self.odd("split global"):
            function = global_("torch", f"_utils.{name}")
        return call(function, *self.arguments(name, kind, shape))

    def arguments(self, name: str, kind: str | None, shape: tuple[int, ...] | None) -> list[bytes]:
        storage, count = self.storage(kind)
        shapes = [(count,), (count // 2, 2), (1, count), (0, 3)] + [()] * (count > 0)
        shape = self.random.choice(shapes) if shape is None else shape
        dtype = self.random.choice(DTYPES)
        if name == "_rebuild_tensor_v3":
            dtype, shape = ("uint8", (0,)) if count == 0 or self.random.random() < 0.2 else ("bool", (1,))
        strides: list[int] = []
        step = 1
        for n in reversed(shape):
            strides.insert(0, step)
            step *= n
        if self.odd("odd strides", 2):
            strides = [self.random.choice([0, 1, 2, 3, 1 << 40]) for _ in shape]
        sizes = [self.dimension(n) for n in shape]
        start = self.dimension(1 if prod(shape) < count and self.random.random() < 0.3 else 0)
        dims = [self.dims(sizes), self.dims([self.dimension(n) for n in strides])]
        if self.odd("no strides"):
            dims[1] = b")"
        args = [storage, start, *dims]
        if name == "_rebuild_tensor_v2":
            args += [b"\x89", self.hooks(3)]
        if name == "_rebuild_tensor_v3":
            args += [b"\x89", b"}", global_("torch", dtype)]
        if name != "_rebuild_tensor" and self.odd("tensor metadata"):
            args.append(
                b"}" + text(self.random.choice(["conj", "neg", "x"])) + self.random.choice([b"\x88", b"K\1"]) + b"s"
            )
        return args

    def dims(self, numbers: list[bytes]) -> bytes:
        if self.odd("dimensions of another type"):
            items = b"](" + b"".join(numbers) + b"e"
            return self.random.choice([items, call(global_("torch", "Size"), items)])
        return tuple_of(*numbers)

    def dimension(self, value: int) -> bytes:
        if not self.odd("odd number", 0.3):
            return number(value)
        long = b"\x8a\x09" + value.to_bytes(9, "little")
        if self.random.random() < 0.2:
            return self.strided("Long", ())
        return self.random.choice([b"\x88", b"\x89", long, number(-1), number(1 << 62)])

    # --- storages

    def storage(self, kind: str | None = None) -> tuple[bytes, int]:
        """Return the opcodes of a storage, and its number of elements."""
        key = self.random.choice(["0", "1", "2", "3", "4", "5", "6", "7"])
        if self.odd("odd storage key"):
            key = self.random.choice(["", "a", "A", "x/y", "..", "\u00e9"])
        if kind is not None:
            key = f"{kind}{self.random.randrange(3)}"
        usual = self.random.choice(["Float", "Float", "Float", "Double", "Half", "BFloat16", "Long", "Bool"])
        wanted = kind or usual
        if self.odd("odd storage type"):
            wanted = self.random.choice(list(STORAGES))
        first, count = self.storages.setdefault(key, (wanted, self.random.choice([0, 1, 2, 4, 6, 8])))
        claimed = wanted if self.odd("another dtype of a storage") else first
        size = count * STORAGES[first] // STORAGES[claimed]
        module = "torch.storage" if claimed == "Untyped" else "torch"
        location = self.random.choice(["meta", "CPU", "cpu:0"]) if self.odd("odd location") else "cpu"
        numel = b"\x88" if size == 1 and self.odd("odd storage size") else number(size)
        key_opcodes = number(int(key)) if key.isdigit() and self.odd("number as storage key") else text(key)
        items = [text("storage"), global_(module, f"{claimed}Storage"), key_opcodes, text(location), numel]
        if self.legacy:
            items.append(self.view(size))
        return self.put("storage", tuple_of(*items) + b"Q"), size

    def view(self, size: int) -> bytes:
        if not self.odd("view of a storage", 2):
            return b"N"
        first = self.random.randrange(size + 1)
        return tuple_of(text(self.random.choice(["v", "w", "0"])), number(first), number(size - first))

    def content(self, key: str) -> bytes:
        kind, count = self.storages[key]
        values = self.random.randbytes(count * STORAGES[kind])
        return bytes(v & 1 for v in values) if kind in {"Bool", "Long"} else values

    # --- files

    def zip_file(self, pickled: bytes) -> bytes:
        order = b"big" if self.odd("big-endian") else b"little"
        records = [("m/data.pkl", pickled), ("m/version", b"3\n")]
        if not self.odd("no byte order"):
            records.append(("m/byteorder", order))
        records += [(f"m/data/{key}", self.content(key)) for key in self.storages]
        if self.odd("record in another case", 2):
            name, data = self.random.choice(records)
            other = b"big" if "byteorder" in name else self.random.randbytes(len(data))
            records.insert(self.random.randrange(len(records)), (name.upper().replace("M/", "m/"), other))
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as target:
            for name, data in records:
                target.writestr(zipfile.ZipInfo(name), data)
        return buffer.getvalue()

    def legacy_file(self, pickled: bytes) -> bytes:
        head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        keys = list(self.storages)
        self.random.shuffle(keys)
        if self.odd("list of storages"):
            keys = self.random.choice([keys[1:], keys + keys[:1], [*keys, "v"]])
        storages = [
            struct.pack("<q", self.storages[key][1]) + self.content(key) if key in self.storages else bytes(8)
            for key in keys
        ]
        return head + pickled + pickle.dumps(keys, 2) + b"".join(storages)
