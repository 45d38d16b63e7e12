"""The processes that run the current command."""

from __future__ import annotations

from prunecli.distributed.group import Group

_current: list[Group] = [Group()]


def processes() -> Group:
    """Return the processes that run the current command: this one alone, unless `use` says otherwise."""
    return _current[-1]


def use(group: Group) -> None:
    """Let `group` run the command from now on."""
    _current.append(group)
