"""The commands `verify` and `solve`: compare theory and measurement."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from .._errors import InputError, VerificationError
from .._files import to_json
from .parsing import refuse
from .printing import messages, out_console, print_frame, shown

if TYPE_CHECKING:
    from ..sweeps import RunFolder
    from ..theory import Comparison, TheoryTable


def verify(
    run: tyro.conf.Positional[Path | None] = None,
    data_dir: Path | None = None,
    device: str = "cpu",
    refine: int | None = None,
    exact: bool = False,
    force: bool = False,
    json: bool = False,
) -> int:
    """Compare each identity and prediction of the theory with what a trained network shows.

    For one run, it prints the whole table; for one on the cross-entropy, the sum of the classifier's rows, which weight
    decay alone moves under SGD. For a folder of runs, it prints their residuals side by side and keeps the
    tables in theory.json there.

    Example: neurocollapse verify results/reproduce

    Example: neurocollapse verify --exact

    Args:
        run: The folder of a finished run, or of several.
        data_dir: The folder that holds the published files of the data set.
        device: The device that computes the gradients: cpu, cuda, or cuda:1.
        refine: For a single run: first descend this many iterations of L-BFGS, on all data in float64, towards a
            critical point, where the theory applies. It stops sooner if it reaches one or can get no further. The point
            is kept in the run's folder, and the next call resumes from it.
        exact: Instead of a run, solve every problem that has an exact answer and print the digits of agreement.
        force: Report also on networks to which the theory does not apply, with every row marked.
        json: Print JSON, with NaN and infinity as the strings "nan", "inf", "-inf", and null where there is no value.
    """
    from ..sweeps import check_device, folders, verify_run
    from ..sweeps.refined_points import FILE as REFINED

    if (run is None) != exact:
        raise VerificationError("verify takes the folder of a run or of several, or --exact without one")
    if run is None:
        refuse("--exact takes no run", "data_dir", "refine", "force", "device")
        return _print_exact(json)
    check_device(device)
    found = folders(run)
    if not found:
        raise VerificationError(f"there are no runs in {run}; name a folder that --out made")
    if refine is not None and (found[0].path != run or refine < 1):
        raise VerificationError(f"--refine takes a number of iterations and a single run, got {refine} and {run}")
    if found[0].path == run:
        if refine is None:
            with messages.status("one full gradient in float64"):
                table = verify_run(found[0], data_dir=data_dir, device=device, force=force)
            if (run / REFINED).exists():
                messages.print(
                    f"at the run's last weights; a refined point is in {run / REFINED}, and --refine shows it"
                )
        else:
            table = _refined(found[0], refine, data_dir, device, force)
        out_console.print(to_json(table.to_dict(), indent=2) if json else str(table))
        return 0
    return _print_side_by_side(found, run / "theory.json", data_dir, device, force, json)


def _refined(run: "RunFolder", iterations: int, data_dir: Path | None, device: str, force: bool) -> "TheoryTable":
    """Refines the run's network, prints how the descent ended, and returns the table at that point."""
    from rich.progress import Progress, TextColumn

    from ..sweeps import Refinement

    refinement = Refinement(run, data_dir=data_dir, device=device, force=force)
    if refinement.iterations:
        messages.print(f"resuming after {refinement.iterations} iterations, from {refinement.path}")
    with Progress(*Progress.get_default_columns()[:3], TextColumn("{task.fields[news]}"), console=messages) as bar:
        task = bar.add_task("refining", total=iterations, news="")
        try:
            for state in refinement.descend(iterations):
                news = f"L {state.loss:.8g}  ‖∇L‖ {state.gradient_norm:.1e}  with slopes {state.subgradient_norm:.1e}"
                bar.update(task, completed=state.iteration, news=news)
        except KeyboardInterrupt as stop:  # or a kind of it
            raise type(stop)(f"the point is kept in {refinement.path}, and --refine resumes from it") from None
    messages.print(
        f"{state.status} after {refinement.iterations + state.iteration} iterations: L = {state.loss:.10g}, "
        f"‖∇L‖ = {state.gradient_norm:.2e} with ReLU'(0) = 0, {state.subgradient_norm:.2e} with the slopes found for "
        f"{state.kinks} pre-activations at the kink (aim: {1e-8 * (1 + state.weight_norm):.1e})"
    )
    return refinement.table()


def _print_side_by_side(
    found: "list[RunFolder]", theory_file: Path, data_dir: Path | None, device: str, force: bool, json: bool
) -> int:
    from ..sweeps import TheoryFile, keep_tables, run_labels

    tables = keep_tables(found, theory_file, data_dir=data_dir, device=device, force=force, progress=True)
    if json:
        print(to_json({folder.path.name: table.to_dict() for folder, table in tables.items()}, indent=2))
    elif tables:
        labels = run_labels([folder.config for folder in tables])
        _print_residuals(dict(zip(labels, tables.values(), strict=True)))
        kept = TheoryFile(theory_file, force=force)
        where = f"every number is in {theory_file}; " if all(map(kept.get, tables)) else ""
        out_console.print(f"{where}`neurocollapse verify RUN` prints the table of one")
    return 0 if len(tables) == len(found) else 1 if tables else 2


