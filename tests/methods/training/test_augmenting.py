import pytest
import torch

from moeash.data.inputs import Inputs
from moeash.errors import InputError
from moeash.methods.training.augmenting import varied
from moeash.methods.training.options import TrainingOptions


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


IMAGES = torch.arange(64 * 2 * 16 * 16, dtype=torch.float32).reshape(64, 2, 16, 16) + 1


def test_none_leaves_the_very_images():
    assert varied(IMAGES, (), draws()) is IMAGES


def test_flips_mirror_about_half_of_the_images_and_nothing_else():
    flipped = varied(IMAGES, ["flips"], draws())
    mirrored = [torch.equal(f, i.flip(2)) for f, i in zip(flipped, IMAGES, strict=True)]
    same = [torch.equal(f, i) for f, i in zip(flipped, IMAGES, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert 20 < sum(mirrored) < 44


def test_crops_move_each_image_by_at_most_an_eighth_and_fill_with_zeros():
    moved = varied(IMAGES, ["flips", "crops"], draws())
    assert moved.shape == IMAGES.shape
    shifts = set()
    for image, source in zip(moved, IMAGES, strict=True):
        found = [
            (flip, dy, dx)
            for flip in (False, True)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if torch.equal(image, shifted(source.flip(2) if flip else source, dy, dx))
        ]
        assert len(found) == 1
        shifts.add(found[0][1:])
    assert len(shifts) > 12


def shifted(image, dy, dx):
    """Return an image moved by slices alone."""
    out = torch.zeros_like(image)
    h, w = image.shape[1:]
    out[:, max(0, dy) : h + min(0, dy), max(0, dx) : w + min(0, dx)] = image[
        :, max(0, -dy) : h + min(0, -dy), max(0, -dx) : w + min(0, -dx)
    ]
    return out


@pytest.mark.parametrize("kinds", [["mixing"], ["flips", "crops", "mixing"]])
def test_half_of_the_images_are_mixed_with_one_other_each(kinds):
    # A channel an image: the middle, which no crop empties, tells what a mixture is made of.
    inputs = torch.eye(64)[:, :, None, None].expand(64, 64, 8, 8)
    parts = varied(inputs, kinds, draws())[:, :, 4, 4]
    torch.testing.assert_close(parts.sum(1), torch.ones(64))
    made_of = (parts > 0).sum(1)
    assert set(made_of.tolist()) == {1, 2}
    assert 20 < int((made_of == 2).sum()) < 44
    assert (parts.diagonal() > 0).all()
    own = parts.diagonal()[made_of == 2]
    assert own.min() < 0.25
    assert own.max() > 0.75


@pytest.mark.parametrize("augment", [["crops"], ["mixing"], ["flips", "crops", "mixing"]])
def test_the_seed_alone_decides(augment):
    one, two, other = (varied(IMAGES, augment, draws(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("inputs", [torch.zeros(4, 7), Inputs((torch.zeros(4, 7),))])
def test_what_is_no_image_is_refused(inputs):
    with pytest.raises(InputError, match=r"varies images \(n, c, h, w\).*leave augment out"):
        varied(inputs, ["flips"], draws())


def test_mixed_images_have_no_label():
    with pytest.raises(InputError, match=r"\['mixing'\] shows images that belong to two classes"):
        TrainingOptions(augment=("crops", "mixing"), labels=0.5)
    TrainingOptions(augment=("crops", "mixing"))


def test_the_order_in_which_kinds_are_named_means_nothing_and_none_is_named_twice():
    named = TrainingOptions(augment=["mixing", "flips"])
    assert named == TrainingOptions(augment=("flips", "mixing"))
    with pytest.raises(InputError, match=r"\['crops', 'crops'\], needed none of them twice"):
        TrainingOptions(augment=["crops", "crops"])
