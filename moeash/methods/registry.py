"""The table of methods: one entry feeds the spec, the command line and the documentation."""

from moeash.methods.base import MethodEntry
from moeash.methods.feedback import Feedback
from moeash.methods.uniform import Uniform

METHODS: dict[str, MethodEntry] = {
    "feedback": MethodEntry(Feedback, "uniform bins, assigned with second-order error feedback"),
    "uniform": MethodEntry(Uniform, "k uniform bins, every weight to the bin it falls in"),
}
