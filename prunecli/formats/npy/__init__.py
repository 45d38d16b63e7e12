"""Arrays of NumPy: `.npy` files, and `.npz` archives of them."""
