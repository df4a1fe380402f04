"""The paper's claims and open questions: experiments, rules fixed before them, and verdicts in numbers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
