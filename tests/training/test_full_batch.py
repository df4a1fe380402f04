"""Eq. 1 on all data at once: its value and gradient against the definition, its decays, and that it is a copy."""

import copy

import pytest
import torch
from torch import nn

from neurocollapse.networks import build_network
from neurocollapse.training import FullBatch, full_batch
from neurocollapse.training.losses import square_loss
from tests.modules import Model
from tests.training.runs import drawn

DECAYS = {"features.0.weight": 0.3, "classifier.weight": 0.02}
INPUTS, LABELS = drawn(23, 6), torch.arange(23) % 3


@pytest.fixture
def model():
    """Parameters of both kinds, and one that does not train."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Linear(6, 5), nn.Tanh())
    features[0].bias.requires_grad_(False)
    return Model(lambda self, x: self.classifier(self.features(x)), features=features, classifier=nn.Linear(5, 3))


def naive(model, inputs, labels, decays):
    """L, sample by sample and weight by weight."""
    total = 0.0
    for x, label in zip(inputs, labels, strict=True):
        f = model(x[None])[0]
        total = total + sum((f[c] - float(c == label)) ** 2 for c in range(len(f))) / (2 * len(inputs))
    return total + sum(decays.get(name, 0.0) / 2 * (p**2).sum() for name, p in model.named_parameters())


def test_value_and_gradient_are_those_of_the_definition(model):
    objective = FullBatch(model, INPUTS, LABELS, DECAYS)
    value, gradient = objective(objective.point)
    twin = copy.deepcopy(model).double()
    expected = naive(twin, INPUTS, LABELS, DECAYS)
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-14)
    slopes = torch.cat([p.grad.flatten() for p in twin.parameters() if p.requires_grad])
    torch.testing.assert_close(gradient, slopes, rtol=1e-13, atol=1e-15)


def test_the_gradient_is_that_of_finite_differences(model):
    objective = FullBatch(model, INPUTS, LABELS, DECAYS)
    point, direction = objective.point, drawn(len(objective.point))
    _, gradient = objective(point)
    step = 1e-5
    rise = (objective(point + step * direction)[0] - objective(point - step * direction)[0]) / (2 * step)
    assert rise == pytest.approx((gradient @ direction).item(), rel=1e-8)


def test_the_data_term_is_what_remains_without_decay(model):
    value, gradient = FullBatch(model, INPUTS, LABELS, DECAYS).data_gradient()
    undecayed = FullBatch(model, INPUTS, LABELS, {})
    expected_value, expected_gradient = undecayed(undecayed.point)
    assert value == expected_value
    assert torch.equal(gradient, expected_gradient)


def test_a_parameter_decays_by_its_name_or_not_at_all(model):
    objective = FullBatch(model, INPUTS, LABELS, DECAYS)
    assert objective.decays == {"features.0.weight": 0.3, "classifier.weight": 0.02, "classifier.bias": 0.0}
    for name, entries in objective.split(objective.decay_vector).items():
        assert set(entries.flatten().tolist()) == {objective.decays[name]}


def test_what_does_not_train_is_no_variable(model):
    objective = FullBatch(model, INPUTS, LABELS, DECAYS)
    assert list(objective.parameters) == ["features.0.weight", "classifier.weight", "classifier.bias"]
    assert len(objective.point) == 5 * 6 + 3 * 5 + 3
    fixed = objective.model.features[0].bias.clone()
    objective.move_to(objective.point + 1)
    assert torch.equal(objective.model.features[0].bias, fixed)


def test_the_given_model_is_left_alone(model):
    model.train()
    before = copy.deepcopy(model.state_dict())
    objective = FullBatch(model, INPUTS, LABELS, DECAYS)
    objective(objective.point + 1)
    assert model.training
    assert not objective.model.training
    assert all(p.grad is None for p in model.parameters())
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])


def test_a_point_is_a_copy_and_goes_in_and_out_unchanged(model):
    objective = FullBatch(model, INPUTS, LABELS, DECAYS)
    point = objective.point
    point += 1
    assert not torch.equal(objective.point, point)
    objective.move_to(point)
    assert torch.equal(objective.point, point)
    for name, values in objective.split(point).items():
        assert torch.equal(values, dict(objective.model.named_parameters())[name])


@pytest.mark.parametrize("chunk", [1, 7, 23, 1000])
def test_chunks_make_no_difference(model, monkeypatch, chunk):
    objective = FullBatch(model, INPUTS, LABELS, DECAYS)
    value, gradient = objective(objective.point)
    monkeypatch.setattr(full_batch, "_CHUNK", chunk)
    chunked_value, chunked_gradient = objective(objective.point)
    assert chunked_value == pytest.approx(value, rel=1e-14)
    torch.testing.assert_close(chunked_gradient, gradient, rtol=1e-12, atol=1e-16)
    assert sum(len(labels) for _, labels in objective.chunks()) == 23
    assert max(len(labels) for _, labels in objective.chunks()) == min(chunk, 23)


def test_a_parameter_that_is_not_used_only_decays():
    parts = {"idle": nn.Parameter(torch.tensor([3.0])), "classifier": nn.Linear(6, 3, bias=False)}
    objective = FullBatch(Model(lambda self, x: self.classifier(x), **parts), INPUTS, LABELS, {"idle": 0.5})
    _, gradient = objective(objective.point)
    assert objective.split(gradient)["idle"].item() == 1.5


def test_it_computes_in_float64_from_inputs_of_any_type():
    torch.manual_seed(0)
    model = build_network("convnet", (1, 8, 8), 3)
    images = drawn(5, 1, 8, 8).float()
    labels = torch.arange(5) % 3
    objective = FullBatch(model, images, labels, {})
    value, gradient = objective(objective.point)
    assert gradient.dtype == torch.float64
    outputs = copy.deepcopy(model).double()(images.double())
    assert value == square_loss(outputs, labels).item() / 5


def test_the_square_loss_is_half_the_sum_of_squares():
    outputs = torch.tensor([[1.0, 2.0], [0.5, 0.0]])
    assert square_loss(outputs, torch.tensor([1, 0])).item() == (1 + 1 + 0.25 + 0) / 2
