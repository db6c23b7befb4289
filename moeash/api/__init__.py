"""The Python interface: run and search studies, compress a network, export a solution."""
