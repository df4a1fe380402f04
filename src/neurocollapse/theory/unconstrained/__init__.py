"""The unconstrained features model: its optima in closed form, found numerically, and as a convex problem.

>>> model = UnconstrainedModel(num_classes=10, per_class=50, num_features=16, weight_decay=5e-3, feature_decay=1e-4)
>>> print(solve_unconstrained(model))
unconstrained features: square loss, bias none, features free, 1 linear layer
10 classes (50 each), 16 features, λ_W = 0.005, λ_H = 0.0001, s = 0.05
...
‖W^c‖²                            0.95            0.95...
"""

from .closed_forms import closed_form
from .convex import ConvexSolution, solve_convex
from .optimum import ClosedForm
from .problem import UnconstrainedModel
from .solution import Solution
from .solver import solve_unconstrained

__all__ = [
    "ClosedForm",
    "ConvexSolution",
    "Solution",
    "UnconstrainedModel",
    "closed_form",
    "solve_convex",
    "solve_unconstrained",
]
