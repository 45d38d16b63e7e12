"""The report of a run: its values, its gates, and its forms (text, JSON, CSV, Markdown, HTML)."""

from __future__ import annotations