def _print_exact(json: bool) -> int:
    """Prints the digits of agreement on every exact problem; returns status 1 if one of them is missed."""
    import pandas as pd
    from rich.progress import track

    from ..theory import EXACT, EXACT_TOLERANCE

    found: dict[str, list[Comparison]] = {}
    for about, solve_all in track(EXACT.items(), "solving", console=messages):
        found[about] = list(solve_all())
    if json:
        print(to_json({about: [_exact_row(row) for row in rows] for about, rows in found.items()}, indent=2))
    else:
        for about, comparisons in found.items():
            frame = pd.DataFrame([_exact_row(comparison) for comparison in comparisons])
            print_frame(frame.assign(digits=frame["digits"].map("{:.1f}".format)).map(shown), about)
        least = min((row for rows in found.values() for row in rows), key=lambda row: row.digits)
        total = sum(map(len, found.values()))
        out_console.print(f"{total} numbers; least agreement {least.digits:.1f} digits ({least.name})")
    return 0 if all(row.residual <= EXACT_TOLERANCE for rows in found.values() for row in rows) else 1


def _exact_row(comparison: "Comparison") -> dict[str, Any]:
    return {
        "": comparison.name,
        "exact": comparison.predicted,
        "found": comparison.measured,
        "digits": comparison.digits,
        "reference": comparison.reference,
    }


def solve(
    num_classes: int = 10,
    per_class: tuple[int, ...] = (50,),
    num_features: int | None = None,
    weight_decay: float = 5e-3,
    feature_decay: float = 2e-4,
    loss: Literal["square", "cross_entropy"] = "square",
    bias: Literal["none", "free", "decayed"] = "none",
    bias_decay: float | None = None,
    features: Literal["free", "relu"] = "free",
    layers: int = 1,
    seed: int = 0,
    starts: int | None = None,
    convex: bool = False,
    json: bool = False,
) -> int:
    """Minimise the unconstrained features model from random starts, and compare the minimum with its closed form.

    The model is (1/2N) ‖W H + b1ᵀ − Y‖² + (λ_W/2) ‖W‖² + (λ_H/2) ‖H‖² over the classifier, the features themselves and,
    if there is one, the bias.

    Example: neurocollapse solve --num-classes 100 --per-class 50 --num-features 128 --bias free

    Args:
        num_classes: C, the number of classes, at least two.
        per_class: Number of samples of every class, or one number for each class.
        num_features: p, the length of the features; by default C.
        weight_decay: λ_W, the λ of Eq. 1.
        feature_decay: λ_H, the decay of the features of all samples together.
        loss: The data term, square or cross_entropy.
        bias: The bias of the classifier: none, free of decay, or decayed.
        bias_decay: λ_b of a decayed bias; by default λ_W.
        features: The sign of the features: free for either sign, relu for H ≥ 0.
        layers: Number of linear layers above the features.
        seed: The seed of the random starts; the same seed gives the same numbers.
        starts: Number of starts; by default one if every minimum is global, else eight, or sixteen for several layers.
        convex: Solve the convex form instead, (1/2N) ‖Z − Y‖² + √(λ_Wλ_H) ‖Z‖_*, with its dual certificate.
        json: Print JSON, with NaN and infinity as the strings "nan", "inf", "-inf", and null where there is no value.
    """
    from ..theory import UnconstrainedModel, solve_convex, solve_unconstrained

    model = UnconstrainedModel(
        num_classes=num_classes,
        per_class=per_class[0] if len(per_class) == 1 else per_class,
        num_features=num_classes if num_features is None else num_features,
        weight_decay=weight_decay,
        feature_decay=feature_decay,
        loss=loss,
        bias=bias,
        bias_decay=weight_decay if bias == "decayed" and bias_decay is None else bias_decay,
        features=features,
        layers=layers,
    )
    if convex:
        if (loss, bias, layers, features) != ("square", "none", 1, "free"):
            raise InputError(
                "--convex is for the square loss with one layer, no bias and features of either sign; leave out the "
                "options for others"
            )
        refuse("--convex needs no start", "seed", "starts", "num_features")
        certified = solve_convex(model.counts, weight_decay=weight_decay, feature_decay=feature_decay)
        out_console.print(to_json(certified.to_dict(), indent=2) if json else str(certified))
        return 0
    with messages.status("solving"):
        solution = solve_unconstrained(model, seed=seed, starts=starts)
    out_console.print(to_json(solution.to_dict(), indent=2) if json else str(solution))
    return 0


def _print_residuals(tables: "dict[str, TheoryTable]") -> None:
    """Prints the residuals of several runs, a column each."""
    import pandas as pd

    from ..sweeps import ALONG
    from ..theory import STATEMENTS, SUMS

    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for label, table in tables.items():
        for reading, comparisons in table.sections.items():
            for comparison in comparisons:
                row = rows.setdefault((reading, comparison.name), {"": comparison.name})
                row[label] = f"{comparison.residual:.1e}"
    for reading in (*STATEMENTS, ALONG, SUMS):
        frame = pd.DataFrame([row for (of, _), row in rows.items() if of == reading], columns=["", *tables])
        if len(frame):
            print_frame(frame, f"residuals {reading}")
