"""One step of training: PyTorch's own optimisers to the last digits, alone and stacked."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from neurocollapse.training.precision import products_in
from neurocollapse.training.step import OPTIMIZERS, Pace, along, fresh_moments, orthogonalized, step


class Muon(torch.optim.SGD):
    """By singular values: Nesterov's momentum of g + λW, whose singular values the quintic takes towards 1 three times,
    at Frobenius norm 1."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            (weight,) = group["params"]
            descent = weight.grad + group["weight_decay"] * weight
            velocity = self.state[weight].setdefault("velocity", torch.zeros_like(weight))
            velocity.mul_(group["momentum"]).add_(descent)
            descent = descent + group["momentum"] * velocity
            U, S, Vh = torch.linalg.svd(descent.view(len(weight), -1), full_matrices=False)
            S = quintic(S / torch.linalg.norm(S))
            weight -= group["lr"] * ((U * S) @ Vh).view_as(weight) / torch.linalg.norm(S)


def quintic(S):
    for _ in range(3):
        S = 3.4445 * S - 4.7750 * S**3 + 2.0315 * S**5
    return S


class SGDW(torch.optim.SGD):
    """The weights shrink by 1 − ηλ beside a step of SGD without decay, as in AdamW (Loshchilov and Hutter, 2019)."""

    @torch.no_grad()
    def step(self):
        decays = [group["weight_decay"] for group in self.param_groups]
        for group, decay in zip(self.param_groups, decays, strict=True):
            group["weight_decay"] = 0.0
            for weight in group["params"]:
                weight -= group["lr"] * decay * weight
        super().step()
        for group, decay in zip(self.param_groups, decays, strict=True):
            group["weight_decay"] = decay


