"""Refinement: a closed form, critical points with active kinks and the identities that hold there, and how it ends."""

import itertools
import math

import pytest
import torch
from torch import nn

from neurocollapse.networks import build_network, layer_weights
from neurocollapse.training import refine
from tests.modules import Model
from tests.training.runs import GAUSSIAN, corner, decayed, drawn

IMAGES, LABELS = GAUSSIAN.train.images, GAUSSIAN.train.labels


def mlp(depth=2, weight_decay=1e-3, width=8, network=None):
    torch.manual_seed(0)
    model = network or build_network("mlp", tuple(IMAGES.shape[1:]), 4, depth=depth, width=width)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    return decayed(model, IMAGES, LABELS, weight_decay)


def ridge():
    torch.manual_seed(0)
    return decayed(nn.Linear(8, 3, bias=False), drawn(60, 8), torch.arange(60) % 3, 0.05)


@pytest.fixture(scope="module")
def trained():
    """A network of two layers at a critical point, and the states on the way."""
    objective = mlp()
    return objective, list(refine(objective, history=200))


def test_a_linear_layer_ends_at_ridge_regression():
    objective = ridge()
    x, y = objective.inputs, nn.functional.one_hot(objective.labels, 3).double()
    expected = torch.linalg.solve(x.T @ x / 60 + 0.05 * torch.eye(8, dtype=torch.float64), x.T @ y / 60).T
    *_, last = refine(objective)
    assert last.status == "converged"
    assert last.kinks == 0
    assert last.kink_gap == 0
    assert last.gradient_norm == last.subgradient_norm <= 1e-8 * (1 + last.weight_norm)
    assert (last.point.view(3, 8) - expected).abs().max() < 1e-7


def test_it_converges_where_kinks_keep_the_gradient_from_vanishing(trained):
    _, (first, *_, last) = trained
    enough = 1e-8 * (1 + last.weight_norm)
    assert last.status == "converged"
    assert last.subgradient_norm <= enough
    assert last.kink_gap <= enough
    assert last.loss < first.loss / 5
    assert last.kinks > 10
    assert last.gradient_norm > 1e-5


def forward(objective):
    """Pre-activations, features and outputs of the network of two layers, with ReLUs."""
    hidden, classifier = layer_weights(objective.model).values()
    z = objective.inputs.flatten(1) @ hidden.detach().T
    return z, z.relu(), z.relu() @ classifier.detach().T


def test_at_the_end_the_identities_of_a_critical_point_hold(trained):
    objective, states = trained
    objective.move_to(states[-1].point)
    _, h, f = forward(objective)
    y = nn.functional.one_hot(objective.labels, 4).double()
    hidden, classifier = (weight.detach() for weight in layer_weights(objective.model).values())
    assert hidden.square().sum().item() == pytest.approx(classifier.square().sum().item(), rel=1e-6)
    torch.testing.assert_close(1e-3 * classifier, (y - f).T @ h / len(h), rtol=0, atol=1e-7)
    fit = ((f * y).sum() - f.square().sum()).item() / len(h)
    assert 1e-3 * classifier.square().sum().item() == pytest.approx(fit, abs=1e-7)
    # and at its start they do not
    objective.move_to(states[0].point)
    hidden, classifier = (weight.detach() for weight in layer_weights(objective.model).values())
    assert hidden.square().sum().item() != pytest.approx(classifier.square().sum().item(), rel=1e-2)


def test_the_slopes_of_a_subgradient_exist(trained):
    """Independently: s ∈ [0, 1] for the pre-activations at zero, by least squares, make the gradient vanish."""
    objective, states = trained
    objective.move_to(states[-1].point)
    z, _, f = forward(objective)
    hidden, classifier = (weight.detach() for weight in layer_weights(objective.model).values())
    y = nn.functional.one_hot(objective.labels, 4).double()
    signal = (f - y) @ classifier / len(y)
    x = objective.inputs.flatten(1)
    away = (z > 1e-6).double()
    for unit in range(len(hidden)):
        kinks = (z[:, unit].abs() <= 1e-6).nonzero().flatten()
        fixed = (away[:, unit] * signal[:, unit]) @ x + 1e-3 * hidden[unit]
        columns = (signal[kinks, unit][:, None] * x[kinks]).T
        slopes = torch.linalg.lstsq(columns, -fixed[:, None], driver="gelsd").solution[:, 0]
        assert (columns @ slopes + fixed).norm() < 1e-6
        if torch.linalg.matrix_rank(columns) == len(kinks):  # else they are not unique
            assert slopes.ge(-1e-3).all()
            assert slopes.le(1 + 1e-3).all()


