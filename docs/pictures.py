"""Draws the pictures of docs/metrics.md, from features whose numbers are known exactly: python docs/pictures.py."""

import sys
from collections.abc import Callable
from math import cos, isclose, pi, sin
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

import neurocollapse as nc

Array = NDArray[np.float64]

HERE = Path(__file__).parent / "pictures"
COLORS = ("#0072b2", "#d55e00", "#009e73")
#: Three unit vectors at equal angles: the simplex of three classes lies in a plane, so it can be drawn as it is.
SIMPLEX = np.array([[cos(a), sin(a)] for a in (pi / 2, pi / 2 + 2 * pi / 3, pi / 2 + 4 * pi / 3)])
STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "neurocollapse", "axes.titlesize": 9}


def rotated(vectors: Array, angle: float) -> Array:
    return vectors @ np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])


def clouds(means: Array, radius: float, per_class: int = 40) -> tuple[Array, NDArray[np.int64]]:
    """Samples around class means, in every class with the covariance (radius²/2) I, exactly."""
    rng = np.random.default_rng(0)
    parts = []
    for mean in means:
        noise = rng.normal(size=(per_class, 2))
        noise -= noise.mean(axis=0)
        noise @= np.linalg.inv(np.linalg.cholesky(noise.T @ noise / per_class)).T
        parts.append(mean + radius / 2**0.5 * noise)
    return np.concatenate(parts), np.repeat(np.arange(len(means)), per_class)


def panels(number: int, limit: float = 1.75) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(2.35 * number, 2.6), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(1, number)))
    for ax in axes:
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
        ax.spines[:].set_color("#cccccc")
    return figure, axes


def arrows(ax: Axes, vectors: Array, **style: object) -> None:
    for vector, color in zip(vectors, COLORS, strict=True):
        options = {"color": color, "width": 0.022, **style}
        ax.quiver(0, 0, *vector, angles="xy", scale_units="xy", scale=1, zorder=3, **options)


def nc1() -> Figure:
    """Σ_B = ½ I and Σ_W = (r²/2) I, so Tr(Σ_W Σ_B⁺) = 2r²."""
    figure, axes = panels(2)
    for ax, radius in zip(axes, (0.6, 0.05), strict=True):
        features, labels = clouds(SIMPLEX, radius)
        m = nc.measure(features, labels)
        assert isclose(m["nc1"], 2 * radius**2)
        for c, color in enumerate(COLORS):
            ax.scatter(*features[labels == c].T, s=7, color=color, alpha=0.5, linewidths=0)
        ax.scatter(*SIMPLEX.T, s=45, marker="x", color="black", zorder=4)
        ax.set_title(f"nc1 = {m['nc1']:.3g}")
    return figure


def nc2() -> Figure:
    """Means that form no simplex, and means that do. With three, equal norms and equal angles imply each other."""
    uneven = 1.3 * SIMPLEX * np.array([[1.3], [0.7], [1.0]])
    figure, axes = panels(2)
    for ax, means in zip(axes, (uneven - uneven.mean(axis=0), 1.3 * SIMPLEX), strict=True):
        m = nc.measure(means, np.arange(3))
        arrows(ax, means)
        ax.set_title(f"nc2_equinorm = {m['nc2_equinorm']:.2f}\nnc2_cosine = {m['nc2_cosine']:.2f}")
    assert max(m["nc2_equinorm"], m["nc2_cosine"]) < 1e-12
    return figure


def nc3() -> Figure:
    """W turned by an angle a against the means is at ‖W/‖W‖ − Ṁᵀ/‖Ṁ‖‖ = 2 sin(a/2); its length does not count."""
    figure, axes = panels(3)
    for ax, (angle, length) in zip(axes, ((0.6, 1.0), (0.15, 1.0), (0.0, 1.5)), strict=True):
        weight = length * rotated(SIMPLEX, angle)
        value = nc.measure(SIMPLEX, np.arange(3), weight)["nc3"]
        assert isclose(value, 2 * sin(angle / 2), abs_tol=1e-12)
        arrows(ax, SIMPLEX, alpha=0.45, width=0.04)
        arrows(ax, weight, color="black", width=0.012)
        ax.set_title(f"nc3 = {abs(value):.2f}")
    return figure


def nc4() -> Figure:
    """Where the classifier and the nearest mean decide differently: nowhere, once W is dual to equal means."""
    figure, axes = panels(2)
    grid = np.stack(np.meshgrid(*[np.linspace(-1.75, 1.75, 281)] * 2), axis=-1).reshape(-1, 2)
    for ax, (angle, radius) in zip(axes, ((0.45, 0.6), (0.0, 0.25)), strict=True):
        features, labels = clouds(SIMPLEX, radius)
        weight = rotated(SIMPLEX, angle)
        decided = (grid @ weight.T).argmax(axis=1)
        nearest = ((grid[:, None] - SIMPLEX) ** 2).sum(axis=2).argmin(axis=1)
        side = (281, 281)
        extent = (-1.75, 1.75, -1.75, 1.75)
        colors = np.array([mpl.colors.to_rgb(color) for color in COLORS])
        ax.imshow(0.8 + 0.2 * colors[decided].reshape(*side, 3), origin="lower", extent=extent, interpolation="none")
        differ = (decided != nearest).reshape(side).astype(float)
        ax.contourf(differ, levels=[0.5, 1.5], colors=["#777777"], alpha=0.55, extent=extent)
        for c, color in enumerate(COLORS):
            ax.scatter(*features[labels == c].T, s=7, color=color, linewidths=0)
        m = nc.measure(features, labels, weight)
        ax.set_title(f"nc4 = {m['nc4']:.3g}   accuracy = {m['accuracy']:.3g}")
    assert m["nc4"] == 0
    return figure


def sqi() -> Figure:
    """Outputs for a sample of the first of four classes, at minima of the unconstrained features model."""
    figure = Figure(figsize=(7.05, 2.2), layout="constrained")
    for ax, bias, off in zip(figure.subplots(1, 2, sharey=True), ("free", "none"), ("ε/(C − 1)", "0"), strict=True):
        model = nc.UnconstrainedModel(
            num_classes=4, per_class=10, num_features=4, weight_decay=0.05, feature_decay=0.005, bias=bias
        )
        outputs = nc.solve_unconstrained(model).class_outputs[0].numpy()
        ax.bar(range(1, 5), outputs, color=[COLORS[0], *["#999999"] * 3])
        ax.axhline(1, color="black", linewidth=0.8, linestyle=":")
        title = f"{'no bias' if bias == 'none' else 'a bias that does not decay'}: 1 − ε, and {off} elsewhere"
        ax.set(title=title, xlabel="output of class", xticks=range(1, 5), ylim=(0, 1.08))
        ax.spines[["top", "right"]].set_visible(False)
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {draw.__name__: draw for draw in (nc1, nc2, nc3, nc4, sqi)}


def main(folder: Path = HERE) -> None:
    folder.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, draw in PICTURES.items():
            # neither a date nor links in it, so that the same picture is the same file
            metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            draw().savefig(folder / f"{name}.svg", metadata=metadata)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
