"""Which training samples are taken and with which labels: exact counts, and noise that leaves the classes' sizes."""

from collections import Counter
from dataclasses import asdict
from decimal import ROUND_HALF_EVEN, Decimal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurocollapse import DatasetError
from neurocollapse.datasets import load_dataset
from neurocollapse.datasets.dataset import Samples, Source, assemble
from neurocollapse.datasets.selection import IMBALANCES, Selection, select
from neurocollapse.training import RunConfig, data_part, training_data


def source_of(counts, seed=0):
    """Every image another, the classes in no order; a test sample of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(seed).shuffle(labels)
    train = Samples(np.arange(2.0 * len(labels)).reshape(-1, 2), labels)
    return Source("toy", train, Samples(np.ones((len(counts), 2)), np.arange(len(counts))), len(counts))


def counts_of(source):
    return np.bincount(source.train.labels, minlength=source.num_classes).tolist()


def rounded(value):
    return int(Decimal(value).quantize(Decimal(1), ROUND_HALF_EVEN))


COUNTS = st.lists(st.integers(1, 30), min_size=2, max_size=6)
SHARES = st.floats(0, 1)


# Label noise


@given(counts=COUNTS, noise=SHARES, seed=st.integers(0, 2**40), imbalance=st.sampled_from(IMBALANCES))
def test_label_noise_shuffles_a_share_of_each_class_and_leaves_all_else(counts, noise, seed, imbalance):
    source = source_of(counts)
    clean = select(source, Selection(imbalance=imbalance, imbalance_ratio=3.0))
    noisy = select(source, Selection(imbalance=imbalance, imbalance_ratio=3.0, label_noise=noise, seed=seed))
    assert counts_of(noisy) == counts_of(clean)
    assert np.array_equal(noisy.train.images, clean.train.images)
    assert noisy.test is source.test
    changed = noisy.train.labels != clean.train.labels
    of_class = Counter(clean.train.labels[changed].tolist())
    assert all(of_class[c] <= round(noise * count) for c, count in enumerate(counts_of(clean)))
    said = (f"the labels of {noise:.4g} of each class's training samples are shuffled",) if noise else ()
    assert noisy.notes == clean.notes + said


@pytest.mark.parametrize("noise", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("per_class", [200, 1000])
def test_about_the_share_times_those_of_other_classes_become_wrong(noise, per_class):
    classes, rates = 10, []
    source = source_of([per_class] * classes)
    for seed in range(20):
        labels = select(source, Selection(label_noise=noise, seed=seed)).train.labels
        rates.append((labels != source.train.labels).mean())
    samples = classes * per_class
    expected = noise * (1 - 1 / classes)
    # A binomial's standard deviation of each, and of the mean over seeds.
    deviation = np.sqrt(noise * 0.1 * 0.9 / samples)
    assert max(abs(rate - expected) for rate in rates) < 5 * deviation
    assert abs(np.mean(rates) - expected) < 5 * deviation / np.sqrt(len(rates))


def test_random_labels_are_independent_of_the_true_ones():
    """Every pair of true and new label comes about as often: χ² of 81 degrees of freedom, standard deviation 12.7."""
    source = source_of([400] * 10)
    labels = select(source, Selection(label_noise=1.0, seed=5)).train.labels
    table = np.zeros((10, 10))
    np.add.at(table, (source.train.labels, labels), 1)
    assert ((table - 40) ** 2 / 40).sum() < 81 + 5 * 12.7


def test_all_of_the_labels_are_among_those_shuffled():
    """Over a few seeds each sample has had another's label: none is left out."""
    source = source_of([5, 5])
    changed = np.zeros(10, dtype=bool)
    for seed in range(20):
        changed |= select(source, Selection(label_noise=1.0, seed=seed)).train.labels != source.train.labels
    assert changed.all()


def test_a_share_of_the_samples_is_chosen_anew_by_every_seed():
    source = source_of([50] * 2)
    ever = [select(source, Selection(label_noise=0.2, seed=seed)).train.labels != source.train.labels
            for seed in range(60)]  # fmt: skip
    assert np.any(ever, axis=0).all()
    assert max(each.sum() for each in ever) <= 20


