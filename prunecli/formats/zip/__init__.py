"""Zip archives: their records, and a rewriter."""
