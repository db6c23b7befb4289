"""The options of every method, as one union told apart by name."""

from collections.abc import Mapping
from typing import get_args

from moeash.methods.feedback.options import FeedbackOptions
from moeash.methods.gpfq.options import GpfqOptions
from moeash.methods.uniform.options import UniformOptions

MethodOptions = UniformOptions | GpfqOptions | FeedbackOptions
"""What ``[method]`` may be; the first is the default."""

OPTIONS: Mapping[str, type[MethodOptions]] = {o.name: o for o in get_args(MethodOptions)}
"""The class of a method's options by its name."""
