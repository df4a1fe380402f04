"""Solves problems with exact answers, to show how many digits the software gets right."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from ..datasets import load_dataset
from ..networks import build_network, decays, find_classifier
from ..statistics import Classifier
from ..training import FullBatch, gradient_flow
from .comparison import Comparison, compare
from .evidence import Evidence, Parameter
from .gathering import gather_evidence
from .identities import balance_along_flow
from .linear_tails import balance_of_neighbours_along_flow, gradients_of_neighbours
from .table import STATEMENTS, TheoryTable, theory_table
from .two_clusters import joined_clusters, two_clusters
from .unconstrained.convex import solve_convex
from .unconstrained.problem import UnconstrainedModel
from .unconstrained.solution import Solution
from .unconstrained.solver import solve_unconstrained

IDENTITIES, CRITICAL, SQI, THEOREM, FRAME, _, LEMMA_2_1, _ = STATEMENTS

#: A relative residual above this counts as a miss. It is not smaller because the closed forms are reached by iteration.
EXACT_TOLERANCE = 1e-6

_DECAYS = {"weight_decay": 5e-3, "feature_decay": 2e-3}


def _at_random_weights(network: str, dataset: str, bias: str, depth: int, linear_tail: int) -> FullBatch:
    data = load_dataset(dataset, per_class=10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = partial(build_network, depth=depth, width=32, bias=bias != "none", linear_tail=linear_tail)
        model = parts(network, data.input_shape, data.num_classes)
        if bias != "none":
            nn.init.normal_(find_classifier(model, data.train.images[:2]).bias)
    each = decays(model, find_classifier(model, data.train.images[:2]), 3e-3, bias)
    return FullBatch(model, data.train.images, data.train.labels, each)


def identities() -> Iterator[Comparison]:
    """Euler's theorem, Lemma 2.2, balance and the central path at random weights: the worst layer of each network.

    Of networks that end in linear layers, Wᵀ∇_W = ∇_V Vᵀ: the worst pair of each.
    """
    networks = [("mlp", "gaussian", depth, 0) for depth in (2, 5, 10)] + [("convnet", "mnist5k", 5, 0)]
    networks += [("mlp", "gaussian", 2, 1), ("mlp", "gaussian", 5, 4), ("mlp", "gaussian", 10, 3)]
    networks += [("convnet", "mnist5k", 5, 2)]
    for name, dataset, depth, tail in networks:
        for bias in ("none", "free"):
            evidence = gather_evidence(_at_random_weights(name, dataset, bias, depth, tail))
            rows = gradients_of_neighbours(evidence) if tail else theory_table(evidence).sections[IDENTITIES]
            worst = max(rows, key=lambda comparison: comparison.residual)
            label = f"{name}, {depth} layers, bias {bias}" + (f", linear tail {tail}" if tail else "")
            yield _named(worst, f"{label}: {worst.name}")


def balance() -> Iterator[Comparison]:
    """‖W_l‖² − ‖W_k‖² and, entry by entry, WᵀW − VVᵀ along gradient flow, which shrink by e^{−2λt}."""
    # linear layers are homogeneous too, and with ReLUs each one that switches would cut a step of the solver short
    data = load_dataset("gaussian", per_class=10).train
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Linear(before, after, bias=False) for before, after in ((16, 8), (8, 8), (8, 4))]
    model, decay = nn.Sequential(*layers), 0.05
    objective = FullBatch(model, data.images, data.labels, dict.fromkeys(dict(model.named_parameters()), decay))
    times = [0.0, 1.0, 3.0, 10.0]
    norms, differences = [], []
    for state in gradient_flow(objective, times, rtol=1e-10, atol=1e-12):
        norms.append(state.weight_norms)
        weights = [p.detach() for p in objective.parameters.values()]
        differences.append([W.T @ W - V @ V.T for V, W in pairwise(weights)])
    yield from balance_along_flow(times, norms, decay)
    for place, of_pair in enumerate(zip(*differences, strict=True), start=1):
        comparison = balance_of_neighbours_along_flow(times, of_pair, decay)
        yield _named(comparison, f"{comparison.name}, layers {place} and {place + 1}")


def _problem(**changes: object) -> UnconstrainedModel:
    values = {"num_classes": 10, "per_class": 3, "num_features": 12, **_DECAYS, **changes}
    return UnconstrainedModel(**values)  # type: ignore[arg-type]


#: One problem for each closed form.
UNCONSTRAINED: dict[str, UnconstrainedModel] = {
    "square loss": _problem(),
    "square loss, H ≥ 0": _problem(features="relu"),
    "square loss, free bias": _problem(bias="free"),
    "square loss, free bias, H ≥ 0": _problem(bias="free", features="relu"),
    "square loss, decayed bias": _problem(bias="decayed", bias_decay=0.02),
    "square loss, strongly decayed bias": _problem(bias="decayed", bias_decay=0.5),
    "square loss, decayed bias, H ≥ 0": _problem(bias="decayed", bias_decay=0.02, features="relu"),
    "cross-entropy": _problem(loss="cross_entropy"),
    "cross-entropy, H ≥ 0": _problem(loss="cross_entropy", features="relu"),
    "two linear layers": _problem(layers=2, num_classes=4, num_features=5),
    "three linear layers": _problem(layers=3, num_classes=4, num_features=5, weight_decay=1e-3, feature_decay=1e-3),
    "unequal classes, one of them collapsed": _problem(
        num_classes=4, num_features=5, per_class=(20, 10, 5, 1), weight_decay=3e-2, feature_decay=5e-2
    ),
}


def unconstrained() -> Iterator[Comparison]:
    """Each closed form beside the minimum found from random starts."""
    for name, model in UNCONSTRAINED.items():
        for comparison in solve_unconstrained(model).comparisons:
            yield _named(comparison, f"{name}: {comparison.name}")


def convex() -> Iterator[Comparison]:
    """The convex form: its dual certificate is 1, its duality gap 0, and its value the least L of W and H."""
    against = partial(compare, tells="rounding", reference="convex duality")
    for name in ("square loss", "unequal classes, one of them collapsed"):
        model = UNCONSTRAINED[name]
        solution = solve_convex(model.counts, weight_decay=model.weight_decay, feature_decay=model.feature_decay)
        yield against(f"{name}: ‖Y − Z‖_op / N√(λ_Wλ_H)", 1.0, solution.certificate)
        yield against(f"{name}: dual value", solution.value, solution.dual_value)
        yield against(f"{name}: least L of W and H", solution.value, solve_unconstrained(model).loss)


def theorem() -> Iterator[Comparison]:
    """SQI and Theorem 2.3 at the minimum with a free bias, and the orthogonal frame at the minimum without a bias."""
    for name in ("square loss, free bias", "square loss, free bias, H ≥ 0"):
        table = _table_of(solve_unconstrained(UNCONSTRAINED[name]))
        for comparison in (*table.sections[SQI], *table.sections[THEOREM], *table.sections[LEMMA_2_1]):
            yield _named(comparison, f"{name}: {comparison.name}")
    table = _table_of(solve_unconstrained(UNCONSTRAINED["square loss"]))
    for comparison in table.sections[FRAME]:
        yield _named(comparison, f"square loss: {comparison.name}")


def without_nc1() -> Iterator[Comparison]:
    """Two clusters in each of 4 classes: SQI, the theorem's equations and NC3 = 0 hold, with Tr Σ_W/Tr Σ_B = 4/3."""
    evidence = gather_evidence(two_clusters(4))
    sections = theory_table(evidence).sections
    yield from (*sections[CRITICAL], *sections[SQI], *sections[THEOREM])
    yield compare(
        "Tr Σ_W/Tr Σ_B: NC1 does not follow",
        4 / 3,
        evidence.measurement["nc1_trace_ratio"],
        tells="rounding",
        reference="exact problem",
    )


