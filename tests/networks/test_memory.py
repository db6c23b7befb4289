import pytest
import torch
from torch import nn

from moeash.errors import InputError
from moeash.networks import memory


def test_each_later_name_of_one_memory_is_tied_to_the_first():
    weight = torch.zeros(3, 3)
    found = memory.ties({"a": weight, "b": torch.zeros(3, 3), "c": weight, "d": weight.detach()})
    assert found == {"c": "a", "d": "a"}


def test_columns_of_one_matrix_are_neither_tied_nor_refused():
    fused = torch.zeros(4, 6)
    assert memory.ties({"left": fused[:, :3], "right": fused[:, 3:]}) == {}


@pytest.mark.parametrize(
    "view",
    [
        lambda base: base[1:],
        lambda base: base.t(),
        lambda base: base.view(-1),
        lambda base: base.view(torch.int32),
        lambda base: base[:, ::2],
    ],
)
def test_other_views_of_one_memory_are_refused_by_name(view):
    base = torch.zeros(4, 4)
    with pytest.raises(InputError, match=r"'(a|b)' and '(a|b)' share part of their memory"):
        memory.ties({"a": base, "b": view(base)})


def test_overlap_is_found_behind_a_shorter_neighbour():
    base = torch.zeros(10, 10)
    tensors = {"long": base[:9, :9], "short": base[:1, 9:], "tail": base[8:, 8:]}
    with pytest.raises(InputError, match="'tail' and 'long'"):
        memory.ties(tensors)
    assert memory.ties({**tensors, "tail": base[9:, 8:]}) == {}


def test_an_expanded_tensor_is_refused():
    with pytest.raises(InputError, match="repeats its own memory"):
        memory.ties({"a": torch.zeros(1, 4).expand(3, 4)})


def test_channels_last_and_empty_tensors_are_ordinary():
    images = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert memory.ties({"a": images, "b": torch.zeros(0), "c": torch.zeros(0)}) == {}


class WithExtraState(nn.Linear):
    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass


class Computing(nn.Linear):
    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = destination[prefix + "weight"] * 2


@pytest.mark.parametrize(
    "module, message",
    [
        (WithExtraState(2, 2), "'_extra_state', a dict"),
        (Computing(2, 2), "computes 'weight'"),
        (nn.Linear(2, 2, device="meta"), "meta tensor"),
    ],
)
def test_states_that_cannot_be_written_back_are_refused(module, message):
    with pytest.raises(InputError, match=message):
        memory.own_tensors(module)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_lazy_module_is_refused():
    with pytest.raises(InputError, match="not initialised"):
        memory.own_tensors(nn.LazyLinear(2))
