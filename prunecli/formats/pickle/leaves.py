"""The leaves of a pickled object: values that torch, NumPy or Paddle rebuild a tensor, array or storage from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.formats.pickle.reader import Call, Global, Persistent

if TYPE_CHECKING:
    from collections.abc import Iterator

WRAPPERS = {"_rebuild_parameter", "_rebuild_parameter_with_state", "_rebuild_device_tensor_from_cpu_tensor"}
"""The functions whose first argument is a call that rebuilds a tensor."""
_SUBCLASSES = {"_rebuild_from_type", "_rebuild_from_type_v2"}
MODULES = {"torch._utils", "torch._tensor", "torch.tensor"}  # the last two are those of old versions

STRIDED = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}

_PARAMETER = Global("torch.nn.parameter", "Parameter")  # called by torch 0.4 and older

_UNPRUNABLE = {
    # Their parts look like tensors: a zero among the indices of a sparse tensor would move a value.
    "_rebuild_sparse_tensor": "sparse tensor",
    "_rebuild_sparse_csr_tensor": "sparse tensor",
    "_rebuild_qtensor": "quantized tensor",
    "_rebuild_nested_tensor": "nested tensor",
    "_rebuild_meta_tensor_no_storage": "meta tensor",
    "_rebuild_wrapper_subclass": "tensor of a wrapper subclass",
}

_DISTRIBUTED = {"DTensor", "ShardedTensor"}  # wrapper subclasses whose parts are on several machines

_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
}


def is_leaf(value: object) -> bool:
    """Return whether `value` is a storage, or a tensor or array to rebuild; the search does not look inside it."""
    if isinstance(value, Persistent) or is_array(value):
        return True
    if isinstance(value, tuple):
        return _is_named_array(value)
    if not isinstance(value, Call) or not isinstance(value.func, Global):
        return False
    if value.func == _PARAMETER:
        return bool(value.args) and is_leaf(value.args[0])
    return value.func.name.startswith("_rebuild_") and value.func.module.partition(".")[0] == "torch"


def is_parameter(value: object) -> bool:
    """Return whether `value` calls the class of parameters itself, as torch 0.4 and older wrote them."""
    return isinstance(value, Call) and value.func == _PARAMETER


def is_array(value: object) -> bool:
    """Return whether `value` is a call that rebuilds a NumPy array."""
    if not isinstance(value, Call) or not isinstance(value.func, Global):
        return False
    return (value.func.module, value.func.name) in _ARRAYS


def _is_named_array(value: tuple[object, ...]) -> bool:
    # Paddle pickles a parameter as a tuple of its name and its array.
    return len(value) == 2 and isinstance(value[0], str) and is_array(value[1])


def unwrapped(value: object) -> object:
    """Return the call that rebuilds the tensor inside a Parameter, a tensor subclass or a pair of Paddle.

    Any other value is returned unchanged.
    """
    if isinstance(value, tuple):
        return value[1]
    *_, inner = wrappers(value)
    return inner


def wrappers(value: object) -> Iterator[object]:
    """Yield the calls around a tensor, from the outside to the inside, then the call that rebuilds the tensor."""
    for _ in range(8):  # a Parameter of a subclass has two wrappers; a hostile file may have any number
        yield value
        match value:
            case Call(func=Global(module=module, name=name), args=(inner, *_)) if (
                module in MODULES and name in WRAPPERS
            ) or is_parameter(value):
                value = inner
            case Call(func=Global(module=module, name=name), args=(func, _, tuple(args), *_)) if (
                module in MODULES and name in _SUBCLASSES
            ):
                value = Call(func, args)
            case _:
                return
    yield value


def state_of(value: object) -> list[tuple[object, object]]:
    """Return the values, with names, that a leaf carries besides its tensor: attributes, and the flags of a view."""
    states: list[tuple[object, object]] = []
    for call in wrappers(value) if isinstance(value, Call) else ():
        match call:
            case Call(func=Global(name=name), args=(_, _, _, state)) if name == "_rebuild_parameter_with_state":
                states.append(("state", state))
            case Call(func=Global(name=name), args=(_, _, _, state)) if name in _SUBCLASSES:
                states.append(("state", state))
            case Call(func=Global(name=name), args=(_, _, _, _, _, _, *rest)) if name in STRIDED:
                states += [("flags", flags) for flags in rest if isinstance(flags, dict) and flags]
            case _:
                continue
    return states


def other_kind(value: object) -> str:
    """Return what an unwrapped leaf is, in a few words, if it is not a strided tensor."""
    match value:
        case Persistent():
            return "bare storage"
        case Call(func=Global(module=module, name=name)) if (module, name) in _ARRAYS:
            return "NumPy array"
        case Call(func=Global(name="_rebuild_wrapper_subclass"), args=(Global(name=name), *_)) if name in _DISTRIBUTED:
            return name
        case Call(func=Global(module=module, name=name)):
            return _UNPRUNABLE.get(name, f"tensor rebuilt by {module}.{name}")
        case _:
            return "tensor of an unknown kind"
