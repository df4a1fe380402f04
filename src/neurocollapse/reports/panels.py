"""The panels of figure and page: what each is called, its formula in text and as matplotlib sets it."""

from collections.abc import Iterable
from typing import NamedTuple


class Panel(NamedTuple):
    """What stands above a panel."""

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

#: All but the data terms, of which that of the runs' loss is shown.
COLLAPSE_PANELS = tuple(key for key in PANELS if key.startswith("nc"))


def data_term(losses: Iterable[str]) -> str:
    """The panel of the data term of runs with these losses.

    >>> data_term(["cross_entropy", "cross_entropy"]), data_term(["square"]), data_term([])
    ('cross_entropy', 'loss_data', 'loss_data')
    """
    return "cross_entropy" if set(losses) == {"cross_entropy"} else "loss_data"
