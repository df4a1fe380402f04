"""Gradient flow against its laws, against a solution in closed form, and against gradient descent of small steps."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from neurocollapse import FlowError
from neurocollapse.networks import build_network
from neurocollapse.training import gradient_flow
from tests.training.runs import GAUSSIAN, corner, decayed, drawn

IMAGES, LABELS = GAUSSIAN.train.images, GAUSSIAN.train.labels


def mlp(depth, weight_decay):
    torch.manual_seed(depth)
    model = build_network("mlp", tuple(IMAGES.shape[1:]), 4, depth=depth, width=8)
    with torch.no_grad():  # layers of different norms, so that there is something to balance
        for factor, p in enumerate(model.parameters(), start=2):
            p.mul_(factor / 2)
    return decayed(model, IMAGES, LABELS, weight_decay)


def convolutional(weight_decay):
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False), nn.Conv2d(4, 6, 3, stride=2, bias=False)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(6, 3, bias=False))
    return decayed(model, drawn(30, 1, 6, 6), torch.arange(30) % 3, weight_decay)


NETWORKS = {f"mlp of depth {depth}": lambda decay, depth=depth: mlp(depth, decay) for depth in (2, 3, 5)}
NETWORKS["convnet"] = convolutional


def linear():
    torch.manual_seed(0)
    return decayed(nn.Linear(4, 3, bias=False), drawn(12, 4), torch.arange(12) % 3, 0.3)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_differences_between_layer_norms_decay_at_twice_lambda(network, weight_decay):
    first, *later = gradient_flow(NETWORKS[network](weight_decay), [0.0, 0.1, 0.2])
    for state in later:
        left = math.exp(-2 * weight_decay * state.time)
        for (a, b), (a0, b0) in zip(
            itertools.combinations(state.weight_norms, 2), itertools.combinations(first.weight_norms, 2), strict=True
        ):
            assert abs(a0 - b0) > 0.1
            assert a - b == pytest.approx((a0 - b0) * left, abs=2e-6)
    assert abs(later[-1].weight_norms[0] - first.weight_norms[0]) > 1e-3  # it is not for want of movement


@pytest.mark.parametrize("network", NETWORKS)
def test_the_loss_falls_at_the_rate_of_the_squared_gradient(network):
    moments, step = (0.05, 0.1), 1e-4
    times = [time for moment in moments for time in (moment - step, moment, moment + step)]
    states = list(gradient_flow(NETWORKS[network](0.01), times))
    losses = [state.loss for state in states]
    assert losses == sorted(losses, reverse=True)
    for before, now, after in zip(states[::3], states[1::3], states[2::3], strict=True):
        assert (after.loss - before.loss) / (2 * step) == pytest.approx(-(now.gradient_norm**2), rel=2e-3)


def closed_form(objective, time):
    """W(t) of one linear layer: dW/dt = −W(XᵀX/N + λI) + YᵀX/N, by the matrix exponential."""
    x, y = objective.inputs, nn.functional.one_hot(objective.labels, 3).double()
    hessian = x.T @ x / len(x) + objective.decays["weight"] * torch.eye(4, dtype=torch.float64)
    end = torch.linalg.solve(hessian, x.T @ y / len(x)).T
    start = objective.point.view(3, 4)
    return end + (start - end) @ torch.matrix_exp(-time * hessian)


def test_a_linear_layer_follows_the_matrix_exponential():
    objective = linear()
    times = [0.0, 0.01, 0.5, 2.0, 10.0]
    expected = [closed_form(objective, time) for time in times]
    states = list(gradient_flow(objective, times, rtol=1e-10, atol=1e-12))
    for state, weight in zip(states, expected, strict=True):
        assert (state.point.view(3, 4) - weight).abs().max() < 1e-8
    assert (states[0].point - states[-1].point).norm() > 0.1


def test_a_looser_tolerance_makes_a_larger_error_with_fewer_gradients():
    objective = linear()
    start, expected = objective.point, closed_form(objective, 2.0)
    errors, evaluations = [], []
    for rtol in (1e-4, 1e-6, 1e-8):
        objective.move_to(start)
        (state,) = gradient_flow(objective, [2.0], rtol=rtol, atol=rtol / 100)
        errors.append((state.point.view(3, 4) - expected).abs().max().item())
        evaluations.append(state.evaluations)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-7
    assert evaluations == sorted(evaluations)


def descend(objective, learning_rate, time):
    model = copy.deepcopy(objective.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, weight_decay=0.01)
    targets = nn.functional.one_hot(objective.labels, 4).double()
    for _ in range(round(time / learning_rate)):
        optimizer.zero_grad()
        ((model(objective.inputs) - targets).square().sum() / (2 * len(targets))).backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_gradient_descent_comes_nearer_in_proportion_to_its_learning_rate():
    objective = mlp(3, 0.01)
    coarse, fine, finer = (descend(objective, learning_rate, 1.0) for learning_rate in (8e-3, 4e-3, 2e-3))
    (state,) = gradient_flow(objective, [1.0])
    errors = [(point - state.point).norm().item() for point in (coarse, fine, finer)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)
    assert errors[2] < 0.01


def test_more_times_change_neither_the_end_nor_much_of_the_cost():
    (once,) = gradient_flow(mlp(3, 0.01), [0.5])
    *_, often = gradient_flow(mlp(3, 0.01), torch.linspace(0.05, 0.5, 10).tolist())
    assert (once.point - often.point).norm() < 1e-3  # the steps around the kinks differ
    assert often.evaluations < 2 * once.evaluations


def test_a_flow_resumes_from_a_kept_point():
    kept, whole = gradient_flow(mlp(3, 0.01), [0.5, 1.0])
    objective = mlp(3, 0.01)
    objective.move_to(kept.point)
    again, end = gradient_flow(objective, [0.5, 1.0], start=0.5)
    assert torch.equal(again.point, kept.point)
    assert end.time == 1.0
    assert (end.point - whole.point).norm() < 1e-3 < 0.1 < (end.point - kept.point).norm()


def test_the_objective_is_where_the_state_is_and_may_be_used_in_between():
    objective = mlp(2, 0.01)
    points = []
    for state in gradient_flow(objective, [0.0, 0.1, 0.2]):
        assert torch.equal(objective.point, state.point)
        value, gradient = objective(state.point)
        assert (value, gradient.norm().item()) == (state.loss, state.gradient_norm)
        points.append(state.point.clone())
        state.point.zero_()
        objective.move_to(torch.zeros_like(objective.point))
    undisturbed = [state.point for state in gradient_flow(mlp(2, 0.01), [0.0, 0.1, 0.2])]
    assert all(torch.equal(a, b) for a, b in zip(points, undisturbed, strict=True))


def test_states_come_one_by_one():
    flow = gradient_flow(linear(), [1.0, 1e12])  # the second would take for ever
    assert next(flow).time == 1.0


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1.0, 1.0], "must increase"),
        ([0.0, 0.0], "must increase"),
        ([2.0, 1.0], r"got 1 after 2; sort them"),
        ([-1.0], r"none before the start, got -1 after 0"),
        ([1.0, math.inf], "must be finite"),
        ([math.nan], "must be finite"),
    ],
)
def test_bad_times_are_refused_at_once(times, message):
    with pytest.raises(ValueError, match=message):
        gradient_flow(linear(), times)


def test_a_flow_onto_a_kink_is_said_to_stall():
    """Pushed to w = 0 from both sides, at the speed one."""
    with pytest.raises(FlowError, match=r"stalls at time 0\.40\d+: \d+ steps since the last time asked for"):
        list(gradient_flow(corner(), [10.0], max_steps=100))


def test_a_flow_that_needs_more_steps_than_allowed_says_so():
    with pytest.raises(FlowError, match="3 steps since the last time asked for, the next of length"):
        list(gradient_flow(mlp(3, 0.01), [10.0], max_steps=3))


def test_weights_that_are_not_finite_are_named():
    objective = linear()
    objective.move_to(torch.full_like(objective.point, math.nan))
    with pytest.raises(FlowError, match="are not finite"):
        list(gradient_flow(objective, [1.0]))
