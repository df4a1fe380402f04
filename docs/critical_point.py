"""Descends to a critical point of an mlp with a linear tail on 2,000 digits: python docs/critical_point.py [free|none].

The word is the classifier's bias, and free if there is none. It takes about twenty minutes of one core, and prints the
theory table there. LOG.md says under "a critical point on 2,000 digits" what each step is for.
"""

import copy
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

import neurocollapse as nc
from neurocollapse.networks import build_network
from neurocollapse.theory import table_of
from neurocollapse.training import FullBatch, training_data

CONFIG = nc.RunConfig.of_version(2, network="mlp", depth=5, width=64, linear_tail=3, per_class=200, weight_decay=1e-2)
#: Learning rate, batch and steps of each round of SGD.
SGD = ((0.1, 32, 25_000), (0.1, 256, 4_000), (0.01, 2_000, 300))
#: Steps in which the slopes move with the weights, before they move in rounds.
MOVING = 100
TOLERANCE = 1e-8

Weights = list[Tensor]  # W_1, …, W_L and the classifier's bias


class Relaxation(NamedTuple):
    """Units max_s s·z − (μ/2)(s − c)²: c of each sample and unit, and μ of each unit, by layer with ReLUs."""

    centres: list[Tensor]
    widths: list[Tensor]


@dataclass
class State:
    """L with relaxed units at a point, and what a product with its Hessian needs."""

    loss: float
    gradient: Tensor
    inputs: list[Tensor]
    pre_activations: list[Tensor]
    slopes: list[Tensor]
    curvatures: list[Tensor]
    errors: list[Tensor]