def with_linear_layer() -> Iterator[Comparison]:
    """The same clusters with a linear layer before the classifier: SQI holds there with Tr Σ_W = 0."""
    sections = theory_table(gather_evidence(joined_clusters(4))).sections
    yield from (*sections[CRITICAL], *sections[SQI], *sections[THEOREM])


#: All of them, by subject.
EXACT: dict[str, Callable[[], Iterable[Comparison]]] = {
    "identities at random weights": identities,
    "gradient flow": balance,
    "unconstrained features: closed form and numerical minimum": unconstrained,
    "the convex form and its dual certificate": convex,
    "Theorem 2.3 and the orthogonal frame at exact minima": theorem,
    "two clusters in a class: where NC1 does not follow": without_nc1,
    "two clusters in a class with a linear layer before the classifier: where it follows": with_linear_layer,
}


def _named(comparison: Comparison, name: str) -> Comparison:
    return Comparison(**{**vars(comparison), "name": name})


def _table_of(solution: Solution) -> TheoryTable:
    """The theory table of an unconstrained features model, read as a network whose only layer is the classifier."""
    labels, bias = solution.model.labels, solution.bias
    classifier = Classifier(solution.weight, bias)
    errors = nn.functional.one_hot(labels, solution.model.num_classes).double() - classifier(solution.features)
    gradient = -errors.T @ solution.features / len(labels)
    layer = Parameter("classifier", solution.weight, gradient, solution.model.weight_decay)
    others = () if bias is None else (Parameter("bias", bias, -errors.mean(dim=0), 0.0),)
    return theory_table(Evidence((layer,), others, solution.features, labels, classifier))
