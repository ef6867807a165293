"""The package's compiled programs on a GPU, beside its peers: see README.md."""