class Mlp:
    """L of an mlp of which the first `relus` hidden layers have ReLUs, as a function of one vector of weights.

    Without a `bias`, the one of the classifier stays zero.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, weight_decay: float, relus: int, bias: bool, weights: Weights):
        self.inputs, self.targets, self.weight_decay, self.relus = inputs, targets, weight_decay, relus
        self.bias = float(bias)
        self.shapes = [weight.shape for weight in weights]
        self.products = 0

    def on(self, inputs: Tensor, weights: Weights) -> "Mlp":
        """The same with weights of other shapes."""
        return Mlp(inputs, self.targets, self.weight_decay, self.relus, bool(self.bias), weights)

    def split(self, point: Tensor) -> Weights:
        pieces = point.split([shape.numel() for shape in self.shapes])
        return [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def evaluate(self, point: Tensor, units: Relaxation | None = None) -> State:
        """L and ∇L, with ReLUs if there are no `units`. Concave kinks have no curvature."""
        *weights, bias = self.split(point)
        inputs, pre, slopes, curvatures = [self.inputs], list[Tensor](), list[Tensor](), list[Tensor]()
        for layer, weight in enumerate(weights[:-1]):
            z = inputs[-1] @ weight.T
            if layer < self.relus:
                if units is None:
                    s, value, curvature = (z > 0).to(z.dtype), z.relu(), torch.zeros_like(z)
                else:
                    c, mu = units.centres[layer], units.widths[layer]
                    t = c + z / mu
                    s = t.clamp(0, 1)
                    value, curvature = s * z - mu / 2 * (s - c).square(), ((t > 0) & (t < 1)) / mu
                pre.append(z)
                slopes.append(s)
                curvatures.append(curvature)
                z = value
            inputs.append(z)
        residuals = inputs[-1] @ weights[-1].T + bias - self.targets
        error, errors, gradients = residuals / len(residuals), list[Tensor](), list[Tensor]()
        for layer in reversed(range(len(weights))):
            errors.insert(0, error)
            gradients.insert(0, error.T @ inputs[layer] + self.weight_decay * weights[layer])
            if layer:
                error = error @ weights[layer]
                if layer <= self.relus:
                    curvatures[layer - 1] = curvatures[layer - 1] * error.clamp_min(0)
                    error = error * slopes[layer - 1]
        squares = sum(weight.square().sum().item() for weight in weights)
        loss = residuals.square().sum().item() / (2 * len(residuals)) + self.weight_decay / 2 * squares
        return State(loss, flat([*gradients, self.bias * errors[-1].sum(0)]), inputs, pre, slopes, curvatures, errors)

    def product(self, point: Tensor, state: State, vector: Tensor) -> Tensor:
        """The Hessian of L at a point times a vector: the derivative of `evaluate` along it, written out."""
        self.products += 1
        (*weights, _), (*along, bias) = self.split(point), self.split(vector)
        moved: list[Tensor] = [torch.zeros_like(self.inputs)]
        turned = []
        for layer, direction in enumerate(along[:-1]):
            z = state.inputs[layer] @ direction.T
            if layer:
                z = z + moved[-1] @ weights[layer].T
            if layer < self.relus:
                turned.append(z * state.curvatures[layer])
                z = z * state.slopes[layer]
            moved.append(z)
        error = (state.inputs[-1] @ along[-1].T + moved[-1] @ weights[-1].T + bias) / len(self.inputs)
        results = [self.bias * error.sum(0)]
        for layer in reversed(range(len(weights))):
            result = error.T @ state.inputs[layer] + self.weight_decay * along[layer]
            if layer:
                result = result + state.errors[layer].T @ moved[layer]
                error = error @ weights[layer] + state.errors[layer] @ along[layer]
                if layer <= self.relus:
                    error = error * state.slopes[layer - 1] + turned[layer - 1]
            results.insert(0, result)
        return flat(results)


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def preconditioner(mlp: Mlp, point: Tensor, state: State, damping: float) -> Callable[[Tensor], Tensor]:
    """Inverts Kronecker factors of each layer: Gauss–Newton and kinks on one side, Σ hhᵀ on the other."""
    *weights, _ = mlp.split(point)
    samples, classes = mlp.targets.shape
    jacobian = torch.eye(classes).expand(samples, classes, classes) / math.sqrt(samples)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for layer in reversed(range(len(weights))):
        rows = jacobian.flatten(0, 1)
        outer = rows.T @ rows / samples
        if layer < mlp.relus:
            outer += torch.diag(state.curvatures[layer].mean(0))
        a, u = torch.linalg.eigh(state.inputs[layer].T @ state.inputs[layer])
        b, v = torch.linalg.eigh(outer)
        scale = 1 / (b[:, None].clamp_min(0) * a.clamp_min(0) + mlp.weight_decay + damping)
        parts.insert(0, (u, v, scale))
        jacobian = jacobian @ weights[layer]
        if 0 < layer <= mlp.relus:
            jacobian = jacobian * state.slopes[layer - 1][:, None]

    def inverse(vector: Tensor) -> Tensor:
        *pieces, bias = mlp.split(vector)
        solved = [v @ ((v.T @ piece @ u) * scale) @ u.T for piece, (u, v, scale) in zip(pieces, parts, strict=True)]
        return flat([*solved, bias])

    return inverse


def newton_direction(
    mlp: Mlp, point: Tensor, state: State, damping: float, tolerance: float, most: int
) -> tuple[Tensor, bool]:
    """CG for (H + η) d = −∇L, and whether it met negative curvature, where it stops with what it has."""
    inverse = preconditioner(mlp, point, state, damping)
    d, r = torch.zeros_like(point), -state.gradient
    p = z = inverse(r)
    first = rz = (r @ z).item()
    for iteration in range(most):
        hp = mlp.product(point, state, p) + damping * p
        curvature = (p @ hp).item()
        if curvature <= 1e-12 * (p @ p).item():
            return (d if iteration else p), True
        d, r = d + rz / curvature * p, r - rz / curvature * hp
        z = inverse(r)
        before, rz = rz, (r @ z).item()
        if rz <= tolerance**2 * first:
            break
        p = z + rz / before * p
    return d, False


class Descent:
    """Newton's method with Levenberg's damping on L with relaxed units, whose slopes become the next centres."""

    def __init__(self, mlp: Mlp, point: Tensor):
        self.mlp, self.point = mlp, point
        self.slopes = mlp.evaluate(point).slopes
        self.damping, self.width = 1e-3, 0.1

    def relaxation(self) -> Relaxation:
        pre = self.mlp.evaluate(self.point).pre_activations
        sizes = [z.square().mean(0).sqrt().clamp_min(1e-300) for z in pre]
        return Relaxation(self.slopes, [self.width * size for size in sizes])

    def step(self, units: Relaxation, state: State, tolerance: float) -> tuple[State, list[Tensor], float]:
        """Moves by a fraction of Newton's step: the state there, the slopes after the whole step, and the fraction."""
        d, negative = newton_direction(self.mlp, self.point, state, self.damping, tolerance, 200)
        slope = (state.gradient @ d).item()
        whole = state.slopes
        fraction = 1.0
        for _ in range(12):
            tried = self.mlp.evaluate(self.point + fraction * d, units)
            whole = tried.slopes if fraction == 1 else whole
            change = tried.loss - state.loss
            if abs(slope) <= 1e-8 * state.loss:  # the losses are equal to rounding
                change = fraction * ((state.gradient + tried.gradient) @ d).item() / 2
            if change <= 1e-4 * fraction * slope:
                break
            fraction /= 2
        else:
            tried, fraction = state, 0.0
        self.point = self.point + fraction * d
        if negative or fraction < 0.25:
            self.damping = min(4 * self.damping, 0.1)
        elif fraction == 1:
            self.damping = max(self.damping / 2, 1e-7)
        return tried, whole, fraction

    def move(self) -> None:
        """One step, in which the slopes move by the same fraction as the weights."""
        units = self.relaxation()
        _, whole, fraction = self.step(units, self.mlp.evaluate(self.point, units), 0.1)
        self.slopes = [c + fraction * (s - c) for c, s in zip(self.slopes, whole, strict=True)]
        if fraction == 1:
            self.width *= 0.85
        elif fraction < 0.3:
            self.width = min(self.width / 0.85, 0.1)

    def round(self, most: int = 25) -> None:
        """Steps at fixed centres until the gradient is a tenth of what it was."""
        units = self.relaxation()
        state = self.mlp.evaluate(self.point, units)
        first, steps = state.gradient.norm().item(), 0
        while steps < most and (norm := state.gradient.norm().item()) > 0.1 * first:
            state, _, _ = self.step(units, state, min(0.1, 0.01 + 0.1 * norm / first))
            steps += 1
        self.slopes = state.slopes
        self.width = max(self.width / 2, 1e-4) if steps <= 6 else self.width * (1.5 if steps == most else 1)

    def residuals(self) -> tuple[float, float, int]:
        """‖∇L‖ with the slopes, the kink gap, and the number of kinks."""
        held = Relaxation(self.slopes, [torch.full_like(s[0], 1e300) for s in self.slopes])  # s = c for every z
        state = self.mlp.evaluate(self.point)
        gap = max(
            (s * z - z.relu()).abs().max().item() for s, z in zip(self.slopes, state.pre_activations, strict=True)
        )
        kinks = sum(int(((s > 0) & (s < 1)).sum()) for s in self.slopes)
        return self.mlp.evaluate(self.point, held).gradient.norm().item(), gap, kinks


