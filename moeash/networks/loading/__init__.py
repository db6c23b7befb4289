"""Where a network comes from: the module by its name, its weights from a file."""
