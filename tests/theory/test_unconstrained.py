"""The unconstrained features model: closed forms against a solver that does not know them, and against known digits."""

import json
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

import neurocollapse as nc
from neurocollapse.theory import UnconstrainedModel, solve_convex, solve_unconstrained
from neurocollapse.theory.unconstrained.closed_forms import closed_form
from neurocollapse.theory.unconstrained.newton import minimize
from neurocollapse.theory.unconstrained.reduced import ReducedObjective
from neurocollapse.theory.unconstrained.solution import Solution
from tests.problems import Decay, free_bias, orthogonal_frame, orthogonality_gap, relu_features
from tests.theory.proximal import solve_convex_numerically


def model_of(num_classes: int, **changes: object) -> UnconstrainedModel:
    """Three samples of each class, and a little more room than is needed."""
    settings = {"per_class": 3, "num_features": num_classes + 2, "weight_decay": 5e-3, "feature_decay": 2e-3}
    return UnconstrainedModel(num_classes=num_classes, **settings | changes)


@cache
def solved(**changes: object) -> Solution:
    """Of ten classes with a bias that is free."""
    return solve_unconstrained(model_of(10, bias="free", **changes))


def worst(solution: Solution) -> float:
    assert solution.comparisons
    return max(comparison.residual for comparison in solution.comparisons)


def named(solution: Solution, name: str) -> float:
    return next(comparison.measured for comparison in solution.comparisons if comparison.name == name)


#: Every row of the table of closed forms; of a decayed bias both ranges, λ_b ≤ s/(1 − s) and beyond.
ROWS: dict[str, dict[str, object]] = {
    "square": {},
    "square, H ≥ 0": {"features": "relu"},
    "square, free bias": {"bias": "free"},
    "square, free bias, H ≥ 0": {"bias": "free", "features": "relu"},
    "square, weakly decayed bias": {"bias": "decayed", "bias_decay": 0.01},
    "square, strongly decayed bias": {"bias": "decayed", "bias_decay": 0.5},
    "square, decayed bias, H ≥ 0": {"bias": "decayed", "bias_decay": 0.5, "features": "relu"},
    "cross-entropy": {"loss": "cross_entropy"},
    "cross-entropy, free bias": {"loss": "cross_entropy", "bias": "free"},
    "cross-entropy, decayed bias": {"loss": "cross_entropy", "bias": "decayed", "bias_decay": 0.1},
    "cross-entropy, H ≥ 0": {"loss": "cross_entropy", "features": "relu"},
    "cross-entropy, free bias, H ≥ 0": {"loss": "cross_entropy", "features": "relu", "bias": "free"},
    "two linear layers": {"layers": 2},
    "three linear layers": {"layers": 3},
    "two linear layers, H ≥ 0": {"layers": 2, "features": "relu"},
}


@pytest.mark.parametrize("num_classes", [3, *(pytest.param(C, marks=pytest.mark.slow) for C in (4, 10))])
@pytest.mark.parametrize("row", ROWS)
def test_random_starts_reach_the_closed_form(row: str, num_classes: int) -> None:
    solution = solve_unconstrained(model_of(num_classes, **ROWS[row]), starts=4)
    assert worst(solution) < 1e-8
    assert solution.gradient_norm < 1e-10
    assert solution.loss == pytest.approx(min(solution.starts), rel=1e-14)
    expected = {"loss", "own output", "off-class output", "‖W^c‖²", "‖μ_c‖²", "nc3", "nc2_cosine_weight"}
    expected |= set() if solution.bias is None else {"bias"}
    assert expected <= {comparison.name for comparison in solution.comparisons}
    assert solution.measurement["nc1_trace_ratio"] < 1e-20
    assert not any("tolerance" in note for note in solution.notes)


@pytest.mark.parametrize("bias", ["none", "free"])
def test_a_hundred_classes(bias: str) -> None:
    decays = {"weight_decay": 5e-4, "feature_decay": 5e-4, "bias": bias}
    solution = solve_unconstrained(model_of(100, per_class=50, num_features=128, **decays))
    assert worst(solution) < 1e-8
    assert solution.gradient_norm < 1e-10
    assert solution.measurement["nc3"] == pytest.approx(orthogonality_gap(100) if bias == "none" else 0, abs=1e-6)


