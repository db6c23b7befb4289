"""What a user's function may do to the module it is given."""

import copy

import pytest
import torch
from torch import nn

import moeash
from moeash.errors import EvaluationError, RebuildMismatchError

X = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10)
    ).eval()


def closeness(expected):
    def evaluate(module):
        with torch.no_grad():
            x = X.to(next(module.parameters()).dtype)
            return -float((module(x) - expected).square().mean())

    return evaluate


def search(module, evaluate, **options):
    plain = {"generations": 2, "population": 6, "progress": False, **options}
    return moeash.search(module, evaluate=evaluate, **plain)


def moving(how):
    module = network()
    with torch.no_grad():
        measure = closeness(module(X))

    def evaluate(given):
        how(given)
        return measure(given)

    return module, evaluate


def replace_data(module):
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()


@pytest.mark.parametrize(
    "how",
    [
        lambda m: m.to(memory_format=torch.channels_last),
        replace_data,
        lambda m: m.share_memory(),
        lambda m: m.double(),
    ],
    ids=["channels_last", "data", "share_memory", "double"],
)
def test_a_function_that_moves_parameters_is_refused_and_the_module_keeps_its_values(how):
    module, evaluate = moving(how)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(EvaluationError, match=r"has moved '0\.weight'"):
        search(module, evaluate)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name].to(value.dtype)), name


def test_one_that_moves_them_only_later_fails_every_candidate_and_says_why():
    calls = 0

    def later(module):
        nonlocal calls
        calls += 1
        if calls == 2:
            replace_data(module)

    module, evaluate = moving(later)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(EvaluationError, match=r"all \d+ candidates failed.*has moved"):
        search(module, evaluate)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.slow
def test_a_copy_may_be_moved_as_one_likes(tmp_path):
    module = network()
    with torch.no_grad():
        measure = closeness(module(X))

    def evaluate(given):
        other = copy.deepcopy(given).to(memory_format=torch.channels_last)
        return measure(other)

    study = search(module, evaluate)
    report = moeash.export(study, tmp_path / "a.moeash", pick="best", progress=False)
    assert report.size_bytes == study.pick("best").size_bytes


@pytest.mark.slow
def test_an_export_measures_the_decoded_network_with_the_users_own_function(tmp_path):
    module = network()
    with torch.no_grad():
        measure = closeness(module(X))
    shift = 0.0

    def evaluate(given):
        return measure(given) + shift

    study = search(module, evaluate)
    moeash.export(study, tmp_path / "a.moeash", pick="best", progress=False)
    shift = 0.5
    with pytest.raises(RebuildMismatchError, match=r"evaluate\(module\) gives"):
        moeash.export(study, tmp_path / "b.moeash", pick="best", progress=False)
    assert not (tmp_path / "b.moeash").exists()


def test_a_module_whose_layers_were_fused_after_the_search_is_not_what_was_searched(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4))
    with torch.no_grad():
        measure = closeness(module.eval()(X))
    study = search(module, measure, generations=1, population=2)
    module[0] = nn.utils.fuse_conv_bn_eval(module[0], module[1])
    module[1] = nn.Identity()
    with pytest.raises(RebuildMismatchError, match="the tensors its state holds, are not those"):
        moeash.export(study, tmp_path / "a.moeash", pick="best", progress=False)


class Unreadable:
    def __float__(self):
        raise RuntimeError("no value yet")


@pytest.mark.parametrize(
    "value",
    [None, "many", float("nan"), 10**400, 1 + 1j, torch.ones(2), Unreadable()],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_finite_number_is_refused_by_what_came(value):
    with pytest.raises(EvaluationError, match=r"evaluate\(module\) returned"):
        search(network(), lambda module: value)


def test_a_search_none_of_whose_candidates_could_be_measured_is_an_error():
    calls = 0

    def evaluate(module):
        nonlocal calls
        calls += 1
        if calls > 1:
            raise ValueError("no luck")
        return 1.0

    with pytest.raises(EvaluationError, match=r"all \d+ candidates failed; the first, k=.*no luck"):
        search(network(), evaluate)
