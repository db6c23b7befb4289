"""The table of methods: one entry feeds the spec, the command line and the documentation."""

from moeash.methods.base import MethodEntry
from moeash.methods.feedback.method import Feedback
from moeash.methods.gpfq.method import Gpfq
from moeash.methods.uniform.method import Uniform

METHODS: dict[str, MethodEntry] = {
    "feedback": MethodEntry(Feedback, "uniform bins, assigned with second-order error feedback"),
    "gpfq": MethodEntry(Gpfq, "greedy path-following quantisation, one alphabet a layer"),
    "uniform": MethodEntry(Uniform, "k uniform bins, every weight to the bin it falls in"),
}
