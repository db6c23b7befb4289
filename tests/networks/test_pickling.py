import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from moeash.networks.pickling import PickledAsArrays
from tests.buffers import placed


@dataclass(frozen=True, eq=False)
class Bag(PickledAsArrays):
    name: str
    whole: torch.Tensor
    strided: torch.Tensor
    by_key: dict[str, torch.Tensor]
    parts: tuple["Bag", ...] = ()


def bag():
    x = torch.randn(3, 4)
    return Bag("a", x, x.T[1:], {"b": x.double()}, (Bag("c", x + 1, x, {}),))


def test_what_travels_arrives_as_it_was():
    one = bag()
    there = pickle.loads(pickle.dumps(one))
    assert there.name == "a"
    assert torch.equal(there.whole, one.whole) and torch.equal(there.strided, one.strided)
    assert there.by_key["b"].dtype == torch.float64 and torch.equal(there.by_key["b"], one.whole)
    assert torch.equal(there.parts[0].whole, one.whole + 1)


def test_tensors_leave_beside_the_pickle_and_arrive_without_a_copy():
    one, buffers = bag(), []
    small = pickle.dumps(one, protocol=5, buffer_callback=buffers.append)
    assert len(buffers) >= 4 and len(small) < 1200
    memory = [placed(buffer.raw()) for buffer in buffers]
    there = pickle.loads(small, buffers=memory)
    assert torch.equal(there.whole, one.whole)
    places = {np.frombuffer(view, dtype=np.uint8).ctypes.data for view in memory}
    assert there.whole.data_ptr() in places


@pytest.mark.parametrize("offset", [4, 16, 32, 48])
def test_what_arrives_elsewhere_computes_as_it_did(offset):
    one, buffers = bag(), []
    small = pickle.dumps(one, protocol=5, buffer_callback=buffers.append)
    memory = [placed(buffer.raw(), offset) for buffer in buffers]
    there = pickle.loads(small, buffers=memory)
    for got, want in ((there.whole, one.whole), (there.strided, one.strided.contiguous())):
        assert got.data_ptr() % 64 == 0
        assert torch.equal(got, want) and got.stride() == want.stride()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_tensors_on_a_device_stay_tensors():
    there = pickle.loads(pickle.dumps(Bag("a", torch.ones(2).cuda(), torch.ones(2), {})))
    assert there.whole.is_cuda