@pytest.mark.parametrize(("num_classes", "nc3"), [(3, 0.605811), (4, 0.5176381), (10, 0.3203645), (100, 0.1001256)])
def test_without_a_bias_nc3_stays_away_from_zero(num_classes: int, nc3: float) -> None:
    solution = solve_unconstrained(model_of(num_classes, weight_decay=1e-3, feature_decay=1e-3))
    assert solution.measurement["nc3"] == pytest.approx(math.sqrt(2 - 2 * math.sqrt(1 - 1 / num_classes)), abs=1e-6)
    assert solution.measurement["nc3"] == pytest.approx(nc3, abs=1e-6)
    assert solution.measurement["nc3_centered"] < 1e-6


@pytest.mark.parametrize("features", ["free", "relu"])
def test_with_a_free_bias_the_paper_holds(features: str) -> None:
    """Eq. 3, NC3, Σ_c W^c = 0 and 1ᵀf = 1, from the solution alone."""
    C, decay = 10, 5e-3
    solution = solved(features=features)
    gap = 1 - solution.class_outputs.diagonal().mean().item()
    predicted = (gap - C / (C - 1) * gap**2) / (C * decay)
    assert solution.weight.square().sum(dim=1).tolist() == pytest.approx([predicted] * C, rel=1e-8)
    assert solution.measurement["nc3"] < 1e-8
    assert solution.weight.sum(dim=0).norm() < 1e-9
    assert solution.class_outputs.sum(dim=1).tolist() == pytest.approx([1.0] * C, rel=1e-9)


def test_a_minimum_that_was_missed_is_noted() -> None:
    """Just below the jump to zero most single starts end in other local minima; which, rounding has a say in."""
    decays = {"weight_decay": 0.99 * 0.1289330231547853, "feature_decay": 1e-3}
    model = model_of(4, per_class=10, num_features=4, layers=3, **decays)
    single = [solve_unconstrained(model, seed=seed, starts=1) for seed in range(8)]
    missed = [solution.loss > closed_form(model).loss * 1.001 for solution in single]
    assert any(missed)
    assert [any("no start found the minimum" in note for note in solution.notes) for solution in single] == missed
    found = solve_unconstrained(model)
    assert found.loss == pytest.approx(closed_form(model).loss, rel=1e-9)
    assert not found.notes


def test_known_digits() -> None:
    """ε = √(C(C−1)nλ_Wλ_H) = 0.05196152 for C = 10, n = 3, λ_W = 5e-3, λ_H = 2e-3 with H ≥ 0 and a free bias."""
    solution = solved(features="relu")
    assert named(solution, "gap ε") == pytest.approx(0.05196152, abs=5e-9)
    assert closed_form(solution.model).gaps[0] == pytest.approx(0.05196152, abs=5e-9)


@pytest.mark.parametrize(
    ("problem", "changes"),
    [(orthogonal_frame, {}), (free_bias, {"bias": "free"}), (relu_features, {"bias": "free", "features": "relu"})],
)
def test_closed_forms_are_those_of_the_exact_problems(problem: object, changes: dict[str, object]) -> None:
    expected, optimum = problem(Decay(10, 3)).expected, closed_form(model_of(10, **changes))
    assert optimum.loss == pytest.approx(expected["loss"], rel=1e-14)
    assert optimum.gaps[0] == pytest.approx(expected["sqi_gap"], rel=1e-13)
    assert optimum.nc3 == pytest.approx(expected["nc3"], rel=1e-13)
    assert 10 * optimum.row_norms[0] == pytest.approx(expected["weight_norms"][0], rel=1e-13)
    assert optimum.nc2_cosine_weight == pytest.approx(expected["nc2_cosine_weight"], abs=1e-15)


