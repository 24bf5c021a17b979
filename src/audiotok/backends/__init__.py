"""One file per wrapped family, reached only through registry strings."""
