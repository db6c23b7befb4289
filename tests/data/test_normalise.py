import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from torchvision import transforms

from moeash.data.normalise import PRESETS, normalisation
from moeash.errors import DataError


def test_bytes_become_scaled_centred_floats():
    how = normalisation("mnist")
    x = how.of_stack(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    assert x.dtype == torch.float32
    assert_close(x.flatten(), torch.tensor([(0 - 0.1307) / 0.3081, (1 - 0.1307) / 0.3081]))


def test_values_given_replace_those_of_the_preset():
    how = normalisation("imagenet", mean=0.5, crop=10)
    assert (how.mean, how.std, how.resize, how.crop) == ((0.5,), (0.229, 0.224, 0.225), 256, 10)


def test_a_picture_is_evaluated_as_torchvision_does():
    pixels = torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8).numpy()
    picture = Image.fromarray(pixels)
    expected = transforms.Compose(
        [
            transforms.Resize(32),
            transforms.CenterCrop(28),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )(picture)
    assert_close(normalisation("imagenet", resize=32, crop=28).of_picture(picture), expected)


def test_stacks_are_resized_and_cropped_too():
    how = normalisation("none", scale=1.0, resize=16, crop=12)
    assert how.of_stack(torch.rand(2, 1, 8, 8)).shape == (2, 1, 12, 12)


@pytest.mark.parametrize(
    "preset, options, message",
    [
        ("minst", {}, "nearest: 'mnist'"),
        ("mnist", {"std": 0.0}, "std must be positive"),
        ("mnist", {"std": float("nan")}, "std must be positive"),
        ("mnist", {"mean": "grey"}, "mean must be a number or a list"),
        ("mnist", {"crop": 0}, "crop must be a whole number"),
        ("mnist", {"resize": 2.5}, "resize must be a whole number"),
    ],
)
def test_impossible_normalisations_are_refused(preset, options, message):
    with pytest.raises(DataError, match=message):
        normalisation(preset, **options)


def test_one_mean_per_channel_is_needed():
    with pytest.raises(DataError, match="1 channels, but 3 values"):
        normalisation("cifar").of_stack(torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_usable(preset):
    assert torch.isfinite(normalisation(preset).of_stack(torch.zeros(1, 3, 4, 4))).all()
