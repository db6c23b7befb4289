"""The table of methods: one entry feeds the spec, the command line and the documentation."""

from moeash.methods.base import MethodEntry
from moeash.methods.uniform import Uniform

METHODS: dict[str, MethodEntry] = {
    "uniform": MethodEntry(Uniform, "k uniform bins, every weight to the bin it falls in"),
}