def test_known_cross_entropy() -> None:
    """‖W‖² = ((C−1)/r) log((r − (C−1)λ_W)/λ_W), r = √(λ_W/(nλ_H)), L = log(1 + (C−1)e^{−rρ/(C−1)}) + λ_W ρ."""
    C, n, weight, features = 7, 4, 3e-3, 1e-3
    r = math.sqrt(weight / (n * features))
    rho = (C - 1) / r * math.log((r - (C - 1) * weight) / weight)
    model = model_of(C, per_class=n, weight_decay=weight, feature_decay=features, loss="cross_entropy")
    optimum = closed_form(model)
    assert C * optimum.row_norms[0] == pytest.approx(rho, rel=1e-13)
    loss = math.log(1 + (C - 1) * math.exp(-r * rho / (C - 1))) + weight * rho
    assert optimum.loss == pytest.approx(loss, rel=1e-13)


def naive_loss(model: UnconstrainedModel, W: Tensor, H: Tensor, b: Tensor | None) -> Tensor:
    """The objective, sample by sample."""
    total, sample = torch.zeros((), dtype=torch.float64), 0
    for c, count in enumerate(model.counts):
        for _ in range(count):
            f = W @ H[sample] if b is None else W @ H[sample] + b
            if model.loss == "square":
                total = total + sum((f[k] - float(k == c)) ** 2 for k in range(model.num_classes)) / 2
            else:
                total = total + torch.log(sum(torch.exp(f[k] - f[c]) for k in range(model.num_classes)))
            sample += 1
    loss = total / sample + model.weight_decay / 2 * (W**2).sum() + model.feature_decay / 2 * (H**2).sum()
    return loss if b is None or model.bias_decay is None else loss + model.bias_decay / 2 * (b**2).sum()


@pytest.mark.parametrize(
    "changes", [{}, {"bias": "decayed", "bias_decay": 0.05}, {"loss": "cross_entropy"}], ids=["none", "decayed", "CE"]
)
def test_plain_descent_on_every_sample_ends_there_too(changes: dict[str, object]) -> None:
    model = model_of(3, per_class=(3, 1, 2), weight_decay=2e-2, feature_decay=2e-2, **changes)
    generator = torch.Generator().manual_seed(3)
    W = torch.randn(3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    H = torch.randn(6, 5, generator=generator, dtype=torch.float64).requires_grad_()
    b = torch.zeros(3, dtype=torch.float64, requires_grad=True) if model.bias != "none" else None
    leaves = [W, H] if b is None else [W, H, b]
    optimizer = torch.optim.LBFGS(
        leaves, max_iter=300, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = naive_loss(model, W, H, b)
        loss.backward()
        return loss

    optimizer.step(closure)
    solution = solve_unconstrained(model)
    assert solution.loss == pytest.approx(closure().item(), rel=1e-11)
    outputs = H.detach() @ W.detach().T + (0 if b is None else b.detach())
    torch.testing.assert_close(outputs, solution.class_outputs[model.labels], atol=1e-6, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"loss": "cross_entropy", "bias": "decayed", "bias_decay": 0.3}])
