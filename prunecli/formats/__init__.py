"""Checkpoint formats: detect them, list their tensors and other contents, and rewrite them."""
