"""Pickles: a symbolic reader, the search for tensors, and a rewriter. Nothing is unpickled."""