@pytest.mark.parametrize("layers", [1, 3])
def test_reduced_derivatives_are_those_of_the_objective(layers: int, changes: dict[str, object]) -> None:
    model = model_of(3, per_class=(4, 1, 2), layers=layers, **changes)
    reduced = ReducedObjective(model)
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn(2, len(reduced.decays), generator=generator, dtype=torch.float64)

    def whole(vector: Tensor) -> Tensor:
        factors, stretched, bias = reduced.split(vector)
        return model.objective(factors, (stretched / reduced.stretch)[model.labels], bias)

    point, direction = reduced.at(x), torch.autograd.functional.hvp(whole, x, v)[1]
    assert point.value == pytest.approx(whole(x).item(), rel=1e-14)
    torch.testing.assert_close(point.gradient, torch.autograd.functional.jacobian(whole, x), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(point.hessian(v), direction, rtol=1e-12, atol=1e-13)


def test_the_objective_is_the_sum_over_samples() -> None:
    model = model_of(3, per_class=(2, 1, 3), bias="decayed", bias_decay=0.2)
    W, H, b = (torch.randn(*shape, dtype=torch.float64) for shape in ((3, 5), (6, 5), (3,)))
    assert model.objective([W], H, b).item() == pytest.approx(naive_loss(model, W, H, b).item(), rel=1e-13)
    other = replace(model, loss="cross_entropy")
    assert other.objective([W], H, b).item() == pytest.approx(naive_loss(other, W, H, b).item(), rel=1e-13)


# Thresholds, on both sides


@pytest.mark.parametrize(("minority", "collapses"), [(9, True), (11, False)])
def test_minority_collapse_exactly_below_the_threshold(minority: int, collapses: bool) -> None:
    """n_k ≤ N²λ_Wλ_H, with the decays such that the bound is 10."""
    counts = (40, 40, minority)
    decay = math.sqrt(10) / sum(counts)
    solution = solve_unconstrained(model_of(3, per_class=counts, weight_decay=decay, feature_decay=decay))
    assert worst(solution) < 1e-7
    outputs = solution.class_outputs.diagonal()
    for c, count in enumerate(counts):
        assert outputs[c].item() == pytest.approx(max(0.0, 1 - math.sqrt(10 / count)), abs=1e-8)
    assert (solution.weight[2].norm().item() < 1e-4) is collapses
    assert any("minority collapse of class 2" in note for note in solution.notes) is collapses


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("beyond", [0.98, 1.02])
def test_the_output_of_a_deep_linear_model_jumps(layers: int, beyond: float) -> None:
    """From (M−1)/M to 0 where (1 − x) x^{(M−1)/(M+1)} = N λ n^{−M/(M+1)} has x = (M−1)/M for its root."""
    M, C, n, x = layers, 4, 3, (layers - 1) / layers
    jump = (1 - x) * x ** ((M - 1) / (M + 1)) / (C * n) * n ** (M / (M + 1))
    decays = {"weight_decay": beyond * jump, "feature_decay": beyond * jump}
    solution = solve_unconstrained(model_of(C, num_features=12, layers=M, **decays))
    assert worst(solution) < 1e-7
    own = named(solution, "own output")
    if beyond > 1:
        assert abs(own) < 1e-8
        assert solution.loss == pytest.approx(0.5, rel=1e-12)
        assert any("everything collapses to zero" in note for note in solution.notes)
    else:
        assert x < own < x + 0.1
        assert solution.loss < 0.5
    others = [loss for loss in solution.starts if loss > solution.loss + 1e-6]
    assert others  # zero below the jump, and what is not zero above it, are local minima


@pytest.mark.parametrize("features", ["free", "relu"])
@pytest.mark.parametrize("bias", ["none", "free"])
@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
@pytest.mark.parametrize("strength", [0.98, 1.02])
def test_everything_collapses_beyond_a_decay(strength: float, loss: str, bias: str, features: str) -> None:
    C, n = 4, 5
    threshold = 1.0  # of s; with H ≥ 0 and W centred, that of s√(C/(C−1))
    if features == "relu" and (bias == "free" or loss == "cross_entropy"):
        threshold = math.sqrt((C - 1) / C)
    decay = strength * threshold / (C * math.sqrt(n))
    model = model_of(C, per_class=n, weight_decay=decay, feature_decay=decay, loss=loss, bias=bias, features=features)
    solution = solve_unconstrained(model, starts=3)
    collapses = strength > 1
    assert (solution.weight.norm().item() < 1e-5) is collapses
    assert any("everything collapses to zero" in note for note in solution.notes) is collapses
    assert worst(solution) < 1e-6
    assert math.isnan(solution.measurement["nc3"]) is collapses
    if collapses:
        at_zero = math.log(C) if loss == "cross_entropy" else 0.5 if bias == "none" else (C - 1) / (2 * C)
        assert solution.loss == pytest.approx(at_zero, rel=1e-10)


@pytest.mark.parametrize("features", ["free", "relu"])
def test_a_decayed_bias_lies_between_a_free_one_and_none(features: str) -> None:
    def loss(**changes: object) -> float:
        return closed_form(model_of(5, features=features, **changes)).loss

    losses = [loss(bias="decayed", bias_decay=decay) for decay in (1e-9, 1e-3, 0.1, 10.0, 1e9)]
    assert losses == sorted(losses)
    assert losses[0] == pytest.approx(loss(bias="free"), rel=1e-7)
    assert losses[-1] == pytest.approx(loss(), rel=1e-7)
    s = model_of(5).s
    for decay, exact in ((0.99 * s / (1 - s), True), (1.01 * s / (1 - s), False)):
        optimum = closed_form(model_of(5, bias="decayed", bias_decay=decay))
        assert (optimum.nc3 < 1e-9) is exact
        assert (abs(optimum.bias - 1 / (5 * (1 + decay))) < 1e-15) is exact
        assert closed_form(model_of(5, bias="decayed", bias_decay=decay, features="relu")).nc3 > 1e-3


def test_two_classes_with_a_free_bias_and_relu_features_have_many_optima() -> None:
    model = model_of(2, bias="free", features="relu")
    solutions = [solve_unconstrained(model, seed=seed, starts=1) for seed in range(4)]
    assert all(worst(solution) < 1e-8 for solution in solutions)
    assert closed_form(model).bias is None
    biases = [solution.bias[0].item() for solution in solutions]
    assert max(biases) - min(biases) > 0.01
    assert all("not unique" in solution.notes[0] for solution in solutions)


def test_fewer_features_than_classes_where_that_is_enough() -> None:
    assert worst(solve_unconstrained(model_of(5, num_features=4, bias="free"))) < 1e-8
    assert worst(solve_unconstrained(model_of(5, num_features=4, loss="cross_entropy"))) < 1e-8


# Where there is no closed form


@pytest.mark.parametrize(
    "changes",
    [
        {"per_class": (9, 5, 2), "loss": "cross_entropy"},
        {"per_class": (9, 5, 2), "bias": "free"},
        {"per_class": (9, 5, 2), "bias": "free", "features": "relu"},
        {"layers": 2, "bias": "free"},
        {"layers": 2, "loss": "cross_entropy", "features": "relu"},
    ],
)
def test_problems_without_a_closed_form_are_solved_all_the_same(changes: dict[str, object]) -> None:
    model = model_of(3, **changes)
    assert closed_form(model) is None
    solution = solve_unconstrained(model, starts=4)
    assert solution.gradient_norm < 1e-9
    assert solution.comparisons == ()
    global_at_once = model.layers == 1 and model.features == "free"  # every local minimum is global
    assert any("rests on the random starts alone" in note for note in solution.notes) != global_at_once
    assert f"{solution.class_outputs[0, 0].item():.9g}" in str(solution)
    assert "these numbers are the solver's alone" in str(solution)
    if model.features == "relu":
        assert solution.means.min() >= 0
    again = solve_unconstrained(model, seed=1, starts=4)
    assert again.loss == pytest.approx(solution.loss, rel=1e-9)


# The solution


def test_a_point_that_is_not_the_optimum_does_not_agree() -> None:
    solution = solve_unconstrained(model_of(4, bias="free"))
    off = replace(solution, means=1.01 * solution.means, loss=1.01 * solution.loss)
    residuals = {comparison.name: comparison.residual for comparison in off.comparisons}
    assert all(residuals[name] > 1e-3 for name in ("loss", "own output", "gap ε", "‖μ_c‖²", "Eq. 3: ‖W^c‖²"))


def test_starts_are_random_reproducible_and_reported() -> None:
    model = model_of(2, num_features=2, loss="cross_entropy", features="relu")
    solution, again, other = (solve_unconstrained(model, seed=seed, starts=6) for seed in (1, 1, 2))
    assert torch.equal(solution.weight, again.weight)
    assert solution.starts != other.starts
    assert len(solution.starts) == 6
    assert solution.loss == pytest.approx(closed_form(model).loss, rel=1e-10)
    assert max(solution.starts) > solution.loss + 0.1  # some starts end on a stationary point of H ≥ 0
    found = sum(loss < solution.loss + 1e-8 for loss in solution.starts)
    assert f"{found} of 6 random starts ended there" in str(solution)


def test_a_tolerance_out_of_reach_is_said() -> None:
    solution = solve_unconstrained(model_of(3), tolerance=1e-300)
    assert "the tolerance was not reached" in solution.notes[-1]
    assert solution.gradient_norm < 1e-14


def test_the_measurement_is_that_of_the_features() -> None:
    solution = solve_unconstrained(model_of(4, per_class=(5, 4, 3, 1), bias="decayed", bias_decay=0.2))
    measured = nc.measure(solution.features, solution.model.labels, solution.weight, solution.bias)
    assert {key: solution.measurement[key] for key in measured} == pytest.approx(dict(measured), rel=1e-9, abs=1e-12)
    assert solution.measurement["loss"] == pytest.approx(solution.loss, rel=1e-13)
    assert "loss" not in solve_unconstrained(model_of(3, loss="cross_entropy")).measurement


def test_the_product_of_the_layers_is_the_classifier() -> None:
    solution = solve_unconstrained(model_of(3, layers=3))
    assert len(solution.layers) == 3
    torch.testing.assert_close(solution.weight, solution.layers[2] @ solution.layers[1] @ solution.layers[0])
    norms = [layer.square().sum().item() for layer in solution.layers]
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-8)


