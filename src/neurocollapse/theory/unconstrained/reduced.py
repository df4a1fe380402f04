"""The objective as a function of layers, class means and bias, with its exact first and second derivatives."""

import math
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .problem import UnconstrainedModel


class ReducedObjective:
    """The objective as a function of one vector: the layers, the class means and the bias, in this order.

    Given the layers and the bias, the features of a sample minimise a strictly convex function that is the same for all
    samples of its class. So they coincide at every minimum, and H repeats the class means M:

        Σ_c (n_c/N) ℓ(W μ_c + b, c) + (λ_W/2) Σ_l ‖W_l‖² + (λ_H/2) Σ_c n_c ‖μ_c‖² [+ (λ_b/2) ‖b‖²].

    The vector holds the means as √(n_c λ_H/λ_W) μ_c, so that they decay like one more layer. Otherwise decays or class
    sizes of different orders would make every step of an iterative method short.
    """

    def __init__(self, model: UnconstrainedModel):
        self.model = model
        counts = torch.tensor(model.counts, dtype=torch.float64)
        self.shares = (counts / model.num_samples)[:, None]
        self.stretch = (counts * (model.feature_decay / model.weight_decay)).sqrt()[:, None]
        C, p = model.num_classes, model.num_features
        self.shapes: list[tuple[int, ...]] = [*[(p, p)] * (model.layers - 1), (C, p), (C, p)]
        if model.bias != "none":
            self.shapes.append((C,))
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.decays = torch.full((sum(self.sizes),), model.weight_decay, dtype=torch.float64)
        if model.bias != "none":
            self.decays[-C:] = model.bias_decay or 0.0

    def split(self, vector: Float[Tensor, " size"]) -> tuple[list[Tensor], Tensor, Tensor | None]:
        """The layers, the stretched class means and the bias, as views of the vector."""
        parts = [part.view(shape) for part, shape in zip(vector.split(self.sizes), self.shapes, strict=True)]
        bias = parts.pop() if self.model.bias != "none" else None
        return parts[:-1], parts[-1], bias

    @cached_property
    def nonnegative(self) -> Bool[Tensor, " size"] | None:
        """Which entries may not be negative; None if all may."""
        if self.model.features == "free":
            return None
        bounded = torch.zeros_like(self.decays)
        self.split(bounded)[1].fill_(1.0)
        return bounded > 0

    def at(self, vector: Float[Tensor, " size"]) -> "Point":
        """The objective at a vector."""
        return Point(self, vector)


class Point:
    """The objective at one vector: its value, its gradient, and products with its Hessian."""

    def __init__(self, objective: ReducedObjective, vector: Float[Tensor, " size"]):
        self.objective, self.vector = objective, vector
        self.layers, stretched, bias = objective.split(vector)
        self.inputs = [stretched / objective.stretch]  # of each layer, a row for each class
        for layer in self.layers:
            self.inputs.append(self.inputs[-1] @ layer.T)
        outputs = self.inputs.pop()
        self.outputs = outputs if bias is None else outputs + bias
        if objective.model.loss == "square":
            losses = (self.outputs - torch.eye(len(outputs), dtype=torch.float64)).square().sum(dim=1) / 2
        else:
            losses = self.outputs.logsumexp(dim=1) - self.outputs.diagonal()
        self.data = (objective.shares[:, 0] @ losses).item()
        self.value = self.data + (objective.decays @ vector.square()).item() / 2

    @cached_property
    def probabilities(self) -> Float[Tensor, "classes classes"]:
        """softmax of the outputs, a row for each class."""
        return self.outputs.softmax(dim=1)

    @cached_property
    def errors(self) -> list[Tensor]:
        """Derivatives with respect to the inputs of each layer and, last, to the outputs."""
        predicted = self.outputs if self.objective.model.loss == "square" else self.probabilities
        errors = [self.objective.shares * (predicted - torch.eye(len(predicted), dtype=torch.float64))]
        for layer in reversed(self.layers):
            errors.insert(0, errors[0] @ layer)
        return errors

    @cached_property
    def gradient(self) -> Float[Tensor, " size"]:
        """The gradient at the vector."""
        by_layers = [error.T @ inputs for inputs, error in zip(self.inputs, self.errors[1:], strict=True)]
        return self._join(by_layers, self.errors[0], self.errors[-1]) + self.objective.decays * self.vector

    def hessian(self, direction: Float[Tensor, " size"]) -> Float[Tensor, " size"]:
        """The product of the Hessian with a vector: the derivative of `gradient` along it."""
        layers, stretched, bias = self.objective.split(direction)
        moved = [stretched / self.objective.stretch]
        for layer, turned, inputs in zip(self.layers, layers, self.inputs, strict=True):
            moved.append(moved[-1] @ layer.T + inputs @ turned.T)
        outputs = moved.pop()
        outputs = outputs if bias is None else outputs + bias
        if self.objective.model.loss == "cross_entropy":
            likely = self.probabilities * outputs
            outputs = likely - self.probabilities * likely.sum(dim=1, keepdim=True)
        error = last = self.objective.shares * outputs
        by_layers: list[Tensor] = []
        for l in reversed(range(len(layers))):
            by_layers.insert(0, error.T @ self.inputs[l] + self.errors[l + 1].T @ moved[l])
            error = error @ self.layers[l] + self.errors[l + 1] @ layers[l]
        return self._join(by_layers, error, last) + self.objective.decays * direction

    def _join(self, by_layers: list[Tensor], by_means: Tensor, by_outputs: Tensor) -> Float[Tensor, " size"]:
        parts = [*by_layers, by_means / self.objective.stretch]
        if self.objective.model.bias != "none":
            parts.append(by_outputs.sum(dim=0))
        return torch.cat([part.flatten() for part in parts])
