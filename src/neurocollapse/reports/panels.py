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

#: The measures of a layer that can be shown, by the keys of records.
LAYER_PANELS = {
    "nc1": Panel(
        "Variability within classes", "NC1 of its output, Tr(Σ_W Σ_B⁺)", r"$\mathrm{Tr}(\Sigma_W\,\Sigma_B^{+})$"
    ),
    "nc1_trace_ratio": Panel(
        "Variability within classes, all directions",
        "Tr Σ_W / Tr Σ_B of its output",
        r"$\mathrm{Tr}\,\Sigma_W\;/\;\mathrm{Tr}\,\Sigma_B$",
    ),
    "nc1_cdnv": Panel("Variability beside distances", "CDNV of its output", r"$\mathrm{CDNV}$"),
    "nearest_mean_error": Panel("Nearest class mean is wrong", "share of samples, by its output", "share of samples"),
    "weight_stable_rank": Panel("Stable rank", "‖W‖² / ‖W‖²_op", r"$\Vert W\Vert_F^2\;/\;\Vert W\Vert_{op}^2$"),
    "weight_share_simplex": Panel(
        "Weight in C − 1 directions", "share of ‖W‖²", r"share of $\Vert W\Vert_F^2$, $C-1$ directions"
    ),
    "weight_share_frame": Panel(
        "Weight in C directions", "share of ‖W‖²", r"share of $\Vert W\Vert_F^2$, $C$ directions"
    ),
    "weight_alignment_simplex": Panel(
        "Alignment with the input's means, C − 1 directions",
        "mean cos² of the principal angles",
        r"mean $\cos^2$ of angles, $C-1$ directions",
    ),
    "weight_alignment_frame": Panel(
        "Alignment with the input's means, C directions",
        "mean cos² of the principal angles",
        r"mean $\cos^2$ of principal angles",
    ),
}

_OF_LAYERS = "train.layers."


def layer_keys(keys: Iterable[object]) -> dict[tuple[str, str], str]:
    """Returns, of the keys of records, those of layers, by the layer's name and the measure.

    >>> layer_keys(["epoch", "train.nc1", "train.layers.features.1.nc1"])
    {('features.1', 'nc1'): 'train.layers.features.1.nc1'}
    """
    of_layers = [key for key in map(str, keys) if key.startswith(_OF_LAYERS)]
    parts = {key: key.removeprefix(_OF_LAYERS).rpartition(".") for key in of_layers}
    return {(layer, measure): key for key, (layer, _, measure) in parts.items()}


#: The panels without the data terms; the data term that is shown depends on the runs' loss.
COLLAPSE_PANELS = tuple(key for key in PANELS if key.startswith("nc"))


def data_term(losses: Iterable[str]) -> str:
    """Returns the key of the panel that shows the data term for runs with these losses.

    >>> data_term(["cross_entropy", "cross_entropy"]), data_term(["square"]), data_term([])
    ('cross_entropy', 'loss_data', 'loss_data')
    """
    return "cross_entropy" if set(losses) == {"cross_entropy"} else "loss_data"