def test_a_solution_as_text_and_as_numbers() -> None:
    solution = solve_unconstrained(model_of(4, bias="decayed", bias_decay=0.2))
    text = str(solution)
    assert "4 classes (3 each), 6 features, λ_W = 0.005, λ_H = 0.002, λ_b = 0.2" in text
    assert all(f"\n{comparison.name}" in text for comparison in solution.comparisons)
    values = json.loads(json.dumps(solution.to_dict()))
    assert values["model"]["num_classes"] == 4
    assert values["loss"] == solution.loss
    assert [row["name"] for row in values["comparisons"]] == [row.name for row in solution.comparisons]
    assert values["measurement"]["nc3"] == solution.measurement["nc3"]


# Newton's method


def test_bounds_hold_where_they_bind() -> None:
    """½ xᵀA x − bᵀx over x ≥ 0: the conditions x ≥ 0, g ≥ 0, x g = 0 are its solution."""
    generator = torch.Generator().manual_seed(0)
    root, b = torch.randn(12, 12, generator=generator).double(), torch.randn(12, generator=generator).double()
    A = root @ root.T + 0.1 * torch.eye(12, dtype=torch.float64)

    class Quadratic:
        def __init__(self, x: Tensor):
            self.vector, self.gradient = x, A @ x - b
            self.value = (x @ A @ x / 2 - b @ x).item()

        def hessian(self, direction: Tensor) -> Tensor:
            return A @ direction

    bounded = torch.ones(12, dtype=torch.bool)
    end = minimize(Quadratic, torch.ones(12, dtype=torch.float64), tolerance=1e-12, nonnegative=bounded)
    x, g = end.vector, A @ end.vector - b
    assert (x == 0).any()
    assert (x > 0).any()
    assert x.min() >= 0
    assert g.min() > -1e-12
    assert (x * g).abs().max() < 1e-12
    free = minimize(Quadratic, torch.ones(12, dtype=torch.float64), tolerance=1e-9)
    torch.testing.assert_close(free.vector, torch.linalg.solve(A, b), rtol=1e-6, atol=1e-8)