def sgd(mlp: Mlp, point: Tensor, rate: float, batch: int, steps: int) -> Tensor:
    """SGD with momentum 0.9 in float32, annealed linearly to zero."""
    generator = torch.Generator().manual_seed(0)
    inputs, targets = mlp.inputs.float(), mlp.targets.float()
    weights = [weight.float().clone() for weight in mlp.split(point)]
    velocities = [torch.zeros_like(weight) for weight in weights]
    small = Mlp(inputs, targets, mlp.weight_decay, mlp.relus, bool(mlp.bias), weights)
    batches: list[Tensor] = []
    for step in range(steps):
        batches = batches or list(torch.randperm(len(inputs), generator=generator).split(batch))
        chosen = batches.pop()
        small.inputs, small.targets = inputs[chosen], targets[chosen]
        gradients = small.split(small.evaluate(flat(weights)).gradient.float())
        for weight, velocity, gradient in zip(weights, velocities, gradients, strict=True):
            weight.sub_(velocity.mul_(0.9).add_(gradient), alpha=rate * (1 - step / steps))
    return flat(weights).double()


def without_dead_units(weights: Weights) -> tuple[Weights, list[Tensor]]:
    """Takes out the units that decay has killed and balances the others: the weights, and the units kept by layer."""
    weights, kept = list(weights), []
    for layer in range(len(weights) - 2):
        size = weights[layer].norm(dim=1) * weights[layer + 1].norm(dim=0)
        kept.append((size > 1e-4 * size.max()).nonzero().flatten())
        weights[layer], weights[layer + 1] = weights[layer][kept[-1]], weights[layer + 1][:, kept[-1]]
    for _ in range(30):
        for layer in range(len(weights) - 2):
            factors = (weights[layer + 1].norm(dim=0) / weights[layer].norm(dim=1)).sqrt()
            weights[layer], weights[layer + 1] = weights[layer] * factors[:, None], weights[layer + 1] / factors
    return weights, kept


