"""The options of every method by name: all that checking a description of a study needs.

Nothing here loads torch. What the options say is in each class's ``Attributes:``; besides its
fields every class has

* ``name``, the method's;
* ``space()``, the variables of a candidate;
* ``calibration_images``, how many images of a calibration split the method looks at, at most;
* ``refines``, whether it has a slower way from a candidate to better weights;
* ``trains``, whether its candidates are trained, as ``[training]`` says;
* ``mergeable``, whether neighbouring entries of its one global codebook may be merged;
* ``needs_coder``, the entropy coder its files need, or None when any will do.
"""

from moeash.methods.feedback.options import FeedbackOptions
from moeash.methods.gpfq.options import GpfqOptions
from moeash.methods.pwfn.options import PwfnOptions
from moeash.methods.uniform.options import UniformOptions
from moeash.methods.wfn.options import WfnOptions

MethodOptions = UniformOptions | GpfqOptions | FeedbackOptions | WfnOptions | PwfnOptions
"""What ``[method]`` may be, told apart by name; the first is the default."""

OPTIONS: dict[str, type[MethodOptions]] = {
    options.name: options
    for options in (UniformOptions, GpfqOptions, FeedbackOptions, WfnOptions, PwfnOptions)
}
"""Options classes by the name of their method."""