# The convex form


@pytest.mark.parametrize("counts", [(20, 10, 5, 1), (6, 6, 6), (1, 1)])
def test_the_convex_optimum_is_that_of_the_unconstrained_model(counts: tuple[int, ...]) -> None:
    decays = {"weight_decay": 3e-2, "feature_decay": 5e-2}
    convex = solve_convex(counts, **decays)
    assert convex.certificate == pytest.approx(1.0, abs=1e-12)
    assert abs(convex.duality_gap) < 1e-14
    model = model_of(len(counts), per_class=counts, **decays)
    assert convex.value == pytest.approx(closed_form(model).loss, rel=1e-13)
    solution = solve_unconstrained(model)
    assert convex.value == pytest.approx(solution.loss, rel=1e-13)
    torch.testing.assert_close(convex.outputs, solution.class_outputs.T, atol=1e-9, rtol=0)
    W, M = convex.factorize()
    assert W.shape == (len(counts), convex.rank)
    assert model.objective([W], M[model.labels]).item() == pytest.approx(convex.value, rel=1e-13)
    # the same by proximal steps on the whole matrix
    whole = torch.nn.functional.one_hot(model.labels).T.double()
    numerical = solve_convex_numerically(whole, **decays)
    torch.testing.assert_close(numerical.outputs, convex.outputs[:, model.labels], atol=1e-11, rtol=0)
    assert numerical.value == pytest.approx(convex.value, rel=1e-13)
    assert (numerical.rank, numerical.certificate) == (convex.rank, pytest.approx(1.0, abs=1e-10))


