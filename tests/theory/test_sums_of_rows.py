"""Σ_c W^c under the cross-entropy: the whole run is known from its configuration and first weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import neurocollapse as nc
from neurocollapse.sweeps import verify_run
from neurocollapse.sweeps.resuming import execute
from neurocollapse.theory import SUMS
from neurocollapse.training import RunConfig, epochs, training_data
from neurocollapse.training.schedule import batches, decay_alone, decay_factor, learning_rate_at
from tests.modules import Model
from tests.training.runs import toy

RUN = RunConfig(dataset="gaussian", network="mlp", depth=3, width=9, loss="cross_entropy", weight_decay=0.1, epochs=6)
RUN = replace(RUN, per_class=10, batch_size=7, initial_norm=2.0, learning_rate=0.05)


def doubled(input_shape, num_classes):
    """An mlp in float64 for images in float32."""
    inner = nc.build_network("mlp", input_shape, num_classes, depth=3, width=9).double()
    return Model(lambda model, x: model.inner(x.double()), inner=inner)


def tied(input_shape, num_classes):
    """A network whose classifier's weight is also that of a layer below."""

    def forward(model, x):
        weight = model.classifier.weight
        return model.classifier(torch.relu(x @ weight.T) @ weight)

    return Model(forward, classifier=nn.Linear(input_shape[0], num_classes, bias=False))


@pytest.mark.parametrize("optimizer", ["sgd", "sgdw"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.0, "schedule": "constant"},
        {"momentum": 0.5, "schedule": "cosine", "decay_start": 30.0},
        {"schedule": "steps", "label_noise": 0.5, "batch_size": 13, "weight_decay": 2.0},
        {"until": "rest", "epochs": 2},
        {"weight_decay": 0.0},
    ],
    ids=str,
)
def test_every_record_of_a_run_in_float64_is_predicted(optimizer, options):
    config = replace(RUN, network=f"{__name__}:doubled", optimizer=optimizer, **options)
    records = [state.record for state in epochs(config) if state.record]
    sums = torch.tensor([record["classifier_sum"] for record in records], dtype=torch.float64)
    found = [record["epoch"] for record in records]
    factors = torch.tensor(decay_alone(config, found[-1], 40), dtype=torch.float64)[found]
    assert len(found) > 3
    assert torch.linalg.norm(sums - factors[:, None] * sums[0], dim=1).max() < 1e-10 * torch.linalg.norm(sums[0])
    wrong = torch.tensor(decay_alone(replace(config, weight_decay=config.weight_decay + 0.1), found[-1], 40))[found[-1]]
    assert abs(wrong - factors[-1]) > 1e-4  # so the test can fail


def test_the_prediction_is_the_recursion_step_by_step():
    config = replace(RUN, momentum=0.7, decay_start=5.0, schedule="linear")
    s, v, steps = 1.0, 0.0, 6
    for step in range(config.epochs * steps):
        v = 0.7 * v + 0.1 * decay_factor(config, step / (steps * config.epochs)) * s
        s -= learning_rate_at(config, step, steps) * v
    assert decay_alone(config, config.epochs, 40)[-1] == pytest.approx(s, rel=1e-13)


def test_steps_are_counted_as_they_are_taken():
    config = replace(RUN, normalization="batch", batch_size=13)
    assert [len(batches(each, 40, 1)) for each in (RUN, config, replace(config, normalization="none"))] == [6, 3, 4]


def test_nothing_is_predicted_where_the_weight_acts_elsewhere_too():
    with pytest.raises(nc.VerificationError, match="acts elsewhere in the network too"):
        nc.verify(nc.train(replace(RUN, network=f"{__name__}:tied", epochs=1)))


@pytest.mark.parametrize("optimizer", ["sgd", "sgdw"])
def test_verify_predicts_a_run_on_disk_and_in_memory(tmp_path, optimizer):
    config = replace(RUN, optimizer=optimizer, bias="all", normalization="batch")  # whatever lies below the classifier
    kept = nc.train(config, out=tmp_path).folder
    (of_gradient, *rows) = nc.verify(kept).sections[SUMS]
    assert of_gradient.residual < 1e-14
    assert [row.name for row in rows] == [f"‖Σ_c W^c‖ at epoch {record['epoch']}" for record in kept.records()]
    assert max(row.residual for row in rows) < 4e-6
    assert rows[-1].measured < 0.95 * rows[0].measured
    (_, last) = nc.verify(nc.train(config)).sections[SUMS]
    assert (last.predicted, last.measured) == pytest.approx((rows[-1].predicted, rows[-1].measured), rel=1e-12)


@pytest.mark.parametrize(("classes", "expected"), [(4, [0, 1, 2, 3, 4]), (12, [4])])
def test_an_older_run_starts_from_its_seed_and_compares_norms(tmp_path, classes, expected):
    """A snapshot keeps ten rows, so that of twelve only the last weights say the sum."""
    data = toy([6] * classes).train
    np.savez(tmp_path / "toy.npz", images=data.images, labels=data.labels)
    config = replace(RUN, dataset=str(tmp_path / "toy.npz"), per_class=None, epochs=4)
    folder = execute(config, training_data(config), tmp_path / "runs")
    records = folder.path / "records.jsonl"
    kept = [json.loads(line) for line in records.read_text().splitlines()]
    records.write_text(
        "".join(f"{json.dumps({k: v for k, v in line.items() if k != 'classifier_sum'})}\n" for line in kept)
    )
    (_, *rows) = verify_run(folder).sections[SUMS]
    assert [row.name for row in rows] == [f"‖Σ_c W^c‖ at epoch {epoch}" for epoch in expected]
    assert max(row.residual for row in rows) < 1e-5


def test_weights_that_are_tied_are_shown_to_break_it():
    shared = nn.Linear(4, 4, bias=False, dtype=torch.float64)
    torch.manual_seed(0)
    gradient = torch.autograd.grad(
        nn.functional.cross_entropy(shared(shared(torch.randn(8, 4).double())), torch.arange(8) % 4), shared.weight
    )[0]
    assert nc.theory.sum_of_gradients(gradient).residual > 0.01


@pytest.mark.parametrize("options", [{"optimizer": "adam"}, {"optimizer": "adamw"}, {"balancing": "epoch"}], ids=str)
def test_where_more_than_decay_moves_the_sum_nothing_is_predicted(tmp_path, options):
    config = replace(RUN, epochs=1, **options)
    folder = execute(config, training_data(config), tmp_path)
    (value,) = options.values()
    with pytest.raises(nc.VerificationError, match=rf"only Σ_c W\^c is predicted, with .*, and this one has {value}"):
        verify_run(folder, force=True)
