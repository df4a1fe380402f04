"""Theory beside measurement: identities, predictions and closed forms, each a small function of `Comparison`s."""

from .central_path import CentralPath, central_path
from .comparison import Comparison, compare
from .evidence import Evidence, Parameter
from .identities import balance_along_flow
from .table import STATEMENTS, TheoryTable, theory_table

__all__ = [
    "STATEMENTS",
    "CentralPath",
    "Comparison",
    "Evidence",
    "Parameter",
    "TheoryTable",
    "balance_along_flow",
    "central_path",
    "compare",
    "theory_table",
]
