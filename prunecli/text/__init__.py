"""Text for people and programs: tables, numbers, names from files, JSON."""

from __future__ import annotations
