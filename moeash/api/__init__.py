"""The Python interface: run and search studies, compress a network, export a solution."""

from moeash.runtime.collecting import uncollected

with uncollected():
    from moeash.api.files import compress, export
    from moeash.api.studies import run, run_with_output, search

__all__ = ["compress", "export", "run", "run_with_output", "search"]
