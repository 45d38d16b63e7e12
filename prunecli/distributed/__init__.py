"""Several processes, on one machine or on many, that do one run together."""
