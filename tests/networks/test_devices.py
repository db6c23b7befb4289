import warnings

import pytest
import torch
from torch import nn

from moeash.networks.devices import device_of, name_of, wake


def test_a_module_is_where_its_parameters_are():
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert device_of(nn.ReLU()) == torch.device("cpu")


def test_a_device_is_named_as_it_was_asked_for():
    assert name_of("cpu") == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_named_with_its_model_and_woken_without_a_word():
    assert name_of("cuda") == f"cuda ({torch.cuda.get_device_name()})"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wake("cuda")
        weight = torch.ones(3, 3, device="cuda", requires_grad=True)
        (weight @ weight).sum().backward()