TWINS = {"sgd": torch.optim.SGD, "sgdw": SGDW, "muon": Muon, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
STEPS = 20
#: Changes at every step, as under a schedule, and once rises.
RATES = [0.02 * (1 - index / (STEPS + 1)) + (0.01 if index == 7 else 0.0) for index in range(STEPS)]
SHAPES = {"first": (5, 6), "last": (3, 5), "bias": (3,)}


@dataclass(frozen=True)
class Problem:
    """A run: its weights, λ of each, batches of its own, and how far it has come before."""

    seed: int
    decay: float = 0.03
    scale: float = 1.0
    before: int = 0
    dtype: torch.dtype = torch.float64

    @property
    def decays(self):
        return {"first": self.decay, "last": self.decay, "bias": 0.0}  # the bias is free

    @property
    def rates(self):
        return [self.scale * rate for rate in RATES]

    def weights(self):
        generator = torch.Generator().manual_seed(self.seed)
        return {n: torch.randn(s, generator=generator, dtype=torch.float64).to(self.dtype) for n, s in SHAPES.items()}

    def batch(self, index):
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        images = torch.randn(7, 6, generator=generator, dtype=torch.float64).to(self.dtype)
        return images, torch.randint(3, (7,), generator=generator)


def loss(weights, images, labels):
    outputs = torch.relu(images @ weights["first"].mT) @ weights["last"].mT + weights["bias"]
    return nn.functional.cross_entropy(outputs, labels)


def leaves(weights):
    return {name: value.clone().requires_grad_() for name, value in weights.items()}


def by_hand(problem, optimizer, momentum=0.9):
    """The weights and data terms of every step."""
    weights = leaves(problem.weights())
    moments = fresh_moments(optimizer, {name: weight.detach() for name, weight in weights.items()})
    decays = {name: torch.tensor(decay, dtype=problem.dtype) for name, decay in problem.decays.items()}
    counts = torch.arange(1 + problem.before, STEPS + 1 + problem.before, dtype=torch.float64)
    rates = torch.tensor(problem.rates, dtype=problem.dtype)
    pace = Pace(rates, torch.ones_like(rates), counts)
    path = []
    for index in range(STEPS):
        value = step(
            loss, weights, moments, *problem.batch(index),
            pace=pace.at(index), decays=decays, optimizer=optimizer, momentum=momentum,
        )  # fmt: skip
        path.append(({name: weight.detach().clone() for name, weight in weights.items()}, value.clone()))
    return path


def by_torch(problem, optimizer, momentum=0.9):
    weights = leaves(problem.weights())
    adaptive = {"betas": (momentum, 0.999), "eps": 1e-8}
    options = adaptive if "adam" in optimizer else {"momentum": momentum}
    groups = [{"params": [weight], "weight_decay": problem.decays[name]} for name, weight in weights.items()]
    twin = TWINS[optimizer](groups, lr=1.0, **options)
    path = []
    for index, rate in enumerate(problem.rates):
        for group in twin.param_groups:
            group["lr"] = rate
        twin.zero_grad()
        value = loss(weights, *problem.batch(index))
        value.backward()
        twin.step()
        path.append(({name: weight.detach().clone() for name, weight in weights.items()}, value.detach()))
    return path


def test_every_optimizer_has_a_twin():
    assert OPTIMIZERS.keys() == TWINS.keys()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.03])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_is_that_of_pytorchs_optimizer(optimizer, decay, momentum):
    problem = Problem(seed=1, decay=decay)
    for (weights, value), (expected, its) in zip(
        by_hand(problem, optimizer, momentum), by_torch(problem, optimizer, momentum), strict=True
    ):
        torch.testing.assert_close(value, its, rtol=1e-12, atol=1e-13)
        for name in SHAPES:
            torch.testing.assert_close(weights[name], expected[name], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rate_decay_and_momentum_each_make_another_path(optimizer):
    last = by_hand(Problem(seed=1), optimizer)[-1][0]
    for other, options in (
        (Problem(seed=1, scale=1.001), {}),
        (Problem(seed=1, decay=0.031), {}),
        (Problem(seed=1), {"momentum": 0.899}),
    ):
        assert (by_hand(other, optimizer, **options)[-1][0]["first"] - last["first"]).abs().max() > 1e-7


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_in_float32_is_pytorchs_bit_for_bit(momentum):
    problem = Problem(seed=2, dtype=torch.float32)
    for (weights, _), (expected, _) in zip(
        by_hand(problem, "sgd", momentum), by_torch(problem, "sgd", momentum), strict=True
    ):
        assert all(torch.equal(weights[name], expected[name]) for name in SHAPES)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_first_steps_of_adam_in_float32_have_the_digits_of_float32(optimizer):
    """1 − β₂ᵗ taken in float32 would be wrong in the fifth digit, and with it the first steps."""
    exact, rounded = (by_hand(Problem(seed=3, dtype=dtype), optimizer) for dtype in (torch.float64, torch.float32))
    start = Problem(seed=3).weights()
    for name in SHAPES:
        moved, expected = rounded[0][0][name].double() - start[name].float().double(), exact[0][0][name] - start[name]
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-5 * RATES[0])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_runs_stacked_are_each_alone(optimizer):
    """The law that all of training many at once rests on: rate, decay and count are each run's own."""
    problems = [
        Problem(seed=1),
        Problem(seed=2, decay=0.0, scale=3.0),
        Problem(seed=3, decay=0.5, scale=0.1, before=5),
        Problem(seed=1, decay=0.2),
    ]
    alone = [by_hand(problem, optimizer) for problem in problems]
    each = [problem.weights() for problem in problems]
    weights = leaves({name: torch.stack([of_one[name] for of_one in each]) for name in SHAPES})
    moments = fresh_moments(optimizer, {name: weight.detach() for name, weight in weights.items()})
    decays = {name: torch.tensor([p.decays[name] for p in problems], dtype=torch.float64) for name in SHAPES}
    counts = torch.stack([torch.arange(1 + p.before, STEPS + 1 + p.before, dtype=torch.float64) for p in problems])
    rates = torch.tensor([p.rates for p in problems], dtype=torch.float64)
    pace = Pace(rates, torch.ones_like(rates), counts)
    for index in range(STEPS):
        batches = [problem.batch(index) for problem in problems]
        images, labels = (torch.stack(parts) for parts in zip(*batches, strict=True))
        values = step(
            torch.func.vmap(loss), weights, moments, images, labels,
            pace=pace.at(index), decays=decays, optimizer=optimizer, momentum=0.9,
        )  # fmt: skip
        assert values.shape == (len(problems),)
        for place, path in enumerate(alone):
            expected, value = path[index]
            torch.testing.assert_close(values[place], value, rtol=1e-12, atol=1e-13)
            for name in SHAPES:
                torch.testing.assert_close(weights[name][place].detach(), expected[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 7), (7, 1), (2, 3, 5)])
