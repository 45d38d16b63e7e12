"""What the report of a run says about the copies of the weights that one file may hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.errors import Argument, Notice, SameCallWith
from prunecli.layouts.copies import ema_prefixes
from prunecli.report.state_dicts import ema_left, ema_warning, masters_warning
from prunecli.selection.copies import left_alone, masters, unpruned_ema
from prunecli.text.escape import printable, quoted
from prunecli.text.numbers import counted
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from prunecli.checkpoint import Checkpoint
    from prunecli.errors import Hint
    from prunecli.selection.copies import LeftAlone
    from prunecli.selection.select import Selection


@dataclass(frozen=True, slots=True)
class AboutCopies:
    """The state_dicts that a run leaves alone, and the warnings and facts about copies of the weights."""

    left_alone: tuple[LeftAlone, ...]
    warnings: tuple[str, ...]
    facts: tuple[str, ...]


def about_copies(checkpoint: Checkpoint, selection: Selection) -> AboutCopies:
    """Return what the report of a run that prunes `selection` says about copies."""
    pruned = {name for target in selection.targets for name in (target.tensor.name, *target.aliases)}
    others, within = left_alone(checkpoint, pruned), _unpruned_within(checkpoint, selection, pruned)
    warnings: list[str] = []
    if copies := ema_left(others):
        warnings.append(Notice(ema_warning(copies), hint=_hint(checkpoint, copies)))
    if within:
        warnings.append(Notice(ema_warning([one.key for one in within]), hint=_hint_within(selection, within)))
    warnings += _empty_keys(checkpoint, selection)
    if optimizer := masters(checkpoint):
        warnings.append(masters_warning(optimizer))
    facts = (*_ranked_apart(checkpoint, selection), *_shared(checkpoint, selection))
    return AboutCopies(others, tuple(warnings), facts)


def _hint(checkpoint: Checkpoint, copies: Sequence[str]) -> Hint:
    """Return the call that prunes the EMA copies as well; a second one, if the weights themselves have no key."""
    keys = checkpoint.keys or checkpoint.parts
    if not keys:
        return ("prune the output once more, with ", Argument("key", [*map(printable, copies)]))
    return SameCallWith(Argument("key", [*map(printable, keys), *map(printable, copies)]), replaces=True)


def _unpruned_within(checkpoint: Checkpoint, selection: Selection, pruned: Collection[str]) -> Sequence[LeftAlone]:
    """Return the EMA copies inside the state_dict that are not pruned, and that no pattern excludes."""
    excluded = [s.tensor.local_name for s in selection.skipped if s.reason.startswith("excluded by")]
    found = unpruned_ema(checkpoint, pruned)
    return [one for one in found if not any(name.startswith(one.key.removesuffix("*")) for name in excluded)]


def _hint_within(selection: Selection, within: Sequence[LeftAlone]) -> Hint:
    """Return the call that prunes EMA copies too: with their names, or with any name that ends in `weight`."""
    patterned = any(skipped.reason == "no include pattern matches it" for skipped in selection.skipped)
    patterns = [printable(one.key) for one in within] if patterned else ["*weight"]
    return SameCallWith(Argument("include", patterns), replaces=True)


def _empty_keys(checkpoint: Checkpoint, selection: Selection) -> Iterator[str]:
    """Yield a warning for each of several state_dicts of which no tensor is pruned."""
    if len(checkpoint.keys) < 2:
        return
    keys = {tensor.name: tensor.key for tensor in checkpoint.tensors}
    pruned = {keys[name] for target in selection.targets for name in (target.tensor.name, *target.aliases)}
    for key in checkpoint.keys:
        if key not in pruned:
            yield f"no tensor of {printable(quoted(key))} is pruned: all of them are skipped"


def _ranked_apart(checkpoint: Checkpoint, selection: Selection) -> Iterator[str]:
    names = [target.tensor.local_name for target in selection.targets]
    for prefix in sorted(ema_prefixes(names)):
        count = sum(name.startswith(f"{prefix}.") for name in names)
        where = f" in {quoted(checkpoint.key)}" if checkpoint.key else ""
        yield f"{quoted(f'{prefix}.*')}{where} is an EMA copy ({counted(count, 'tensor')}) and is ranked separately"


def _shared(checkpoint: Checkpoint, selection: Selection) -> Iterator[str]:
    """Yield a sentence for each state_dict whose tensors are stored once, with those of an earlier one."""
    if len(checkpoint.keys) < 2:
        return
    keys = {tensor.name: tensor.key for tensor in checkpoint.tensors}
    counts: dict[tuple[str, str], int] = {}
    for target in selection.targets:
        first = target.tensor.key
        for other in {keys[name] for name in target.aliases} - {first}:
            counts[first, other] = counts.get((first, other), 0) + 1
    for (first, other), count in counts.items():
        one, two = quoted(first), quoted(other or "other entries")
        yield f"{counted(count, 'tensor')} of {one} and of {two} are stored once: pruned once, as ranked in {one}"
