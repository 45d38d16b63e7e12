"""The selection of tensors to prune, from their names, dtypes, shapes and positions; no weight is read."""
