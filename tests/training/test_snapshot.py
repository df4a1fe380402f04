"""What a record keeps to be looked at, against the features it is made of."""

from dataclasses import replace

import pytest
import torch

from neurocollapse.datasets import load_dataset
from neurocollapse.measuring import gather
from neurocollapse.training import RunConfig, epochs, train_together
from neurocollapse.training.snapshot import shown_samples, snapshot

GAUSSIAN = load_dataset("gaussian")
SMALL = RunConfig(dataset="gaussian", network="mlp", depth=3, width=12, learning_rate=0.02, epochs=2)


def test_the_first_samples_of_the_first_classes_are_shown():
    labels = torch.tensor([11, 2, 0, 2, 1, 10, 0] + 100 * [5])
    assert shown_samples(labels).tolist() == [2, 6, 4, 1, 3, *range(7, 67)]


@pytest.mark.parametrize("num_classes", [3, 12])
def test_products_are_those_of_centred_features_and_rows(num_classes):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(5 * num_classes) % num_classes
    features = torch.randn(len(labels), 7, generator=generator, dtype=torch.float64) + 3
    weight = torch.randn(num_classes, 7, generator=generator, dtype=torch.float64)
    statistics, _ = gather(features, labels, weight)
    shown = shown_samples(labels)
    found = snapshot(statistics, features[shown], labels[shown])
    means = [features[labels == c].mean(dim=0) for c in range(num_classes)]
    centre = sum(means) / num_classes
    kept = min(num_classes, 10)
    assert found["labels"].tolist() == [c for c in range(kept) for _ in range(5)]
    assert found["samples"].shape == (5 * kept, kept)
    for row, place in enumerate(shown.tolist()):
        for k in range(kept):
            assert found["samples"][row, k].item() == pytest.approx(
                float((features[place] - centre) @ weight[k]), abs=1e-5
            )
    for c in range(kept):
        for k in range(kept):
            assert found["means"][c, k].item() == pytest.approx(float((means[c] - centre) @ weight[k]), abs=1e-5)
            assert found["weight_gram"][c, k].item() == pytest.approx(float(weight[c] @ weight[k]), abs=1e-5)
            product = float((means[c] - centre) @ (means[k] - centre))
            assert found["means_gram"][c, k].item() == pytest.approx(product, abs=1e-5)


def test_a_state_has_a_snapshot_where_it_has_a_record_and_stacked_runs_have_the_same():
    states = list(epochs(SMALL, GAUSSIAN))
    assert [state.snapshot is not None for state in states] == [state.record is not None for state in states]
    stacked = [state for _, state in train_together([SMALL, replace(SMALL, seed=1)], GAUSSIAN)]
    for mine, other in zip(states, stacked[::2], strict=True):
        for name, values in mine.snapshot.items():
            torch.testing.assert_close(values, other.snapshot[name], rtol=1e-3, atol=1e-4)