def test_the_seed_alone_decides_the_noise():
    first, again, other = (load_dataset("gaussian", label_noise=0.5, seed=seed) for seed in (1, 1, 2))
    assert first.sha256 == again.sha256 != other.sha256
    assert first.train.labels.equal(again.train.labels)
    np.random.seed(0)
    assert load_dataset("gaussian", label_noise=0.5, seed=1).sha256 == first.sha256


def test_no_noise_is_the_data_as_they_are():
    clean = load_dataset("gaussian")
    noiseless = load_dataset("gaussian", label_noise=0.0, seed=7)
    assert noiseless.sha256 == clean.sha256
    assert noiseless.notes == clean.notes == ()
    noisy = load_dataset("gaussian", label_noise=0.5, seed=7)
    assert noisy.sha256 != clean.sha256
    assert noisy.train.images.equal(clean.train.images)
    assert noisy.test.labels.equal(clean.test.labels)


def test_noise_is_among_the_samples_taken():
    noisy = load_dataset("gaussian", per_class=10, imbalance="step", imbalance_ratio=5.0, label_noise=1.0, seed=3)
    clean = load_dataset("gaussian", per_class=10, imbalance="step", imbalance_ratio=5.0)
    assert noisy.class_counts == clean.class_counts == (10, 10, 2, 2)
    assert noisy.train.images.equal(clean.train.images)
    assert not noisy.train.labels.equal(clean.train.labels)


def test_a_run_draws_its_noise_by_its_seed_and_shares_the_data_where_there_is_none():
    plain, noisy = RunConfig(dataset="gaussian", seed=3), RunConfig(dataset="gaussian", seed=3, label_noise=0.5)
    assert data_part(plain).seed == 0
    assert data_part(noisy).seed == 3
    for config in (plain, noisy):
        assert training_data(data_part(config)).sha256 == training_data(config).sha256
    assert training_data(noisy).sha256 == load_dataset("gaussian", label_noise=0.5, seed=3).sha256
    imbalanced = RunConfig(dataset="gaussian", imbalance="exponential", imbalance_ratio=8.0, per_class=40, epochs=1)
    assert (
        training_data(imbalanced).class_counts == training_data(data_part(imbalanced)).class_counts == (40, 20, 10, 5)
    )


# Imbalance


@pytest.mark.parametrize(
    ("imbalance", "ratio", "per_class", "expected"),
    [
        ("step", 10.0, 100, [100, 100, 100, 10, 10]),  # of an odd number the middle class stays large
        ("step", 10.0, None, [60, 60, 60, 6, 6]),
        ("step", 1000.0, 100, [100, 100, 100, 1, 1]),
        ("step", 3.0, 100, [100, 100, 100, 33, 33]),
        ("exponential", 16.0, 64, [64, 32, 16, 8, 4]),
        ("exponential", 1e4, 100, [100, 10, 1, 1, 1]),
        ("exponential", 16.0, None, [60, 30, 15, 8, 4]),  # 7.5 and 3.75, halves to even
        ("none", 16.0, 30, [30, 30, 30, 30, 30]),
        ("none", 16.0, None, [100, 120, 60 + 50, 100, 60]),
    ],
)
def test_samples_of_each_class(imbalance, ratio, per_class, expected):
    source = source_of([100, 120, 110, 100, 60] if per_class is None else [100] * 5)
    assert counts_of(select(source, Selection(per_class, imbalance, ratio))) == expected


