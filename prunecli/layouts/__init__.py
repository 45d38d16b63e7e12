"""The decision what each tensor of a checkpoint is, from names, shapes and the files next to it."""
