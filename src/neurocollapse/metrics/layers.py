"""What a layer does below the classifier: how few directions its weight has, and whether they are those of its input.

k is C − 1 where the class means tend to a simplex, as with a free bias, and C where they tend to an orthogonal frame,
as without a bias. If the k-th singular value equals the next, those are taken too, since no order among them is given;
if more than C are equal the number is nan. If the rank is lower than k, all directions count.
"""

import math

from ..geometry import LeadingDirections, alignment
from ..statistics import Statistics


def nearest_mean_error(statistics: Statistics) -> float:
    """Share of samples whose nearest class mean is that of another class.

    Ties, to rounding, go to the lowest class.
    """
    assert statistics.nearest_mean_error is not None
    return statistics.nearest_mean_error


def _weight(statistics: Statistics) -> LeadingDirections:
    assert statistics.layer_weight is not None
    return statistics.layer_weight


def weight_stable_rank(statistics: Statistics) -> float:
    """‖W‖_F² / ‖W‖_op² of the layer's weight, a convolution's as its matrix of filters; nan if W is zero."""
    W = _weight(statistics)
    return (W.square / W.singular_values[0].square()).item()


def weight_share_simplex(statistics: Statistics) -> float:
    """Share of ‖W‖_F² in the C − 1 leading singular directions of the layer's weight W."""
    return _share(statistics, statistics.num_classes - 1)


def weight_share_frame(statistics: Statistics) -> float:
    """Share of ‖W‖_F² in the C leading singular directions of the layer's weight W."""
    return _share(statistics, statistics.num_classes)


def _share(statistics: Statistics, number: int) -> float:
    W = _weight(statistics)
    chosen = W.first(number)
    return W.singular_values[:chosen].square().sum().item() / W.square if chosen else math.nan


def weight_alignment_simplex(statistics: Statistics) -> float:
    """Mean squared cosine of the angles between the C − 1 leading right singular directions of W and the input's means.

    These are the principal angles with the span of the centred class means of the layer's input; for a convolution, of
    its patches, over samples and positions. There are as many as the smaller space has dimensions.
    """
    return _alignment(statistics, statistics.num_classes - 1)


def weight_alignment_frame(statistics: Statistics) -> float:
    """Mean squared cosine of the angles between the C leading right singular directions of W and the input's means.

    The principal angles are those of `weight_alignment_simplex`.
    """
    return _alignment(statistics, statistics.num_classes)


def _alignment(statistics: Statistics, number: int) -> float:
    W = _weight(statistics)
    assert statistics.input_span is not None
    chosen = W.first(number)
    return alignment(W.directions[:chosen], statistics.input_span) if chosen else math.nan
