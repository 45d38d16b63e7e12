"""Pruning tensors of which every process has a part: DTensors, exactly as if one process had the whole tensors."""
