"""The table of methods: one entry feeds the spec, the command line and the documentation."""

from dataclasses import fields

from moeash.methods.base import Method, MethodEntry
from moeash.methods.feedback.method import Feedback
from moeash.methods.gpfq.method import Gpfq
from moeash.methods.options import MethodOptions
from moeash.methods.uniform.method import Uniform

METHODS: dict[str, MethodEntry] = {
    "feedback": MethodEntry(Feedback, "uniform bins, assigned with second-order error feedback"),
    "gpfq": MethodEntry(Gpfq, "greedy path-following quantisation, one alphabet a layer"),
    "uniform": MethodEntry(Uniform, "k uniform bins, every weight to the bin it falls in"),
}


def build_method(options: MethodOptions) -> Method:
    """Return the method of some options."""
    chosen = {field.name: getattr(options, field.name) for field in fields(options)}
    return METHODS[options.name].build(**chosen)
