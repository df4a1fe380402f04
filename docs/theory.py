"""Makes the figures and tables of docs/theory.md: python docs/theory.py NAME=RUN...; runs of one name look alike."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from figures import minority_figure, theory_figure
from torch import nn

import neurocollapse as nc
from neurocollapse.reports import save_figure
from neurocollapse.sweeps import RunFolder, objective_of_run
from neurocollapse.theory import balance_along_flow, gather_evidence, theory_table
from neurocollapse.training import FullBatch, gradient_flow

HERE = Path(__file__).parent
DECAY = 0.01
TIMES = [0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0]


def small_digits() -> FullBatch:
    """200 digits at 8×8 pixels and three layers, started so that the layers' norms differ."""
    data = nc.load_dataset("mnist5k", per_class=20).train
    torch.manual_seed(0)
    model = nc.build_network("mlp", (1, 8, 8), 10, depth=3, width=32)
    for parameter in model.parameters():
        nn.init.kaiming_normal_(parameter)
    decays = {name: DECAY for name, _ in model.named_parameters()}
    return FullBatch(model, nn.functional.adaptive_avg_pool2d(data.images, 8), data.labels, decays)


def along_the_flow() -> pd.DataFrame:
    """The layers' norms at each time, and what holds on the way."""
    objective = small_digits()
    rows, norms, table = [], [], None
    for state in gradient_flow(objective, TIMES, rtol=1e-6, atol=1e-7):
        table = theory_table(gather_evidence(objective))
        worst = max(row.residual for row in table.sections["identities, at every point"])
        norms.append(state.weight_norms)
        layers = {f"W_{layer + 1}": norm for layer, norm in enumerate(state.weight_norms)}
        path = {key: table.facts[key] for key in ("L(W_LS)", "L − L(W_LS)", "‖W − W_LS‖/‖W‖")}
        rows.append({"time": state.time, **layers, "L": state.loss, **path, "identities": worst})
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format))
    for row in balance_along_flow(TIMES, norms, DECAY):
        print(f"{row.name}: residual {row.residual:.1e}")
    return pd.DataFrame(rows)[["time", "W_1", "W_2", "W_3"]]


def descent_against_the_flow() -> pd.DataFrame:
    """‖W_descent − W_flow‖/‖W_flow‖ at time 2 for smaller and smaller learning rates of full-batch gradient descent."""
    objective = small_digits()
    start = objective.point
    *_, flow = gradient_flow(objective, [2.0], rtol=1e-8, atol=1e-9)
    rows = []
    for rate in (4e-3, 2e-3, 1e-3, 5e-4):
        point = start.clone()
        for _ in range(round(2.0 / rate)):
            point -= rate * objective(point)[1]
        rows.append({"learning rate": rate, "distance": ((point - flow.point).norm() / flow.point.norm()).item()})
    return pd.DataFrame(rows)


def rows_of(runs: list[tuple[str, Path]]) -> Iterator[dict[str, object]]:
    """Predicted and measured ‖W^c‖², class by class."""
    for name, path in runs:
        evidence = gather_evidence(objective_of_run(RunFolder(path)))
        C, gap = evidence.num_classes, evidence.measurement["sqi_gap"]
        predicted = (gap - C / (C - 1) * gap**2) / (C * evidence.weight_decay)
        for measured in evidence.classifier.weight.square().sum(dim=1).tolist():
            yield {"network": name, "predicted": predicted, "measured": measured}


def minority() -> tuple[pd.DataFrame, float]:
    """One small class beside three of 100 samples: its output, and the size at which it collapses."""
    decays = {"weight_decay": 5e-3, "feature_decay": 5e-3}
    rows = []
    for size in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 50, 100):
        model = nc.UnconstrainedModel(num_classes=4, per_class=(100, 100, 100, size), num_features=6, **decays)
        solution = nc.solve_unconstrained(model)
        found = solution.class_outputs[-1, -1].item()
        rows.append({"size": size, "found": found, "closed_form": solution.closed_form.own_outputs[-1]})
    product = 25e-6  # n = (300 + n)² product at the threshold
    threshold = ((1 - 600 * product) - ((1 - 600 * product) ** 2 - 4 * product**2 * 90_000) ** 0.5) / (2 * product)
    return pd.DataFrame(rows), threshold


def main(runs: list[tuple[str, Path]]) -> None:
    frame, threshold = minority()
    save_figure(minority_figure(frame, threshold), HERE, "minority")
    print(frame.to_string(index=False), f"\nthreshold {threshold:.4f}\n")
    print(descent_against_the_flow().to_string(index=False), "\n")
    flow = along_the_flow()
    note = f"Right: three layers on 200 digits of 8×8 pixels, λ = {DECAY:g}, gradient flow in float64."
    save_figure(theory_figure(pd.DataFrame(rows_of(runs)), flow, DECAY, note), HERE, "theory")


if __name__ == "__main__":
    main([(name, Path(path)) for name, _, path in (word.partition("=") for word in sys.argv[1:])])
