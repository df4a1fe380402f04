"""The theory table: all identities and predictions that apply to a network, by reading, in one list."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import pandas as pd

from .._schema import typed
from . import identities, linear_tails, predictions
from .comparison import Comparison
from .evidence import Evidence
from .fixed_features import central_path

_ALL = ("none", "free", "decayed", "frozen")
_NONE, _FREE, _DECAYED = ("none",), ("free",), ("decayed",)


@dataclass(frozen=True)
class Statement:
    """One statement of the theory, as a function of the evidence, and the networks that it is about."""

    function: Callable[[Evidence], Iterable[Comparison]]
    #: the kinds of classifier bias that it is about
    bias: tuple[str, ...] = _ALL
    needs_decay: bool = False

    @property
    def name(self) -> str:
        """The function's name in words."""
        return self.function.__name__.replace("_", " ")


#: All statements by reading, from those that always hold to those that need a certain kind of critical point.
STATEMENTS: dict[str, tuple[Statement, ...]] = {
    "identities, at every point": (
        Statement(identities.euler),
        Statement(identities.lemma_2_2),
        Statement(identities.balance),
        Statement(identities.path_decomposition, needs_decay=True),
        Statement(linear_tails.gradients_of_neighbours),
    ),
    "at a critical point": (
        Statement(identities.gradient),
        Statement(identities.critical_norms, needs_decay=True),
        Statement(identities.equal_norms, needs_decay=True),
        Statement(identities.last_layer, needs_decay=True),
        Statement(identities.sum_of_outputs, bias=_NONE, needs_decay=True),
        Statement(identities.free_bias, bias=_FREE, needs_decay=True),
        Statement(identities.decayed_bias, bias=_DECAYED),
        Statement(linear_tails.balance_of_neighbours, needs_decay=True),
        Statement(linear_tails.within_class_covariance, needs_decay=True),
    ),
    "symmetric quasi-interpolation itself": (Statement(predictions.quasi_interpolation),),
    "if SQI holds: Theorem 2.3": (
        Statement(predictions.equation_2, needs_decay=True),
        Statement(predictions.equation_3, needs_decay=True),
        Statement(predictions.overlap_with_global_mean),
        Statement(predictions.equation_4),
        Statement(linear_tails.collapse, bias=_FREE, needs_decay=True),
    ),
    "if it ends in an orthogonal frame": (
        Statement(predictions.orthogonal_frame, bias=_NONE),
        Statement(predictions.weights_of_orthogonal_frame, bias=_NONE, needs_decay=True),
    ),
    "if it ends as the UFM with a decayed bias": (Statement(predictions.decayed_bias, bias=_DECAYED),),
    "if collapse is exact: Lemma 2.1": (Statement(predictions.lemma_2_1),),
    "a bound at any weights, where linear layers end the network": (Statement(linear_tails.certificate),),
}

#: The readings that predict frames, for which the features need room, and those of them that have one λ for all layers.
_OF_FRAMES = tuple(reading for reading in STATEMENTS if reading.startswith("if "))
_OF_ONE_DECAY = tuple(reading for reading in _OF_FRAMES if "Lemma 2.1" not in reading)

#: What a residual means if the theory does not apply to the network.
NOT_CLAIMED = "not claimed: the theory does not cover this network"

#: The measured keys above the table. `nc1` and `nc1_trace_ratio` stand together, since SQI implies neither.
FACTS = (
    "accuracy",
    "sqi_gap",
    "sqi_gap_spread",
    "sqi_off",
    "sqi_off_spread",
    "sqi_sum",
    "nc1",
    "nc1_trace_ratio",
    "nc2_equinorm",
    "nc2_cosine",
    "nc3",
    "nc3_centered",
    "nc4",
    "loss_data",
)


