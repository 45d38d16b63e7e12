"""The new form of a checkpoint: which format its output has, what goes into it, and how it is laid out."""
