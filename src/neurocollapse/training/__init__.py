"""Training to collapse: gradient descent on Eq. 1, measured as it goes.

    L(W) = (1/2N) Σ_i ‖f_i − y_i‖² + (λ/2) Σ_k ‖W_k‖_F²

λW is added to the gradient of the data term, which is exactly ∇L; every trainable tensor decays, but for a free bias.
"""

from ..config import RunConfig
from .loop import State, data_part, stack_key, train, train_together, training_data
from .run import DivergedError, Record, network_of, seeded
from .schedule import flow_time, learning_rate, recorded_epochs

__all__ = [
    "DivergedError",
    "Record",
    "RunConfig",
    "State",
    "data_part",
    "flow_time",
    "learning_rate",
    "network_of",
    "recorded_epochs",
    "seeded",
    "stack_key",
    "train",
    "train_together",
    "training_data",
]
