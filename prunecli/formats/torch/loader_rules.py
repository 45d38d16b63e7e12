"""The rules that make torch's loader see exactly the tensors that are listed.

They hold for pickles that `torch.load(weights_only=True)` may accept: in other pickles any class may do anything. A
rule does not follow what the loader does with an odd construct. It refuses constructs that no writer of checkpoints
needs: a tensor that is changed after it is made, and a tensor in a place that is not listed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from prunecli.errors import CheckpointError
from prunecli.formats.pickle.global_names import may_load_weights_only
from prunecli.formats.pickle.leaves import WRAPPERS, is_leaf, is_parameter
from prunecli.formats.pickle.places import Empty
from prunecli.formats.pickle.reader import Call, Global
from prunecli.text.escape import quoted

if TYPE_CHECKING:
    from prunecli.formats.pickle.reader import Pickle

SETTABLE = frozenset(
    {
        *("data", "real", "imag", "grad", "_grad", "grad_dtype", "_grad_fn", "grad_fn", "names", "name", "volatile"),
        *("requires_grad", "_backward_hooks", "_post_accumulate_grad_hooks", "__class__", "__dict__"),
        *("H", "T", "mH", "mT"),
    }
)
"""The attributes of a tensor that change the tensor when they are set: a state must not have them."""

_CONTAINER_METHODS = frozenset(dir(dict))
_MOST_NESTED = 8


class _Form(NamedTuple):
    """The arguments of a function that rebuilds tensors: their number, and the positions of hooks and of a state."""

    least: int
    most: int
    hooks: int | None = None
    state: int | None = None


_FORMS = {
    "_rebuild_tensor": _Form(4, 4),
    "_rebuild_tensor_v2": _Form(6, 7, hooks=5),
    "_rebuild_tensor_v3": _Form(7, 8, hooks=5),
    "_rebuild_parameter": _Form(3, 3, hooks=2),
    "_rebuild_parameter_with_state": _Form(4, 4, hooks=2, state=3),
    "_rebuild_from_type_v2": _Form(4, 4, state=3),
    "_rebuild_device_tensor_from_cpu_tensor": _Form(4, 4),
    "_rebuild_device_tensor_from_numpy": _Form(4, 4),
    "_rebuild_qtensor": _Form(7, 7, hooks=6),
    "_rebuild_sparse_tensor": _Form(2, 2),
    "_rebuild_nested_tensor": _Form(4, 4),
    "_rebuild_meta_tensor_no_storage": _Form(4, 4),
    "_rebuild_wrapper_subclass": _Form(8, 8),
}


def check_rules(pickle: Pickle, label: str) -> None:
    """Raise CheckpointError, naming `label`, if torch's loader may see other tensors than those that are listed."""
    if not all(may_load_weights_only(value.module, value.name) for value in pickle.globals):
        return
    try:
        _check(pickle)
    except ValueError as problem:
        raise CheckpointError(f"{label} cannot be read safely: {problem}") from problem


def _check(pickle: Pickle) -> None:
    for doubt in pickle.doubts:
        raise ValueError(doubt)
    empty = Empty()
    for state in pickle.attributes:
        _check_attributes(state, _CONTAINER_METHODS)
        empty.check(state, "an attribute of a dict")
    for call in pickle.calls:
        _check_call(call, empty)


def _check_call(call: Call, empty: Empty) -> None:
    if not isinstance(call.func, Global):
        return  # torch calls nothing but globals
    if is_parameter(call):
        if not call.args or not is_leaf(call.args[0]):
            raise ValueError("a Parameter is made without a tensor")
        empty.check(call.args[1:], "an argument of a Parameter")
        _check_parameter_state(call.state, empty)
    elif call.func.module.startswith("torch") and call.func.name in _FORMS:
        if call.state is not None or call.items or call.entries:
            raise ValueError("a tensor is changed after it is made")
        _check_rebuilt(call.func.name, call.args, empty)
    elif call.func.name.endswith(("Tensor", "Storage")):
        raise ValueError(f"{quoted(f'{call.func.module}.{call.func.name}')} makes a tensor without a stored one")
    else:
        empty.check([call.args, call.state], f"an argument of {quoted(call.func.name)}")


def _check_parameter_state(state: object, empty: Empty) -> None:
    # torch before 0.4 wrote (requires_grad, volatile, hooks). Longer states give the parameter other values.
    if state is not None and (not isinstance(state, tuple) or len(state) != 3):
        raise ValueError("a tensor is changed after it is made")
    empty.check(state, "the state of a tensor")


def _check_rebuilt(name: str, args: tuple[object, ...], empty: Empty, depth: int = 0) -> None:
    form = _FORMS[name]
    if not form.least <= len(args) <= form.most or depth > _MOST_NESTED:
        raise ValueError(f"{name} is called with other arguments than torch writes")
    if form.hooks is not None:
        empty.check(args[form.hooks], "a hook of a tensor")
    if form.state is not None:
        _check_state(args[form.state], empty)
    if name in WRAPPERS and not is_leaf(args[0]):
        raise ValueError(f"{name} is called without a tensor")
    if name == "_rebuild_from_type_v2":
        match args:
            case (Global(module="torch._utils" | "torch._tensor", name=inner), Global(), tuple(inner_args), _) if (
                inner in _FORMS
            ):
                _check_rebuilt(inner, inner_args, empty, depth + 1)
            case _:
                raise ValueError(f"{name} is called with other arguments than torch writes")


def _check_state(state: object, empty: Empty) -> None:
    """Check the state of a tensor: attributes, or a pair of attributes and slots."""
    for part in state if isinstance(state, tuple) else (state,):
        _check_attributes(part, SETTABLE)
    empty.check(state, "the state of a tensor")


def _check_attributes(state: object, forbidden: frozenset[str]) -> None:
    for part in state if isinstance(state, tuple) else (state,):
        if not (part is None or isinstance(part, dict)) or (part and not forbidden.isdisjoint(part)):
            raise ValueError("an object is given a state that changes what it contains")
