"""Shifted and mirrored images, against a loop over images; and what is drawn for them, and when."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurocollapse.datasets import Dataset, Split, load_dataset
from neurocollapse.training import RunConfig, epochs, seeded
from neurocollapse.training.augmentation import draw_augmentation, stacked
from neurocollapse.training.run import Run

KINDS = ("shift", "shift_flip")


def images_of(shape, samples=12, seed=0):
    return torch.randn(samples, *shape, generator=torch.Generator().manual_seed(seed))


def drawn(kind, images, seed=0, epoch=1):
    with seeded(seed, epoch):
        return draw_augmentation(kind, images)


def naive(image, corner, mirrored, margins):
    """Pad with zeros, cut out at the corner, flip: pixel by pixel."""
    channels, height, width = image.shape
    (down, right), (row, column) = margins, corner
    result = torch.zeros_like(image)
    for k, i, j in itertools.product(range(channels), range(height), range(width)):
        above, left = i + row - down, j + column - right
        if 0 <= above < height and 0 <= left < width:
            result[k, i, width - 1 - j if mirrored else j] = image[k, above, left]
    return result


@given(
    kind=st.sampled_from(KINDS),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 18), st.integers(1, 18)),
    bounds=st.tuples(st.integers(0, 6), st.integers(0, 6)).map(sorted),
    seed=st.integers(0, 2**20),
)
def test_augmentation_is_to_pad_crop_and_flip_each_image(kind, shape, bounds, seed):
    images = images_of(shape, samples=6, seed=seed)
    augmentation = drawn(kind, images, seed)
    assert augmentation.margins == (shape[1] // 8, shape[2] // 8)
    places = slice(*bounds)
    expected = [
        naive(image, corner, mirrored, augmentation.margins)
        for image, corner, mirrored in zip(
            images[places], augmentation.corners[places].tolist(), augmentation.mirrored[places].tolist(), strict=True
        )
    ]
    assert torch.equal(augmentation(images[places], places), torch.stack(expected) if expected else images[:0])


def test_every_offset_occurs_about_equally_often_and_half_are_mirrored():
    samples = 4000
    augmentation = drawn("shift_flip", torch.zeros(samples, 1, 16, 24))
    both = torch.cat([augmentation.corners, augmentation.mirrored[:, None]], dim=1)
    offsets, counts = both.unique(dim=0, return_counts=True)
    assert offsets.tolist() == [list(each) for each in itertools.product(range(5), range(7), range(2))]
    expected = samples / len(offsets)
    # χ² of 69 degrees of freedom: mean 69, standard deviation 12.
    assert ((counts - expected) ** 2 / expected).sum() < 69 + 5 * 12


def test_images_too_small_to_be_shifted_are_only_mirrored():
    images = images_of((2, 7, 7), samples=300)  # too small to be shifted
    shifted, flipped = (drawn(kind, images) for kind in KINDS)
    assert not shifted.mirrored.any()
    assert torch.equal(shifted(images, slice(0, 300)), images)
    changed = flipped(images, slice(0, 300))
    assert torch.equal(changed[flipped.mirrored], images.flip(-1)[flipped.mirrored])
    assert torch.equal(changed[~flipped.mirrored], images[~flipped.mirrored])


@pytest.mark.parametrize("kind", KINDS)
def test_the_images_are_left_as_they_were(kind):
    images = images_of((1, 16, 16))
    before = images.clone()
    changed = drawn(kind, images)(images, slice(0, 12))
    assert torch.equal(images, before)
    assert not torch.equal(changed, before)


@pytest.mark.parametrize("kind", KINDS)
def test_runs_stacked_see_the_images_that_each_sees_alone(kind):
    each = [images_of((2, 16, 9), samples=10, seed=seed) for seed in range(3)]
    augmentations = [drawn(kind, images, seed) for seed, images in enumerate(each)]
    places = slice(4, 9)
    together = stacked(augmentations)(torch.stack(each)[:, places], places)
    for images, augmentation, its in zip(each, augmentations, together, strict=True):
        assert torch.equal(augmentation(images[places], places), its)
    assert stacked([None, None]) is None


# What is drawn


def run_of(dataset, **fields):
    fields = {"network": "mlp", "depth": 2, "width": 4, **fields}
    return Run(RunConfig(dataset="gaussian", **fields), dataset, "cpu")


def toy(shape=(1, 16, 16), samples=20):
    labels = torch.arange(samples) % 2
    return Dataset("toy", Split(images_of(shape, samples), labels), None, 2, "0" * 64, ())


def test_without_augmentation_nothing_is_drawn_but_the_order():
    """So that runs without it are bit for bit what they were before there was any."""
    run = run_of(toy())
    with seeded(3, 5):
        draw = run.draw()
        state = torch.get_rng_state()
    with seeded(3, 5):
        order = torch.randperm(20)
        assert torch.equal(torch.get_rng_state(), state)
    assert draw.augmentation is None
    assert torch.equal(draw.order, order)
    images, labels = run.batch(draw, slice(4, 9))
    assert torch.equal(images, run.train_split.images[order[4:9]])
    assert torch.equal(labels, run.train_split.labels[order[4:9]])


@pytest.mark.parametrize("kind", KINDS)
def test_augmentation_leaves_the_order_and_the_labels(kind):
    plain, augmented = run_of(toy()), run_of(toy(), augmentation=kind)
    draws = []
    for run in (plain, augmented):
        with seeded(0, 1):
            draws.append(run.draw())
    assert torch.equal(draws[0].order, draws[1].order)
    places = slice(0, 8)
    (images, labels), (changed, same) = (
        run.batch(draw, places) for run, draw in zip((plain, augmented), draws, strict=True)
    )
    assert torch.equal(labels, same)
    assert torch.equal(draws[1].augmentation(images, places), changed)
    assert not torch.equal(images, changed)


@pytest.mark.parametrize("kind", KINDS)
def test_seed_and_epoch_decide_the_images(kind):
    images = images_of((1, 16, 16), samples=50)
    first = drawn(kind, images, seed=1, epoch=2)
    again, others = drawn(kind, images, 1, 2), [drawn(kind, images, 1, 3), drawn(kind, images, 2, 2)]
    whole = slice(0, 50)
    assert torch.equal(first(images, whole), again(images, whole))
    assert not any(torch.equal(first(images, whole), other(images, whole)) for other in others)


def test_measurements_are_of_the_images_as_they_are():
    config = RunConfig(network="mlp", depth=2, width=4, epochs=0)
    (plain,), (augmented,) = (
        list(epochs(each, toy())) for each in (config, replace(config, augmentation="shift_flip"))
    )
    assert plain.record["train.nc1"] == augmented.record["train.nc1"]


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_refused(kind):
    config = RunConfig(dataset="gaussian", network="mlp", depth=2, width=4, epochs=1, augmentation=kind)
    message = rf"augmentation {kind} shifts images, got samples of shape \(16,\); choose augmentation none"
    with pytest.raises(ValueError, match=message):
        list(epochs(config, load_dataset("gaussian")))
