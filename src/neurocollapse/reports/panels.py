"""The panels of the figure and the page: their names, and their formulas in text and in matplotlib's mathtext."""

from collections.abc import Iterable
from typing import NamedTuple


class Panel(NamedTuple):
    """The heading of a panel: its name, and its formula in text and in matplotlib's mathtext."""

    name: str
    formula: str
    mathtext: str


PANELS = {
    "loss_data": Panel("Square loss", "(1/2N) Σᵢ ‖fᵢ − yᵢ‖²", r"$(1/2N)\ \Sigma_i\,\Vert f_i-y_i\Vert^2$"),
    "cross_entropy": Panel(
        "Cross-entropy",
        "−(1/N) Σᵢ log softmax(fᵢ) of the label",
        r"$-(1/N)\ \Sigma_i\,\log\,\mathrm{softmax}(f_i)_{y_i}$",
    ),
    "nc1": Panel("NC1 · within-class variability", "Tr(Σ_W Σ_B⁺)", r"$\mathrm{Tr}(\Sigma_W\,\Sigma_B^{+})$"),
    "nc2_norm_variance": Panel(
        "NC2 · norms of means, variance", "Var ‖μ_c − μ_G‖", r"$\mathrm{Var}_c\,\Vert\mu_c-\mu_G\Vert$"
    ),
    "nc2_equinorm": Panel(
        "NC2 · norms of means, scale-free",
        "Std ‖μ_c − μ_G‖ / Mean ‖μ_c − μ_G‖",
        r"$\mathrm{Std}_c\,\Vert\mu_c-\mu_G\Vert\;/\;\mathrm{Mean}_c\,\Vert\mu_c-\mu_G\Vert$",
    ),
    "nc2_cosine": Panel(
        "NC2 · shifted cosines",
        "Mean |cos(μ_c − μ_G, μ_d − μ_G) + 1/(C−1)|",
        r"$\mathrm{Mean}_{c<d}\,|\cos(\mu_c-\mu_G,\,\mu_d-\mu_G)+1/(C-1)|$",
    ),
    "nc3": Panel(
        "NC3 · distance from self-duality",
        "‖ W/‖W‖ − Ṁᵀ/‖Ṁ‖ ‖",
        r"$\Vert\,W/\Vert W\Vert_F-\dot{M}^\top\!/\Vert\dot{M}\Vert_F\,\Vert_F$",
    ),
    "nc4": Panel("NC4 · nearest class mean disagrees", "share of samples", "share of samples"),
}

#: The panels without the data terms; the data term that is shown depends on the runs' loss.
COLLAPSE_PANELS = tuple(key for key in PANELS if key.startswith("nc"))


def data_term(losses: Iterable[str]) -> str:
    """Returns the key of the panel that shows the data term for runs with these losses.

    >>> data_term(["cross_entropy", "cross_entropy"]), data_term(["square"]), data_term([])
    ('cross_entropy', 'loss_data', 'loss_data')
    """
    return "cross_entropy" if set(losses) == {"cross_entropy"} else "loss_data"
