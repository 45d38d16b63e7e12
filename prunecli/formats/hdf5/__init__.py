"""HDF5 files, such as Keras writes them: datasets whose numbers lie in one run."""
