"""Pickles of NumPy arrays, as Paddle writes them."""