def test_the_certificate_refuses_what_is_not_optimal() -> None:
    convex = solve_convex((20, 10, 5, 1), weight_decay=3e-2, feature_decay=5e-2)
    small = replace(convex, outputs=0.9 * convex.outputs)
    assert small.certificate > 1.05
    assert small.duality_gap > 1e-4
    large = replace(convex, outputs=1.1 * convex.outputs)
    assert large.duality_gap > 1e-4
    for other in (small, large):  # the gap bounds how far it is from the optimum
        assert 0 < other.value - convex.value <= other.duality_gap


def test_targets_that_are_not_one_hot() -> None:
    """Z = U (S − Nτ)₊ Vᵀ from the singular value decomposition of any Y."""
    Y = torch.randn(5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    solution = solve_convex_numerically(Y, weight_decay=0.3, feature_decay=0.2)
    U, S, Vt = torch.linalg.svd(Y, full_matrices=False)
    torch.testing.assert_close(solution.outputs, U * (S - 9 * 0.06**0.5).clamp(min=0) @ Vt, atol=1e-11, rtol=0)
    assert solution.duality_gap < 1e-12


def test_a_decay_for_which_the_convex_optimum_is_zero() -> None:
    convex = solve_convex((4, 4), weight_decay=0.5, feature_decay=0.5)
    assert (convex.rank, convex.value) == (0, 0.5)
    assert convex.certificate < 1
    assert abs(convex.duality_gap) < 1e-15
    W, M = convex.factorize()
    assert (W.shape, M.shape) == ((2, 0), (2, 0))


def test_a_thousand_classes() -> None:
    convex = solve_convex([50] * 500 + [20] * 500, weight_decay=1e-4, feature_decay=1e-6)
    assert convex.rank == 1000
    assert convex.certificate == pytest.approx(1.0, abs=1e-11)
    assert abs(convex.duality_gap) < 1e-13


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 1}, "at least two classes, got 1; pass num_classes ≥ 2"),
        ({"per_class": (3, 2)}, "per_class has 2 sizes for 3 classes; pass one for each class"),
        ({"per_class": (3, 0, 2)}, "class 1 has 0 samples; pass per_class ≥ 1"),
        ({"per_class": 0}, "class 0 has 0 samples"),
        ({"loss": "hinge"}, "unknown loss 'hinge'; pass one of square, cross_entropy"),
        ({"bias": "yes"}, "unknown bias 'yes'; pass one of none, free, decayed"),
        ({"features": "gelu"}, "unknown features 'gelu'; pass one of free, relu"),
        ({"weight_decay": 0.0}, "weight_decay is 0.0; pass a positive finite number"),
        ({"weight_decay": 1e300}, r"weight_decay is 1e\+300; pass a number from 1e-60 to 1e\+60"),
        ({"feature_decay": 1e-320}, "feature_decay is 1e-320; pass a number from 1e-60"),
        (
            {"num_classes": 100_000, "num_features": 100_000},
            "100000 classes .* numbers; pass a problem of at most",
        ),
        ({"per_class": 10**10}, "make matrices of .* numbers; pass a problem of at most"),
        ({"layers": 10**6}, "layers = 1000000; pass layers ≥ 1 and ≤ 1000"),
        ({"feature_decay": -1e-3}, "feature_decay is -0.001; pass a positive finite number"),
        ({"feature_decay": math.nan}, "feature_decay is nan; pass a positive finite number"),
        ({"bias": "decayed", "bias_decay": math.inf}, "bias_decay is inf; pass a positive finite number"),
        ({"bias": "decayed"}, "bias_decay is None with bias 'decayed'; pass a bias_decay"),
        ({"bias_decay": 0.1}, "bias_decay is 0.1 with bias 'none'; pass a bias_decay with bias 'decayed' only"),
        ({"layers": 0}, "there is no classifier with layers = 0; pass layers ≥ 1"),
        ({"num_features": 2}, r"3 classes does not fit into 2 features; pass num_features ≥ 3 \(C; C − 1 suffices"),
        ({"num_features": 1, "bias": "free"}, "does not fit into 1 features; pass num_features ≥ 2$"),
    ],
)
def test_models_without_meaning_are_refused(changes: dict[str, object], message: str) -> None:
    settings = {"num_classes": 3, "per_class": 4, "num_features": 5, "weight_decay": 1e-2, "feature_decay": 1e-2}
    with pytest.raises(ValueError, match=message):
        UnconstrainedModel(**settings | changes)


