"""What the classifier decides: NC4, quasi-interpolation, margins, and the objective of Eq. 1.

Targets are one-hot: f_i^(c) is compared with 1 on the own class and with 0 elsewhere. `loss_data` and the `sqi_*`
refer to the square loss, whatever loss the network was trained with. Where classes are left out, the outputs are still
those for every label, as the model decides, and C is their number here.
"""

from ..statistics import Objective, Outputs, Statistics


def _outputs(statistics: Statistics) -> Outputs:
    assert statistics.outputs is not None
    return statistics.outputs


def _objective(statistics: Statistics) -> Objective:
    assert statistics.objective is not None
    return statistics.objective


def nc4(statistics: Statistics) -> float:
    """Share of samples whose argmax_c(⟨W^c, h⟩ + b_c) is not the class with the nearest mean.

    Ties, to rounding, go to the lowest class on both sides.
    """
    assert statistics.nearest_mean_disagreement is not None
    return statistics.nearest_mean_disagreement


def sqi_gap(statistics: Statistics) -> float:
    """Mean of ε_i = 1 − f_i^(c(i)), the quasi-interpolation gap of Assumption 1."""
    return _outputs(statistics).gap_mean


def sqi_gap_spread(statistics: Statistics) -> float:
    """Population standard deviation of ε_i over samples; 0 under Assumption 1."""
    return _outputs(statistics).gap_deviation


def sqi_off(statistics: Statistics) -> float:
    """Mean of (C−1) times the off-class output; ε under Assumption 1, 0 for an orthogonal frame."""
    return (statistics.num_outputs - 1) * _outputs(statistics).off_mean


def sqi_off_spread(statistics: Statistics) -> float:
    """Population standard deviation of the off-class outputs themselves, not scaled; 0 under Assumption 1."""
    return _outputs(statistics).off_deviation


def sqi_sum(statistics: Statistics) -> float:
    """Mean of 1ᵀf_i; 1 under Assumption 1."""
    return 1 - sqi_gap(statistics) + sqi_off(statistics)


def accuracy(statistics: Statistics) -> float:
    """Share of samples whose own class has the largest output; ties go to the lowest class."""
    return _outputs(statistics).accuracy


def margin_min(statistics: Statistics) -> float:
    """The smallest margin f^(c) − max_{c'≠c} f^(c')."""
    return _outputs(statistics).margin_min


def margin_mean(statistics: Statistics) -> float:
    """The mean margin f^(c) − max_{c'≠c} f^(c')."""
    return _outputs(statistics).margin_mean


def loss_data(statistics: Statistics) -> float:
    """Data term of Eq. 1, (1/2N) Σ_i ‖f_i − y_i‖² = ½ (E ε² + (C−1) E[off²])."""
    outputs = _outputs(statistics)
    gap_square = outputs.gap_mean**2 + outputs.gap_deviation**2
    off_square = outputs.off_mean**2 + outputs.off_deviation**2
    return (gap_square + (statistics.num_outputs - 1) * off_square) / 2


def loss(statistics: Statistics) -> float:
    """The objective of Eq. 1, `loss_data` + (λ/2) Σ_l ‖W_l‖_F², decayed biases included."""
    return loss_data(statistics) + _objective(statistics).penalty


def weight_norms(statistics: Statistics) -> tuple[float, ...]:
    """‖W_l‖_F² of every layer, first layer first; all equal at a critical point with λ > 0."""
    return _objective(statistics).weight_norms