@given(counts=COUNTS, ratio=st.floats(1, 1e4), kind=st.sampled_from(["step", "exponential"]), data=st.data())
def test_imbalance_is_by_its_formula_monotone_and_leaves_every_class_some(counts, ratio, kind, data):
    source, classes = source_of(counts), len(counts)
    per_class = data.draw(st.none() | st.integers(1, min(counts)))
    found = select(source, Selection(per_class, kind, ratio))
    taken, largest = counts_of(found), per_class or min(counts)
    for c, count in enumerate(taken):
        small = c >= classes / 2 if classes % 2 == 0 else c > classes // 2
        share = (1 / ratio if small else 1.0) if kind == "step" else ratio ** (-c / (classes - 1))
        assert count in {max(1, rounded(largest * share * (1 + slip))) for slip in (-1e-12, 0, 1e-12)}
    assert taken == sorted(taken, reverse=True)
    assert taken[0] == largest
    assert min(taken) >= 1
    assert found.test is source.test
    for c in range(classes):  # the first of each class, in file order
        kept, all_of_it = (s.train.images[s.train.labels == c] for s in (found, source))
        assert np.array_equal(kept, all_of_it[: taken[c]])
    # Without the remedy that there is for data which came so: of these it would be none.
    unbalanced = (
        f"classes are not balanced (train counts {taken[-1]} to {taken[0]}), and the theory is for balanced classes"
    )
    assert found.notes == ((unbalanced,) if taken[0] > taken[-1] else ())


@pytest.mark.parametrize("kind", ["step", "exponential"])
def test_a_ratio_of_one_is_balanced(kind):
    source = source_of([9, 5, 7])
    found = select(source, Selection(imbalance=kind, imbalance_ratio=1.0))
    assert counts_of(found) == [5, 5, 5]
    assert found.notes == ()


def test_two_classes_can_be_imbalanced():
    assert [counts_of(select(source_of([40, 40]), Selection(imbalance=kind))) for kind in ("step", "exponential")] == [
        [40, 4]
    ] * 2


def test_the_digest_is_of_the_samples_taken():
    found = {assemble(select(source_of([20] * 3), Selection(imbalance=kind, imbalance_ratio=4.0))).sha256
             for kind in IMBALANCES}  # fmt: skip
    assert len(found) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imbalance": "linear"}, "imbalance must be none or step or exponential, got 'linear'"),
        ({"imbalance_ratio": 0.5}, "imbalance_ratio must be at least 1 and finite, got 0.5"),
        ({"imbalance_ratio": float("inf")}, "imbalance_ratio must be at least 1 and finite, got inf"),
        ({"imbalance_ratio": float("nan")}, "imbalance_ratio must be at least 1 and finite, got nan"),
        ({"label_noise": -0.1}, "label_noise must be a share from 0 to 1, got -0.1"),
        ({"label_noise": 1.1}, "label_noise must be a share from 0 to 1, got 1.1"),
        ({"label_noise": float("nan")}, "label_noise must be a share from 0 to 1, got nan"),
        (
            {"imbalance": "step", "per_class": 101},
            "gaussian: class 0 has 100 training samples, fewer than per_class=101; ask for at most 100",
        ),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(DatasetError) as caught:
        load_dataset("gaussian", **options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("imbalance", "linear", "imbalance must be none or step or exponential, got 'linear'"),
        ("imbalance_ratio", 0.5, "imbalance_ratio must be at least 1, got 0.5"),
        ("label_noise", 1.5, "label_noise must be at most 1, got 1.5"),
        ("label_noise", -0.5, "label_noise must be at least 0, got -0.5"),
        ("augmentation", "rotate", "augmentation must be none or shift or shift_flip, got 'rotate'"),
        ("decay_start", 2e6, "decay_start must be at most 1000000, got 2000000.0"),
        ("normalization", "layer", "normalization must be none or batch, got 'layer'"),
    ],
)
def test_a_configuration_of_it_is_refused(field, value, message):
    values = {**asdict(RunConfig()), field: value}
    with pytest.raises(ValueError, match=message):
        RunConfig.__post_init__(SimpleNamespace(**values))  # without the tests' own checking of types


def test_balanced_batch_normalisation_is_refused():
    with pytest.raises(ValueError, match=r"balancing epoch needs normalization none, .* have no scale; got batch"):
        RunConfig(normalization="batch", balancing="epoch")


def test_batch_normalisation_of_single_samples_is_refused():
    with pytest.raises(ValueError, match="normalization batch needs a batch_size of at least 2, got 1"):
        RunConfig(normalization="batch", batch_size=1)


def test_a_split_is_a_data_set_of_samples_with_labels():
    split = load_dataset("gaussian").train
    image, label = split[3]
    assert len(split) == len(split.labels)
    assert torch.equal(image, split.images[3])
    assert label == split.labels[3]