def test_orthogonalisation_keeps_singular_vectors_and_takes_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    S = quintic(S / torch.linalg.norm(S, dim=-1, keepdim=True))
    torch.testing.assert_close(orthogonalized(matrix), (U * S[..., None, :]) @ Vh, rtol=1e-12, atol=1e-12)
    assert not orthogonalized(torch.zeros(shape)).any()


@pytest.mark.parametrize("condition", [1.0, 1e-2, 1e-4])
def test_bfloat16_leaves_orthogonalisation_a_way_down(condition):
    """Of singular values from 1 to `condition`: within a tenth, and as much downhill to a hundredth."""
    generator = torch.Generator().manual_seed(0)
    U, _, Vh = torch.linalg.svd(torch.randn(20, 90, generator=generator, dtype=torch.float64), full_matrices=False)
    S = torch.logspace(0, math.log10(condition), 20, dtype=torch.float64)
    with products_in("bfloat16", "cpu"):
        found = orthogonalized(((U * S) @ Vh).float()).double()
    values = U.mT @ found @ Vh.mT
    exact = quintic(S / torch.linalg.norm(S))
    assert torch.linalg.norm(values - torch.diag(exact)) < 0.1 * torch.linalg.norm(exact)
    downhill = (values.diagonal() * S).sum() / torch.linalg.norm(found)
    assert downhill.item() == pytest.approx(((exact * S).sum() / torch.linalg.norm(exact)).item(), rel=0.01)


def test_every_step_of_muon_has_the_length_of_its_rate_and_goes_down():
    problem = Problem(seed=4)
    weights, value = leaves(problem.weights()), loss(problem.weights(), *problem.batch(0))
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    moments = fresh_moments("muon", before)
    decays = dict.fromkeys(SHAPES, torch.tensor(0.0, dtype=torch.float64))
    one = torch.tensor(1.0, dtype=torch.float64)
    pace = Pace(1e-3 * one, one, one)
    step(loss, weights, moments, *problem.batch(0), pace=pace, decays=decays, optimizer="muon", momentum=0.9)
    for name in SHAPES:
        assert torch.linalg.norm(weights[name].detach() - before[name]).item() == pytest.approx(1e-3, rel=1e-9)
    assert loss(weights, *problem.batch(0)) < value


def test_a_step_from_nowhere_to_go_stays():
    weights = leaves({"first": torch.zeros(2, 3)})
    pace = Pace(*[torch.tensor(1.0)] * 3)
    for optimizer in OPTIMIZERS:
        moments = fresh_moments(optimizer, {"first": weights["first"].detach()})
        step(
            lambda weights, *_: 0 * weights["first"].sum(), weights, moments, torch.zeros(1), torch.zeros(1).long(),
            pace=pace, decays={"first": torch.tensor(0.1)}, optimizer=optimizer, momentum=0.9,
        )  # fmt: skip
        assert not weights["first"].any()


def test_moments_begin_at_zero_and_are_not_the_weights():
    weights = Problem(seed=1).weights()
    for optimizer, (kinds, _) in OPTIMIZERS.items():
        moments = fresh_moments(optimizer, weights)
        assert tuple(moments) == kinds
        for of_kind in moments.values():
            assert {name: moment.shape for name, moment in of_kind.items()} == {n: w.shape for n, w in weights.items()}
            assert not any(moment.any() for moment in of_kind.values())


def test_a_value_for_each_run_stands_along_its_weights():
    values = torch.tensor([2.0, 3.0])
    assert along(values, torch.zeros(2, 4, 5)).shape == (2, 1, 1)
    assert along(values, torch.zeros(2)).shape == (2,)
    assert along(values[0], torch.zeros(4, 5)).shape == ()
