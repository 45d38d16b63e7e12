"""The roles of tensors and entries in a training checkpoint, by name: optimizer, scheduler, gradients, EMA."""

from __future__ import annotations

import re

from prunecli.formats.pickle.state_dict import is_training_key
from prunecli.layouts.copies import is_ema, is_master

OTHER = "other"
"""The role of an entry that is neither of the model nor of its training by name."""

_GRADIENTS = re.compile(r"(^|[._])grad(s|ients?)?($|[._])", re.IGNORECASE)
_ROLES = (
    ("scheduler", re.compile(r"schedul", re.IGNORECASE)),
    ("optimizer", re.compile(r"optim|^opt$|^opt_|_opt$", re.IGNORECASE)),
)

_PARTS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of names that wrappers of torch add: torch.compile, FSDP, activation checkpointing."""

_PARALLEL = "module"
"""The part that DataParallel and DistributedDataParallel put before all names."""


def role_of(name: str) -> str:
    """Return the role of a tensor that is not of the model, or of an entry, by its dotted name."""
    if is_ema(name):
        return "EMA"
    if is_master(name):
        return "fp32 masters"
    if is_gradient(name):
        return "gradients"
    for role, pattern in _ROLES:
        if any(pattern.search(part) for part in name.split(".")[:2]):
            return role
    return "training state" if is_training_key(name.partition(".")[0]) else OTHER


def is_gradient(name: str) -> bool:
    """Return whether a tensor of this name is a gradient."""
    return _GRADIENTS.search(name) is not None


def unwrapped_names(names: list[str]) -> dict[str, str]:
    """Return the new name of each of `names` that has a part of a wrapper.

    `module.` is one only if all names begin with it.
    """
    new = {name: ".".join(part for part in name.split(".") if part not in _PARTS) for name in names}
    while new and all(name.startswith(f"{_PARALLEL}.") for name in new.values()):
        new = {name: text[len(_PARALLEL) + 1 :] for name, text in new.items()}
    return {name: text for name, text in new.items() if text != name and text}
