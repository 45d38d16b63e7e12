"""The names of globals, as loaders look them up: old modules are renamed, and torch joins module and name.

Nothing is imported but the table of old names.
"""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

_MODULES = {
    "_codecs",
    "builtins",
    "collections",
    "torch",
    "torch._tensor",
    "torch._utils",
    "torch.cuda",
    "torch.cuda.sparse",
    "torch.nn.parameter",
    "torch.serialization",
    "torch.sparse",
    "torch.storage",
}
"""The modules of all globals that torch.load allows with `weights_only=True`."""

_REBUILDING = {
    "_rebuild_device_tensor_from_cpu_tensor",
    "_rebuild_device_tensor_from_numpy",
    "_rebuild_from_type_v2",
    "_rebuild_meta_tensor_no_storage",
    "_rebuild_nested_tensor",
    "_rebuild_parameter",
    "_rebuild_parameter_with_state",
    "_rebuild_qtensor",
    "_rebuild_sparse_tensor",
    "_rebuild_tensor",
    "_rebuild_tensor_v2",
    "_rebuild_tensor_v3",
    "_rebuild_wrapper_subclass",
}
"""The functions of `torch._utils` and `torch._tensor` among them; others rebuild tensors of old versions."""

_BUILT_IN = {
    ("_codecs", "encode"),
    ("builtins", "bytearray"),
    ("builtins", "complex"),
    ("builtins", "set"),
    ("collections", "Counter"),
    ("collections", "OrderedDict"),
}


def renamed(module: str, name: str) -> tuple[str, str]:
    """Return the module and name under which loaders look a global up.

    Python's unpickler renames modules and names of Python 2. torch looks the joined name up in a table, in which the
    module ends at the last dot.
    """
    if (module, name) in NAME_MAPPING:
        return NAME_MAPPING[module, name]
    module = IMPORT_MAPPING.get(module, module)
    joined, _, last = f"{module}.{name}".rpartition(".")
    return (joined, last) if joined in _MODULES else (module, name)


def may_load_weights_only(module: str, name: str) -> bool:
    """Return whether torch.load may allow a global with `weights_only=True`."""
    if module in {"torch._utils", "torch._tensor"}:
        return name in _REBUILDING
    if module.startswith("torch"):
        return module in _MODULES
    return (module, name) in _BUILT_IN
