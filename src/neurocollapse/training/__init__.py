"""Training to collapse: gradient descent on Eq. 1, with measurements along the way.

    L(W) = (1/2N) Σ_i ‖f_i − y_i‖² + (λ/2) Σ_k ‖W_k‖_F²

A step adds λW to the gradient of the data term, which gives exactly ∇L. Every trainable tensor decays, except a free
bias.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
