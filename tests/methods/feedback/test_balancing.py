import pytest

from moeash.errors import RescalingError
from moeash.methods.feedback.balancing import Balancing
from moeash.methods.feedback.preparing import Settings, prepare
from tests.methods.feedback.networks import Net, images


def test_rescaling_is_refused_when_somebody_else_reads_the_layer():
    leaky = Net(leak=0.5).eval()
    for balance in (0.25, 0.0):  # even unbalanced, the running mean could not take up a shift
        with pytest.raises(RescalingError, match="no row is balanced through norms"):
            prepare(leaky, [images()], Settings(balancing=Balancing(balance)))
    prepared = prepare(leaky, [images()], Settings(balancing=Balancing(through_norms=False)))
    assert set(prepared.kept) == {"stem.bias", "head.bias"}
