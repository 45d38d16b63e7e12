"""The command line `prune`: options, commands, printed results and exit codes."""

from __future__ import annotations
