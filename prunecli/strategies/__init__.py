"""The pruning strategies: frozen values that decide which weights become zero."""