def test_the_objective_is_left_at_the_state_and_states_are_kept_apart(trained):
    objective = mlp(width=6)
    points = []
    for state in itertools.islice(refine(objective), 4):
        assert torch.equal(objective.point, state.point)
        assert objective(state.point)[0] == state.loss
        points.append((state.point, state.point.clone()))
    assert all(torch.equal(point, kept) for point, kept in points)
    assert [state.iteration for state in trained[1][:3]] == [0, 20, 40]
    assert all(before.seconds < after.seconds for before, after in itertools.pairwise(trained[1]))
    assert [state.status for state in trained[1]] == ["going"] * (len(trained[1]) - 1) + ["converged"]


def test_what_the_caller_does_in_between_changes_nothing():
    undisturbed = [state.point for state in itertools.islice(refine(mlp(width=6)), 4)]
    objective = mlp(width=6)
    for state, expected in zip(refine(objective), undisturbed, strict=False):
        assert torch.equal(state.point, expected)
        state.point.zero_()
        objective.move_to(torch.zeros_like(objective.point))


def test_it_resumes_from_a_kept_point(trained):
    _, states = trained
    objective = mlp()
    objective.move_to(states[-4].point)
    first, *_, last = refine(objective, history=200)
    assert first.loss == states[-4].loss
    assert last.status == "converged"


def with_relu(relu):
    """The network of two layers, with `relu` between them."""
    torch.manual_seed(0)
    hidden, classifier = nn.Linear(16, 16, bias=False), nn.Linear(16, 4, bias=False)
    return Model(lambda self, x: self.classifier(relu(self.hidden(x.flatten(1)))), hidden=hidden, classifier=classifier)


@pytest.mark.parametrize(
    "relu",
    [torch.relu, nn.functional.relu, torch.Tensor.relu_, lambda z: nn.functional.relu(z, inplace=True)],
    ids=["torch.relu", "functional", "in place", "functional in place"],
)
def test_relus_are_found_however_they_are_called(relu):
    states = zip(refine(mlp(network=with_relu(relu))), refine(mlp(network=with_relu(nn.ReLU()))), strict=False)
    for state, expected in itertools.islice(states, 4):
        assert torch.equal(state.point, expected.point)
        assert state.kinks == expected.kinks
    assert expected.kinks > 0


def test_a_kink_that_is_no_relu_ends_as_stalled():
    *_, last = refine(corner(), patience=5)
    assert last.status == "stalled"
    assert last.loss == pytest.approx(1, abs=1e-6)
    assert last.kinks == 0
    assert last.gradient_norm == last.subgradient_norm > 0.9


def test_it_stops_at_the_limit():
    states = list(refine(mlp(), max_iterations=50, round_iterations=25))
    assert [(state.iteration, state.status) for state in states] == [(0, "going"), (25, "going"), (50, "limit")]


def test_a_critical_point_is_left_where_it_is():
    objective = ridge()
    *_, last = refine(objective)
    (again,) = refine(objective)
    assert (again.iteration, again.status) == (0, "converged")
    assert torch.equal(again.point, last.point)


@pytest.mark.slow
def test_a_deeper_network_and_a_convolutional_one_come_far():
    convolution = nn.Conv2d(1, 6, 3, stride=2, padding=1, bias=False)
    convolutional = nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), convolution, nn.ReLU(), nn.Flatten(), nn.Linear(24, 4, bias=False)
    )
    for objective in (mlp(depth=3, weight_decay=3e-3), mlp(network=convolutional, weight_decay=3e-3)):
        first, *_, last = refine(objective, max_iterations=500)
        norms = [weight.square().sum().item() for weight in layer_weights(objective.model).values()]
        assert last.subgradient_norm < 1e-3 * first.subgradient_norm
        assert max(norms) - min(norms) < 1e-2 * max(norms)


@pytest.mark.parametrize("argument", ["tolerance", "max_iterations", "round_iterations", "history", "patience"])
def test_arguments_that_are_not_positive_are_refused_at_once(argument):
    with pytest.raises(ValueError, match=f"{argument} must be positive and finite, got 0"):
        refine(ridge(), **{argument: 0.0 if argument == "tolerance" else 0})


def test_a_loss_that_is_not_finite_is_named():
    objective = ridge()
    objective.move_to(torch.full_like(objective.point, math.nan))
    with pytest.raises(FloatingPointError, match="L is nan after 0 iterations"):
        next(refine(objective))