@dataclass(frozen=True)
class TheoryTable:
    """Predicted numbers beside measured ones, by reading, with what each residual means.

    `facts` are measured numbers of the network: λ, ‖∇L‖, ‖W‖, the two parts of the central path and keys of `METRICS`.
    `notes` say what limits the table: statements left out, and conditions of the theory that do not hold.
    """

    sections: dict[str, tuple[Comparison, ...]]
    facts: dict[str, float]
    notes: tuple[str, ...]

    def __iter__(self) -> Iterator[Comparison]:
        for comparisons in self.sections.values():
            yield from comparisons

    def to_frame(self) -> pd.DataFrame:
        """A data frame with a row per comparison: reading, name, predicted, measured, residual, tells, reference."""
        return pd.DataFrame(
            [
                {"reading": reading, **vars(comparison)}
                for reading, comparisons in self.sections.items()
                for comparison in comparisons
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """The table as plain values for JSON."""
        sections = {
            reading: [dict(vars(comparison)) for comparison in comparisons]
            for reading, comparisons in self.sections.items()
        }
        return {"sections": sections, "facts": self.facts, "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TheoryTable":
        """Reads back what `to_dict` gave. Raises `InputError`."""
        table: TheoryTable = typed(cls, values)
        return table

    def __str__(self) -> str:
        width = max(len(comparison.name) for comparison in self)
        facts = [f"{key} {value:.5g}" for key, value in self.facts.items()]
        lines = ["  ".join(facts[start : start + 6]) for start in range(0, len(facts), 6)]
        lines += [f"note: {note}" for note in self.notes]
        for reading, comparisons in self.sections.items():
            lines += ["", f"{reading:<{width}} {'predicted':>12} {'measured':>12} {'residual':>10}  a residual is"]
            lines += [
                f"{c.name:<{width}} {c.predicted:>12.5g} {c.measured:>12.5g} {c.residual:>10.1e}  {c.tells}"
                for c in comparisons
            ]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        facts = ", ".join(f"{key} {value:.5g}" for key, value in self.facts.items())
        above = "".join(f"<p>{escape(text)}</p>" for text in (facts, *self.notes))
        return above + self.to_frame().to_html(index=False, float_format="{:.5g}".format)


def theory_table(evidence: Evidence, *, doubt: str | None = None) -> TheoryTable:
    """Evaluates all statements of the theory that apply to this network.

    Predictions of frames are left out where p features cannot hold them or layers decay differently. At λ = 0,
    statements that divide by λ or need decay are left out, and a note names them. `doubt` says why the theory does not
    apply to this network, if so; then every row says so too.
    """
    left_out = []
    sections: dict[str, tuple[Comparison, ...]] = {}
    for reading, statements in STATEMENTS.items():
        if reading in _OF_FRAMES and not _holds_frames(evidence):
            continue
        if reading in _OF_ONE_DECAY and not evidence.layers_decay_alike:
            continue
        found: list[Comparison] = []
        for statement in statements:
            if evidence.bias_kind not in statement.bias:
                continue
            if statement.needs_decay and evidence.weight_decay == 0:
                left_out.append(statement.name)
            else:
                found += statement.function(evidence)
        if found:
            sections[reading] = tuple(found)
    notes = [*_notes(evidence)]
    if doubt is not None:
        notes.insert(0, doubt)
        for reading, comparisons in sections.items():
            sections[reading] = tuple(replace(comparison, tells=NOT_CLAIMED) for comparison in comparisons)
    if left_out:
        notes.append(f"λ = 0: left out because they divide by λ or need decay: {', '.join(left_out)}")
    return TheoryTable(sections, _facts(evidence), tuple(notes))


def _holds_frames(evidence: Evidence) -> bool:
    """Whether p features hold the frames that are predicted: a simplex or, without a bias, C orthogonal rows."""
    num_classes, num_features = evidence.classifier.weight.shape
    return bool(num_features >= num_classes - (evidence.bias_kind != "none"))


def _facts(evidence: Evidence) -> dict[str, float]:
    facts = {"λ": evidence.weight_decay, "‖∇L‖": evidence.gradient_norm, "‖W‖": evidence.weight_norm}
    facts["L"] = evidence.loss
    if evidence.weight_decay:
        path = central_path(evidence)
        facts |= {"L(W_LS)": path.loss, "L − L(W_LS)": path.excess, "‖W − W_LS‖/‖W‖": path.distance}
    measured = evidence.measurement
    return facts | {key: measured[key] for key in FACTS}


def _notes(evidence: Evidence) -> Iterator[str]:
    num_classes, num_features = evidence.classifier.weight.shape
    counts = evidence.measurement.class_counts
    if not evidence.is_balanced:
        yield f"the classes have {min(counts)} to {max(counts)} samples, and Theorem 2.3 is about equal classes"
    if not _holds_frames(evidence):
        frame = "simplex" if num_features < num_classes - 1 else "orthogonal frame"
        yield f"p = {num_features} features hold no {frame} of {num_classes} classes: what SQI predicts is left out"
    if not evidence.layers_decay_alike:
        each = ", ".join(f"{layer.name} {layer.decay:g}" for layer in evidence.layers)
        yield (
            f"the layers decay differently ({each}), and Theorem 2.3 has one λ for all: what SQI predicts is left out, "
            f"and λ is the classifier's"
        )
        if not all(layer.decay for layer in evidence.layers):
            yield "a layer does not decay while others do: only with zero weights in these can it be at rest"
    if evidence.bias_kind == "decayed":
        yield f"the classifier's bias decays, by {evidence.bias_decay:g}, and Theorem 2.3 needs one that does not"
    if evidence.frozen:
        yield (
            f"{len(evidence.frozen)} parameters are frozen ({', '.join(evidence.frozen[:3])}), so L, ‖W‖, ‖∇L‖ and the "
            f"laws of layers include only the others"
        )
    if evidence.tail.layers:
        names = (*evidence.tail.layers[::-1], evidence.classifier_name)
        yield f"the network ends in {len(names)} linear layers ({', '.join(names)}), after {evidence.tail.ended_by}"
    elif evidence.tail.ended_by and not evidence.tail.ended_by.startswith("ReLU"):
        yield f"no linear layer that counts stands just before the classifier, but {evidence.tail.ended_by}"
    if evidence.differs_in_training:
        yield "in training the network computes something else, as with dropout, so L is not what it is trained on"
    if evidence.bias_kind == "frozen":
        yield "the classifier's bias is frozen, so the laws that need ∂L/∂b = 0 are left out"
    zero = bool(evidence.products.abs().max() < 1e-6)
    if zero:
        what = "all outputs are zero" if evidence.bias_kind == "none" else "all outputs are the bias"
        yield (
            f"{what}: at λ = {evidence.weight_decay:g} everything that decays has collapsed to zero, so the "
            f"comparisons below mean nothing"
        )
    if evidence.bias_kind == "none" and evidence.weight_decay and not zero:
        yield (
            "without a bias SQI and the theorem's equations cannot hold exactly at a critical point with λ > 0; "
            "compare the readings"
        )
