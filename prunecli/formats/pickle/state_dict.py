"""Find the state_dicts in a pickled object: those to take, and the others that hold weights.

The search is iterative, enters each container once, and reads no file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import combinations, islice
from typing import TYPE_CHECKING

from prunecli.errors import Argument, CheckpointError
from prunecli.formats.pickle.leaves import is_leaf
from prunecli.formats.pickle.tree import (
    BYTES_PER_CONTAINER,
    FREE_CONTAINERS,
    NODES,
    Leaf,
    check_count,
    children,
    entries,
    leaves,
    registries,
    text,
)
from prunecli.layouts.copies import is_ema
from prunecli.layouts.reparametrized import BARE
from prunecli.text.closest import closest
from prunecli.text.escape import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prunecli.formats.pickle.tree import Path

STATE_DICT_KEYS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "module",
    "network",
    "params",
    "params_ema",
    "weights",
)
"""The keys of a nested checkpoint under which its state_dict is looked for, in this order."""

_NOT_WEIGHTS = re.compile(
    r"optim|schedul|scaler|rng|master_(params|weights)|^fp32_|^(opt|amp|callbacks|loops|masks?)$|^opt_|_(opt|masks?)$",
    re.IGNORECASE,
)
_MOST_COPIES = 16  # more parts than this are layers or blocks
_MOST_LEVELS = 8  # levels of containers above a state_dict


@dataclass(frozen=True, slots=True, eq=False)
class StateDict:
    """A container of weights in the pickle, and its dotted key ("" for the top).

    `above` are the ids of the containers on the way to it: a dict may contain itself.
    """

    key: str
    node: object
    above: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class FoundLeaves:
    """The leaves inside and outside the state_dicts that are taken.

    `keys` are the dotted keys of the state_dicts; none for the top of the pickled object. If there are several, the
    name of a leaf inside starts with the key. Names of the leaves outside start at the top. `parts` are the keys of the
    state_dicts that the top consists of, where it is taken as one. With `is_module` a state_dict is that of a pickled
    module.
    """

    keys: tuple[str, ...]
    parts: tuple[str, ...]
    inside: tuple[Leaf, ...]
    outside: tuple[Leaf, ...]
    is_module: bool = False


def find_leaves(
    root: object,
    label: str,
    patterns: Sequence[str],
    shape_of: Callable[[object], tuple[int, ...] | None],
    length: int = 0,
) -> FoundLeaves:
    """Return the leaves of `root`, inside and outside its state_dicts.

    `patterns` are the dotted paths of state_dicts or globs over them; without any, the state_dict is looked for.
    `shape_of` returns the shape of a leaf that is a plain tensor. A leaf without a container around it is named BARE.
    `length` is that of the pickle, in bytes: more of them may have more containers.
    Raises CheckpointError, naming `label`, if there is no tensor at a key, or if containers are nested or shared beyond
    the limits.
    """
    if is_leaf(root) and not patterns:
        return FoundLeaves((), (), (Leaf(BARE, root),), ())
    most = FREE_CONTAINERS + length // BYTES_PER_CONTAINER
    weights = _Search(root, lambda leaf: _is_matrix(shape_of(leaf)), shape_of, most)
    try:
        taken = _named(weights, label, patterns) if patterns else weights.chosen() or _anything(weights).chosen()
        return _split(weights, taken or [StateDict("", root)])
    except ValueError as problem:
        raise CheckpointError(f"{label} cannot be listed: {problem}") from problem


def _is_matrix(shape: tuple[int, ...] | None) -> bool:
    """Return whether a tensor of this shape may be a weight, in contrast to a vector such as a mean."""
    return shape is not None and sum(n > 1 for n in shape) > 1


def _anything(search: _Search) -> _Search:
    """Return the same search for containers of any leaves: some state_dicts have vectors only."""
    return _Search(search.root, lambda _: True, search.shape_of, search.most)


class _Search:
    """Looks for the state_dicts of one pickled object. A container counts if it holds a leaf that `accepts` takes."""

    def __init__(
        self,
        root: object,
        accepts: Callable[[object], bool],
        shape_of: Callable[[object], tuple[int, ...] | None],
        most: int,
    ) -> None:
        self.root, self.accepts, self.shape_of, self.most = root, accepts, shape_of, most
        self._entered: set[int] = set()  # the ids of containers
        self._holding: set[int] = set()  # those of them that hold such a leaf

    def chosen(self) -> list[StateDict]:
        """Return the state_dicts that are taken if the user names none; nothing if there is no such leaf."""
        top = StateDict("", self.root)
        main, copies = self._parts(top)
        by_key = {part.key: part for part in (*main, *copies)}
        if usual := next((by_key[key] for key in STATE_DICT_KEYS if key in by_key), None):
            return self._inner(usual)
        if self._holds_directly(top):
            return [top]
        if not main:
            return self._inner(copies[0]) if copies else []
        if self._are_copies(main):
            return [inner for part in main for inner in self._inner(part)]
        inner = self._inner(main[0])
        return inner if len(main) == 1 and inner[0] is not main[0] else [top]

    def candidates(self) -> list[StateDict]:
        """Return every state_dict below the top, moving averages included, without those of optimizers."""
        pending = [(part, 0) for part in reversed(self._all_parts(StateDict("", self.root)))]
        found: list[StateDict] = []
        while pending:
            part, level = pending.pop()
            if level < _MOST_LEVELS and self._within(part):
                pending += [(inner, level + 1) for inner in reversed(self._all_parts(part))]
            else:
                found.append(part)
        return found

    def parts_of_top(self) -> tuple[str, ...]:
        """Return the keys of the state_dicts that the top consists of; nothing if it is itself a state_dict."""
        top = StateDict("", self.root)
        main, _ = self._parts(top)
        alone = self._holds_directly(top) or len(main) > _MOST_COPIES
        return () if alone or not all(self._signature(part.node) for part in main) else tuple(part.key for part in main)

    def holds(self, node: object) -> bool:
        """Return whether there is an accepted leaf below `node`."""
        if id(node) in self._entered:
            return id(node) in self._holding
        stack = [(node, children(node))]
        self._entered.add(id(node))
        while stack:
            for _, child in stack[-1][1]:
                if self.accepts(child) if is_leaf(child) else id(child) in self._holding:
                    self._holding.update(id(above) for above, _ in stack)
                    return True
                if not is_leaf(child) and id(child) not in self._entered:
                    self._entered.add(id(child))
                    stack.append((child, children(child)))
                    break
            else:
                stack.pop()
            check_count(len(self._entered), self.most)
        return False

    def _inner(self, part: StateDict, level: int = 0) -> list[StateDict]:
        """Return the state_dicts to take inside `part`, or `part` itself if it is one."""
        within = self._within(part) if level < _MOST_LEVELS else []
        return [inner for child in within for inner in self._inner(child, level + 1)] or [part]

    def _within(self, part: StateDict) -> list[StateDict]:
        """Return the parts to take in place of `part`; none if it is itself a state_dict."""
        if registries(part.node) or self._holds_directly(part):
            return []
        main, _ = self._parts(part)
        copies = self._are_copies(main)
        by_key = {child.key[len(part.key) + 1 :]: child for child in main}
        usual = next((by_key[key] for key in STATE_DICT_KEYS if key in by_key), None)
        if usual is not None and (copies or len(main) == 1):
            return [usual]
        return main if copies else []

    def _holds_directly(self, part: StateDict) -> bool:
        return any(is_leaf(child) and self.accepts(child) for _, child in children(part.node))

    def _parts(self, part: StateDict) -> tuple[list[StateDict], list[StateDict]]:
        """Return the containers of weights in a dict or list, and separately the moving averages."""
        parts = self._all_parts(part)
        copies = [child for child in parts if is_ema(child.key[len(part.key) :])]
        return [child for child in parts if not is_ema(child.key[len(part.key) :])], copies

    def _all_parts(self, part: StateDict) -> list[StateDict]:
        """Return the containers of weights in a dict or list, in the order of the file."""
        prefix = f"{part.key}." if part.key else ""
        above = part.above | {id(part.node)}
        return [
            StateDict(prefix + name, child, above)
            for name, child in _containers(part.node)
            if id(child) not in above and not _is_of_training(name, child) and self.holds(child)
        ]

    def _are_copies(self, parts: Sequence[StateDict]) -> bool:
        """Return whether two of a few state_dicts have mostly the same names and shapes."""
        if not 1 < len(parts) <= _MOST_COPIES:
            return False
        signatures = [self._signature(part.node) for part in parts]
        return any(a and b and 2 * len(a & b) >= min(len(a), len(b)) for a, b in combinations(signatures, 2))

    def _signature(self, node: object) -> set[tuple[str, tuple[int, ...] | None]]:
        """Return the dotted names of a state_dict with their shapes: names without dots are those of one layer."""
        named: Iterator[tuple[str, object]] = ((text(part), child) for part, child in entries(node).items())
        if registries(node):
            named = ((leaf.name, leaf.value) for leaf in leaves(node, None, set()))
        return {
            (name.removeprefix("module."), self.shape_of(child))
            for name, child in named
            if "." in name and is_leaf(child)
        }


def _is_of_training(name: str, node: object) -> bool:
    """Return whether a container is the state of an optimizer or of another part of the training, not of a model."""
    return is_training_key(name) or {"state", "param_groups"} <= entries(node).keys()


def is_training_key(name: str) -> bool:
    """Return whether the key of an entry says that it is of the training: an optimizer, a scheduler, a random state."""
    return _NOT_WEIGHTS.search(name) is not None


def _containers(node: object) -> Iterator[tuple[str, object]]:
    """Yield the name and value of each part of a dict or list that may contain a tensor."""
    parts = enumerate(node) if isinstance(node, (list, tuple)) else entries(node).items()
    return ((text(part), child) for part, child in parts if child and isinstance(child, NODES) and not is_leaf(child))


# --- the state_dicts that the user names


def _named(search: _Search, label: str, patterns: Sequence[str]) -> list[StateDict]:
    """Return the state_dicts at the keys that `patterns` name or match, in this order, each once."""
    found: dict[str, StateDict] = {}
    for pattern in patterns:
        node = _resolve(search.root, pattern)
        exact = [StateDict(pattern, node)] if not is_leaf(node) and _anything(search).holds(node) else []
        matched = exact or [part for part in search.candidates() if fnmatchcase(part.key, pattern)]
        if not matched:
            raise _no_state_dict(search, label, pattern)
        found.update((part.key, part) for part in matched if part.key not in found)
    for outer, inner in ((a, b) for a in found for b in found if b.startswith(f"{a}.")):
        raise CheckpointError(
            f"{label}: the key {quoted(inner)} is inside the key {quoted(outer)}", hint=Argument("key", [outer])
        )
    return list(found.values())


def _resolve(node: object, dotted: str) -> object:
    """Return the value at the path `dotted` below `node`, or None; keys may contain dots."""
    for part, child in children(node):
        name = text(part)
        if dotted == name:
            return child
        if dotted.startswith(f"{name}.") and (value := _resolve(child, dotted[len(name) + 1 :])) is not None:
            return value
    return None


def _no_state_dict(search: _Search, label: str, pattern: str) -> CheckpointError:
    globbed = any(mark in pattern for mark in "*?[")
    what = f"at a key that matches {quoted(pattern)}" if globbed else f"at the key {quoted(pattern)}"
    parts = search.candidates() or _anything(search).candidates()
    keys = [part.key for part in islice(parts, 1000) if part.key.isprintable()]
    message = f"{label} has no tensors {what}"
    listed = [part for part in re.split(r"[,;\s]+", pattern) if part]
    if listed[1:] and set(listed) <= set(keys):
        return CheckpointError(message, hint=Argument("key", listed))
    near = closest(pattern, keys, count=6, cutoff=0) or keys[:6]
    if not near:
        return CheckpointError(message, hint="leave the key out: the tensors are at the top of the file")
    more = f" (other keys: {', '.join(near[1:])})" if near[1:] else ""
    return CheckpointError(message, hint=(Argument("key", near[0]), more))


# --- the leaves


def _split(search: _Search, taken: Sequence[StateDict]) -> FoundLeaves:
    """List the leaves below the state_dicts that are taken, then the other leaves of the root."""
    seen: set[int] = set()
    top = taken[0].node is search.root and not taken[0].key
    excluded = dict(_not_weights(search.root)) if top else {}
    apart = {id(node) for node in excluded.values()}
    inside = [
        Leaf(f"{part.key}.{leaf.name}", leaf.value, part.key) if len(taken) > 1 else leaf
        for part in taken
        for leaf in leaves(part.node, None, seen, excluded=apart, most=search.most)
    ]
    listed = {id(leaf.value) for leaf in inside}
    rest: list[tuple[Path, object]] = [((None, name), node) for name, node in excluded.items()] if top else []
    outside = [
        leaf
        for path, node in (rest if top else [(None, search.root)])
        for leaf in leaves(node, path, seen, once=True, most=search.most)
    ]
    others = {part.key for part in search.candidates()}.difference(part.key for part in taken)
    return FoundLeaves(
        tuple(part.key for part in taken if part.key),
        search.parts_of_top() if top else (),
        tuple(inside),
        tuple(_tagged(leaf, others) for leaf in outside if id(leaf.value) not in listed),
        is_module=any(registries(part.node) for part in taken),
    )


def _not_weights(root: object) -> Iterator[tuple[str, object]]:
    return ((name, node) for name, node in _containers(root) if _is_of_training(name, node) or is_ema(name))


def _tagged(leaf: Leaf, keys: set[str]) -> Leaf:
    """Return `leaf` with the one of `keys` that its name starts with."""
    key = leaf.name
    while key and key not in keys:
        key = key.rpartition(".")[0]
    return Leaf(leaf.name, leaf.value, key)
