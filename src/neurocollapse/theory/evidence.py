"""The evidence that theory is compared with: a network's weights, gradients, features and outputs in float64."""

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..metrics import Measurement
from ..networks import LinearTail
from ..statistics import Classifier, ClassMeans, Projections


@dataclass(frozen=True)
class Parameter:
    """A trainable tensor, the gradient of the data term with respect to it, and its decay."""

    #: the name of the layer or, if it is not a weight, of the parameter
    name: str
    value: Float[Tensor, "*shape"]
    data_gradient: Float[Tensor, "*shape"]
    decay: float

    @property
    def squared_norm(self) -> float:
        """‖W‖²."""
        return self.value.square().sum().item()

    @property
    def inner_product(self) -> float:
        """⟨W, ∇L⟩ with L the whole objective, so that d‖W‖²/dt = −2⟨W, ∇L⟩ along gradient flow."""
        return (self.value * self.data_gradient).sum().item() + self.decay * self.squared_norm


@dataclass(frozen=True)
class LinearPair:
    """Two consecutive linear layers with nothing between, V below W: features h = V z, outputs W h without a bias."""

    above: Parameter
    """W, with C rows if it is the classifier."""
    below: Parameter
    """V."""
    inputs: Float[Tensor, "samples inputs"]
    """z_i."""
    features: Float[Tensor, "samples features"]
    """h_i."""
    outputs: Float[Tensor, "samples outputs"]
    """W h_i."""
    errors: Float[Tensor, "samples outputs"]
    """N times the gradient of the data term with respect to the outputs."""


@dataclass(frozen=True)
class Evidence:
    """Everything that an identity or a prediction reads: one network on one set of samples.

    `layers` are the weights W_1 … W_L in the network's order, the classifier's included. `others` is everything else
    that trains, such as the classifier's bias. `features` are h_i, the classifier's inputs.
    """

    layers: tuple[Parameter, ...]
    others: tuple[Parameter, ...]
    features: Float[Tensor, "samples features"]
    labels: Int[Tensor, " samples"]
    classifier: Classifier
    #: λ_b of the classifier's bias, 0 where it is free
    bias_decay: float = 0.0
    #: whether the classifier's bias, if there is one, trains
    bias_trains: bool = True
    #: names of the network's parameters that do not train
    frozen: tuple[str, ...] = ()
    #: the name of the classifier's weight among the layers
    classifier_name: str = "classifier"
    #: whether the network computes something else in training, as with dropout
    differs_in_training: bool = False
    #: the linear layers just before the classifier, by name, the nearest first, and what ends them
    tail: LinearTail = field(default_factory=LinearTail)
    #: the inputs of these layers, in the same order
    tail_inputs: tuple[Float[Tensor, "samples inputs"], ...] = ()

    @cached_property
    def weight_decay(self) -> float:
        """λ of the classifier, which is that of every layer where they decay alike."""
        return next(layer.decay for layer in self.layers if layer.name == self.classifier_name)

    @property
    def layers_decay_alike(self) -> bool:
        """Whether there is one λ for all layers, as in Eq. 1."""
        return len({layer.decay for layer in self.layers}) == 1

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.classifier.weight)

    @property
    def bias_kind(self) -> str:
        """The kind of the classifier's bias: none, free, decayed, or frozen at other numbers than zero.

        A bias that is frozen at zero is none. Free and decayed ones train, so that ∂L/∂b = 0 at a critical point.
        """
        if self.classifier.bias is None or (not self.bias_trains and not self.classifier.bias.any()):
            return "none"
        if not self.bias_trains:
            return "frozen"
        return "decayed" if self.bias_decay else "free"

    @cached_property
    def bias(self) -> Float[Tensor, " classes"]:
        """b, or zeros if there is none."""
        zero = torch.zeros_like(self.classifier.weight[:, 0])
        return zero if self.classifier.bias is None else self.classifier.bias

    @cached_property
    def products(self) -> Float[Tensor, "samples classes"]:
        """W h_i, which is f_i − b without its cancellation."""
        return self.features @ self.classifier.weight.T

    @cached_property
    def outputs(self) -> Float[Tensor, "samples classes"]:
        """f_i."""
        return self.products + self.bias

    @cached_property
    def targets(self) -> Float[Tensor, "samples classes"]:
        """y_i, one-hot."""
        return torch.nn.functional.one_hot(self.labels, self.num_classes).double()

    @cached_property
    def errors(self) -> Float[Tensor, "samples classes"]:
        """y_i − f_i."""
        return self.targets - self.outputs

    @cached_property
    def _means(self) -> ClassMeans:
        means = ClassMeans(self.num_classes)
        means.update(self.features, self.labels)
        return means

    @cached_property
    def linear_pairs(self) -> tuple[LinearPair, ...]:
        """Each two consecutive linear layers at the end of the network, from the classifier down."""
        layers = {layer.name: layer for layer in self.layers}
        pairs: list[LinearPair] = []
        names = (self.classifier_name, *self.tail.layers)
        outputs, features, errors = self.products, self.features, -self.errors
        for above, below, inputs in zip(names, self.tail.layers, self.tail_inputs, strict=False):
            W = layers[above]
            pairs.append(LinearPair(W, layers[below], inputs, features, outputs, errors))
            outputs, features, errors = features, inputs, errors @ W.value
        return tuple(pairs)

    @property
    def class_means(self) -> Float[Tensor, "classes features"]:
        """μ_c."""
        return self._means.class_means

    @property
    def global_mean(self) -> Float[Tensor, " features"]:
        """μ_G = (1/C) Σ_c μ_c."""
        return self.class_means.mean(dim=0)

    @cached_property
    def centered_class_means(self) -> Float[Tensor, "classes features"]:
        """μ_c − μ_G."""
        return self.class_means - self.global_mean

    @cached_property
    def measurement(self) -> Measurement:
        """Every metric of the features and the classifier."""
        projections = Projections(self._means, self.classifier, covariance=False, held_out=False)
        projections.update(self.features, self.labels)
        return Measurement(projections.statistics(), self._means)

    @property
    def is_balanced(self) -> bool:
        """Whether all classes have the same number of samples."""
        return len(set(self._means.counts.tolist())) == 1

    @cached_property
    def data_loss(self) -> float:
        """(1/2N) Σ_i ‖f_i − y_i‖²."""
        return self.errors.square().sum().item() / (2 * len(self.labels))

    @cached_property
    def loss(self) -> float:
        """L of Eq. 1, with the decay of everything that decays."""
        return self.data_loss + sum(p.decay * p.squared_norm for p in self.layers + self.others) / 2

    @cached_property
    def weight_norm(self) -> float:
        """‖W‖ of all parameters together."""
        return math.sqrt(sum(p.squared_norm for p in self.layers + self.others))

    @cached_property
    def gradient_norm(self) -> float:
        """‖∇L‖ of all parameters together."""
        gradients = (p.data_gradient + p.decay * p.value for p in self.layers + self.others)
        return math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
