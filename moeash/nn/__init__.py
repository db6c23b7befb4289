"""Networks that stay small in memory: modules on packed indices and one codebook.

``moeash.nn.compress_(module, "x.moeash")`` converts a network in place, and
``moeash.nn.memory(module)`` says what it takes.
"""

from moeash.nn.converting import Report, compress_
from moeash.nn.packing import BITS
from moeash.nn.reporting import Memory, memory

__all__ = ["BITS", "Memory", "Report", "compress_", "memory"]
