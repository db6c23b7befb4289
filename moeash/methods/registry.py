"""The method of any options. Loads torch: only what runs a method imports this."""

from collections.abc import Callable
from typing import Any

from moeash.methods.base import Method
from moeash.methods.feedback.method import Feedback
from moeash.methods.feedback.options import FeedbackOptions
from moeash.methods.gpfq.method import Gpfq
from moeash.methods.gpfq.options import GpfqOptions
from moeash.methods.options import MethodOptions
from moeash.methods.pwfn.method import Pwfn
from moeash.methods.pwfn.options import PwfnOptions
from moeash.methods.uniform.method import Uniform
from moeash.methods.uniform.options import UniformOptions
from moeash.methods.wfn.method import Wfn
from moeash.methods.wfn.options import WfnOptions

METHODS: dict[type[MethodOptions], Callable[[Any], Method]] = {
    FeedbackOptions: Feedback,
    GpfqOptions: Gpfq,
    PwfnOptions: Pwfn,
    UniformOptions: Uniform,
    WfnOptions: Wfn,
}
"""Methods by the class of their options."""


def build_method(options: MethodOptions) -> Method:
    """Return the method that options configure."""
    return METHODS[type(options)](options)
