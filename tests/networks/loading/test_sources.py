import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from moeash.errors import CheckpointError, InputError
from moeash.networks.loading.sources import load_network


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "users_networks.py").write_text(
        "from torch import nn\n"
        "def make(*, width=2):\n"
        "    if width < 1:\n"
        "        raise ValueError('width must be positive')\n"
        "    return nn.Sequential(nn.Linear(width, 2), nn.Dropout())\n"
        "def text():\n"
        "    return 'no network'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("users_networks", None)


def test_the_shipped_network_loads_in_eval_mode():
    module = load_network("digits-cnn")
    assert not module.training
    assert module.bn1.num_batches_tracked > 0


def test_a_built_in_network_takes_a_checkpoint_and_options(tmp_path):
    source = load_network("lenet300", weights="random", options={"n_classes": 4})
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    loaded = load_network(
        "lenet300", checkpoint=tmp_path / "a.safetensors", options={"n_classes": 4}
    )
    assert torch.equal(loaded.fc3.weight, source.fc3.weight)
    with pytest.raises(CheckpointError, match=r"fc3.weight \(4, 100\) for \(10, 100\)"):
        load_network("lenet300", checkpoint=tmp_path / "a.safetensors")


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = load_network("resnet20", weights="random").linear.weight
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, load_network("resnet20", weights="random").linear.weight)


def test_a_torchvision_model_takes_a_local_checkpoint(tmp_path):
    source = load_network("torchvision:resnet18", weights="random", options={"num_classes": 3})
    torch.save(
        {"state_dict": {f"module.{n}": t for n, t in source.state_dict().items()}},
        tmp_path / "a.pth",
    )
    loaded = load_network(
        "torchvision:resnet18", checkpoint=tmp_path / "a.pth", options={"num_classes": 3}
    )
    assert not loaded.training
    assert torch.equal(loaded.fc.weight, source.fc.weight)


def test_a_random_segmentation_model_downloads_no_backbone(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("downloads")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    assert load_network("torchvision:lraspp_mobilenet_v3_large", weights="random")


def test_a_failed_download_says_what_to_do(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(
        CheckpointError, match=r"could not fetch 'IMAGENET1K_V1'.*give it as checkpoint"
    ):
        load_network("torchvision:resnet18", weights="IMAGENET1K_V1")


def test_a_user_s_factory_is_called_with_its_options(user_module, tmp_path):
    module = load_network("users_networks:make", options={"width": 3})
    assert module[0].in_features == 3
    assert not module[1].training
    save_file(nn.Sequential(nn.Linear(3, 2)).state_dict(), tmp_path / "a.safetensors")
    assert load_network(
        "users_networks:make", options={"width": 3}, checkpoint=tmp_path / "a.safetensors"
    )


@pytest.mark.parametrize(
    "source, arguments, message",
    [
        ("resnet21", {}, "no network is called 'resnet21'; nearest: 'resnet32', 'resnet20'"),
        ("torchvision:resnet19", {}, "torchvision has no model 'resnet19'; nearest: 'resnet1"),
        ("torchvision:resnet18", {}, "was given no weights; give a checkpoint file, or weights="),
        (
            "torchvision:resnet18",
            {"weights": "IMAGENET1K_V3"},
            "has no weights 'IMAGENET1K_V3'; nearest: 'IMAGENET1K_V1'",
        ),
        ("lenet5", {}, "'lenet5' was given no weights"),
        ("lenet5", {"weights": "IMAGENET"}, "'lenet5' has no weights 'IMAGENET'"),
        ("lenet5", {"weights": "random", "checkpoint": "a.pt"}, "both given"),
        ("lenet5", {"weights": "random", "options": {"classes": 3}}, "refuses its options"),
        (
            "users_networks:make",
            {"options": {"width": 0}},
            r"make\(width=0\) raised ValueError: width",
        ),
        ("users_networks:maker", {}, "nearest: 'make'"),
        ("users_networks:text", {}, "returned str, needed a torch.nn.Module"),
        ("users_networks:make", {"weights": "random"}, "not for factories"),
        ("digits-cnn", {"options": {"n_classes": 3}}, r"fc2.weight \(10, 96\) for \(3, 96\)"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(user_module, source, arguments, message):
    with pytest.raises(InputError, match=message):
        load_network(source, **arguments)
