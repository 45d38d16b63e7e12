"""Exact order statistics over tensors that do not fit in memory."""