def test_solvers_refuse_what_they_cannot_do() -> None:
    with pytest.raises(ValueError, match="nothing can be solved from 0 starts; pass 1 to 100000"):
        solve_unconstrained(model_of(3), starts=0)
    with pytest.raises(ValueError, match=r"tolerance is 0.0; pass a positive finite number"):
        solve_unconstrained(model_of(3), tolerance=0.0)
    with pytest.raises(ValueError, match="at least two classes, got 1; pass the size of each class"):
        solve_convex([3], weight_decay=0.1, feature_decay=0.1)
    with pytest.raises(ValueError, match="class 1 has 0 samples; pass sizes ≥ 1, or drop the class"):
        solve_convex([3, 0], weight_decay=0.1, feature_decay=0.1)
    with pytest.raises(ValueError, match=r"feature_decay is 0\.0; pass a positive finite number"):
        solve_convex([3, 1], weight_decay=0.1, feature_decay=0.0)
    with pytest.raises(ValueError, match="no convergence in 2 iterations; pass more iterations"):
        solve_convex_numerically(torch.eye(3).double(), weight_decay=0.1, feature_decay=0.1, iterations=2)


@pytest.mark.parametrize("options", [{}, {"bias": "free"}, {"loss": "cross_entropy"}, {"features": "relu"}], ids=str)
@pytest.mark.parametrize("below", [pytest.param(1e-4, marks=pytest.mark.slow), 1e-6, 1e-8, 0.0])
def test_near_the_decay_of_collapse_no_angle_of_rounding_is_shown(below: float, options: dict[str, str]) -> None:
    C, n, decay = 4, 5, 1e-2
    feature_decay = ((1 - below) / C) ** 2 / (n * decay)
    solution = solve_unconstrained(model_of(C, per_class=n, weight_decay=decay, feature_decay=feature_decay, **options))
    assert worst(solution) < 1e-3
    angles = [solution.measurement[key] for key in ("nc3", "nc2_cosine_weight", "nc2_equinorm", "nc2_etf")]
    known = {name for name in ("nc3", "cos(W^c, W^c')") if any(row.name == name for row in solution.comparisons)}
    if below == 1e-4:
        assert not any(map(math.isnan, angles))
        assert len(known) == 2
    else:
        assert all(map(math.isnan, angles))
        assert not known
    assert ("zero to the digits found" in str(solution)) is (below < 1e-4)