def descend(mlp: Mlp, point: Tensor, rounds: int = 40) -> Descent:
    """Steps whose slopes move along, then rounds, until the point is critical or `rounds` are over."""
    descent = Descent(mlp, point)
    for step in range(MOVING + rounds):
        descent.move() if step < MOVING else descent.round()
        if step >= MOVING or step % 10 == 9:
            gradient, gap, kinks = descent.residuals()
            loss = mlp.evaluate(descent.point).loss
            print(f"{step + 1}: {mlp.products} products, L = {loss:.12f}", end=", ")
            print(f"{gradient:.1e} with slopes, gap {gap:.1e}, {kinks} kinks", flush=True)
            if max(gradient, gap) <= TOLERANCE * (1 + descent.point.norm().item()):
                break
    return descent


def main(bias: bool) -> None:
    torch.set_default_dtype(torch.float64)
    data = training_data(CONFIG, None).train
    shape, width = tuple(data.images.shape[1:]), CONFIG.width
    inputs = data.images.flatten(1).double()
    targets = torch.nn.functional.one_hot(data.labels, 10).double()
    torch.manual_seed(CONFIG.seed)
    sizes = [(width, inputs.shape[1]), *[(width, width)] * (CONFIG.depth - 2), (10, width)]
    weights = [CONFIG.initial_norm * torch.nn.functional.normalize(torch.randn(size), dim=(0, 1)) for size in sizes]
    weights.append(torch.zeros(10))
    relus = CONFIG.depth - 1 - CONFIG.linear_tail
    mlp = Mlp(inputs, targets, CONFIG.weight_decay, relus, bias, weights)
    point = flat(weights)
    for rate, batch, steps in SGD:
        point = sgd(mlp, point, rate, batch, steps)
        print(f"after {steps} steps of SGD, batch {batch}: L = {mlp.evaluate(point).loss:.8f}", flush=True)
    reduced, kept = without_dead_units(mlp.split(point))
    basis = torch.linalg.svd(inputs, full_matrices=False).Vh[: int(torch.linalg.matrix_rank(inputs))]
    reduced[0] = reduced[0] @ basis.T
    descent = descend(mlp.on(inputs @ basis.T, reduced), flat(reduced))

    found = copy.copy(descent.mlp.split(descent.point))
    found[0] = found[0] @ basis
    whole = [torch.zeros(shape) for shape in mlp.shapes]
    whole[-1] = found.pop()
    every = [torch.arange(inputs.shape[1]), *kept, torch.arange(10)]
    for layer, weight in enumerate(found):
        whole[layer][every[layer + 1][:, None], every[layer]] = weight
    model = build_network("mlp", shape, 10, depth=CONFIG.depth, width=width, linear_tail=CONFIG.linear_tail, bias=bias)
    decays = {name: CONFIG.weight_decay for name, _ in model.named_parameters() if not name.endswith("bias")}
    objective = FullBatch(model, data.images, data.labels, decays)
    objective.move_to(flat(whole if bias else whole[:-1]))
    print(table_of(objective, force=False))


if __name__ == "__main__":
    main(bias=sys.argv[1:] != ["none"])
