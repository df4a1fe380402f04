"""Compares two solvers of the unconstrained features model: Newton's method on class means, and L-BFGS on all features.

Seconds are medians of runs that take turns; the last column is a ratio. Name cases to run only those.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from neurocollapse.theory import UnconstrainedModel, solve_convex, solve_unconstrained
from neurocollapse.theory.unconstrained.closed_forms import closed_form


def plain(model: UnconstrainedModel, iterations: int = 200) -> tuple[float, float]:
    """L-BFGS in W, the features of all N samples and b, from one Gaussian start: the loss and its gradient's norm."""
    generator = torch.Generator().manual_seed(0)
    C, N, p = model.num_classes, model.num_samples, model.num_features

    def draw(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator, dtype=torch.float64) / p**0.5).requires_grad_()

    weight, features = draw(C, p), draw(N, p)
    bias = torch.zeros(C, dtype=torch.float64, requires_grad=True) if model.bias != "none" else None
    leaves = [weight, features] if bias is None else [weight, features, bias]
    optimizer = torch.optim.LBFGS(
        leaves,
        max_iter=iterations,
        max_eval=2 * iterations,
        tolerance_grad=1e-12,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model.objective([weight], features, bias)
        loss.backward()
        return loss

    optimizer.step(closure)
    loss = closure().item()
    return loss, torch.cat([leaf.grad.flatten() for leaf in leaves]).norm().item()


def seconds(function: Callable[[], object], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def square(bias: str) -> None:
    """C = 100, n = 50, p = 128."""
    model = UnconstrainedModel(
        num_classes=100, per_class=50, num_features=128, weight_decay=5e-4, feature_decay=5e-4, bias=bias
    )
    optimum, found = closed_form(model).loss, solve_unconstrained(model)
    show("closed form", f"loss {optimum:.14f}")
    own = seconds(lambda: solve_unconstrained(model), 5)
    show("solve_unconstrained", *result(found.loss, found.gradient_norm, optimum), f"{own:.2f} s")
    start = time.perf_counter()
    loss, gradient_norm = plain(model)
    theirs = time.perf_counter() - start
    show("plain L-BFGS", *result(loss, gradient_norm, optimum), f"{theirs:.2f} s", f"{theirs / own:.0f}")
    show("all metrics and comparisons", f"{seconds(lambda: str(found), 1):.2f} s")


def result(loss: float, gradient_norm: float, optimum: float) -> tuple[str, str]:
    return f"off by {loss - optimum:.0e}", f"gradient {gradient_norm:.0e}"


def relu() -> None:
    """Eight starts."""
    model = UnconstrainedModel(
        num_classes=10,
        per_class=50,
        num_features=32,
        weight_decay=5e-3,
        feature_decay=1e-4,
        bias="free",
        features="relu",
    )
    show("H ≥ 0, C = 10, eight starts", f"{seconds(lambda: solve_unconstrained(model), 3):.2f} s")


def convex() -> None:
    counts = [50] * 500 + [20] * 500

    def solve() -> float:
        return solve_convex(counts, weight_decay=1e-4, feature_decay=1e-5).duality_gap

    show("C = 1000, N = 35,000, with its certificate", f"{seconds(solve, 3):.2f} s", f"gap {solve():.0e}")


def show(*cells: str) -> None:
    print("".join(f"{cell:<48}" if i == 0 else f"{cell:>18}   " for i, cell in enumerate(cells)), flush=True)


CASES: dict[str, Callable[[], None]] = {
    "square loss, no bias": lambda: square("none"),
    "square loss, free bias": lambda: square("free"),
    "relu": relu,
    "convex": convex,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="by default all")
    for case in parser.parse_args().cases:
        print(f"-- {case}: {torch.get_num_threads()} threads", flush=True)
        CASES[case]()


if __name__ == "__main__":
    main()
