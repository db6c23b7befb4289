"""Which tensor of what a network returns counts, and as what."""

from collections import UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch

from moeash.errors import InputError
from moeash.tracing.outputs import chosen, compared, furthest, scores

Y = torch.arange(12.0).reshape(3, 4).requires_grad_()
HIDDEN, IDS = torch.zeros(3, 7), torch.arange(3)
Pair = namedtuple("Pair", "loss scores")


@dataclass
class Returned:
    logits: torch.Tensor
    hidden: torch.Tensor


class Plain:
    def __init__(self, **parts):
        self.__dict__.update(parts)


@pytest.mark.parametrize(
    "returned",
    [
        Y,
        (Y,),
        [IDS, Y],
        {"scores": Y, "ids": IDS},
        {"logits": Y, "hidden": HIDDEN},
        UserDict(logits=Y, hidden=HIDDEN),
        Returned(Y, HIDDEN),
        Plain(logits=Y, hidden=HIDDEN),
        Pair(None, {"deep": [Y]}),
    ],
    ids=lambda returned: type(returned).__name__,
)
def test_the_tensor_that_can_only_be_meant_is_found(returned):
    assert chosen(returned) is Y
    assert scores(returned) is Y or torch.equal(scores(returned), Y)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ((Y, HIDDEN), "tuple of 2: Tensor, Tensor, in which 2 floating tensors.*output=lambda"),
        ({"a": Y, "b": HIDDEN}, "dict with 'a', 'b'.*output="),
        (Plain(a=Y), "returned Plain, in which 0 floating.*output="),
        (IDS, r"int64 tensor \(3,\), in which 0"),
        (None, "returned NoneType.*output="),
        (Y.to_sparse(), "returned a sparse float32 tensor.*in which 0"),
    ],
)
def test_where_none_or_several_can_be_meant_the_way_out_is_named(returned, message):
    with pytest.raises(InputError, match=message):
        chosen(returned)


def test_a_function_names_the_tensor_and_its_faults_are_told_as_its_own():
    assert chosen(Plain(a=Y), lambda returned: returned.a) is Y
    with pytest.raises(InputError, match=r"output= failed on what the network returned, dict with"):
        chosen({"a": Y}, lambda returned: returned["b"])
    with pytest.raises(InputError, match=r"output= returned dict with 'a' where a floating tensor"):
        chosen({"a": Y}, lambda returned: returned)


@pytest.mark.parametrize(
    ("shape", "rows"), [((6, 3), (6, 3)), ((6, 5, 3), (30, 3)), ((6,), (6, 1)), ((), (1, 1))]
)
def test_the_last_axis_are_classes_and_a_vector_single_values(shape, rows):
    tensor = torch.zeros(shape, requires_grad=True)
    assert scores(tensor).shape == rows


def test_maps_of_classes_need_a_function_that_puts_the_classes_last():
    maps = torch.zeros(2, 3, 4, 4, requires_grad=True)
    with pytest.raises(InputError, match=r"float32 tensor \(2, 3, 4, 4\).*flatten\(2\)"):
        scores(maps)
    assert scores(maps, lambda y: y.flatten(2).transpose(1, 2)).shape == (32, 3)
    assert scores(maps, lambda y: y).shape == (24, 4)


def test_versions_are_compared_by_all_floats_or_by_the_one_that_is_named():
    one, other = Returned(Y, HIDDEN), Returned(Y, HIDDEN + 1)
    assert furthest(compared(one), compared(other)) == float("inf")  # the largest expected is 0
    first = [compared(r, lambda returned: returned.logits) for r in (one, other)]
    assert furthest(*first) == 0
    assert furthest([Y], [Y[:1]]) == float("inf")
