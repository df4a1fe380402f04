"""Train the cells of docs/map.md, each to rest: python docs/map.py OUT [--worker K --workers N] [--minutes M].

A line of OUT/cells-K.jsonl for each cell; a cell that has its line is not trained again. With --draw it trains nothing:
it gathers the lines in OUT into docs/map.jsonl, draws docs/map-NETWORK-OPTIMISER.png from them and prints the tables.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch

import neurocollapse as nc
from neurocollapse import DivergedError
from neurocollapse.reports import least_over, map_figure, map_table, save_figure
from neurocollapse.training import FullBatch, State, epochs, network_of

STARTS: dict[str, dict[str, object]] = {
    "default": {"initialization": "default"},
    "norm 4": {"initialization": "norm", "initial_norm": 4.0},
    "kaiming": {"initialization": "kaiming"},
    "norm 8": {"initialization": "norm", "initial_norm": 8.0},
    "norm 2": {"initialization": "norm", "initial_norm": 2.0},
    "norm 16": {"initialization": "norm", "initial_norm": 16.0},
}
DECAYS = (5e-4, 0.0, 1.5e-4, 2e-3, 4e-5, 1e-5)
OPTIMIZERS = {"sgd": {"batch_size": 64}, "muon": {"batch_size": 128}}
SEEDS = (0, 1, 2)
FEW_DECAYS, FEW_STARTS = DECAYS[:2] + DECAYS[3:4], ("default", "norm 4", "kaiming")
RATES = (0.1, 0.03, 0.01, 0.003, 0.001)
ROUNDS = (40, 80, 160)
TRIED, LEARNT = 4, 0.45
GRADIENT, SPREAD, LEVEL = 0.1, 0.1, 1e-4

Cell = tuple[int, str, float, str, str]


def cells() -> Iterator[Cell]:
    """Seed, network, λ, start, optimiser, in the order of training."""
    for seed in SEEDS:
        yield from itertools.product((seed,), ("mlp",), DECAYS, STARTS, ("sgd",))
        yield from itertools.product((seed,), ("convnet",), FEW_DECAYS, FEW_STARTS, ("sgd",))
        yield from itertools.product((seed,), ("mlp", "convnet"), FEW_DECAYS, FEW_STARTS, ("muon",))


def config_of(cell: Cell) -> nc.RunConfig:
    seed, network, weight_decay, start, optimizer = cell
    return nc.RunConfig.of_version(
        2,
        dataset="mnist5k",
        network=network,
        depth=5,
        width=512,
        bias="none",
        loss="square",
        weight_decay=weight_decay,
        decay_start=1.0,
        optimizer=optimizer,  # type: ignore[arg-type]
        momentum=0.9,
        schedule="linear",
        precision="float32",
        seed=seed,
        **STARTS[start],  # type: ignore[arg-type]
        **OPTIMIZERS[optimizer],  # type: ignore[arg-type]
    )


def relative_gradient(config: nc.RunConfig, data: nc.Dataset, state: State) -> tuple[float, float]:
    """‖∇L‖ / (‖∇L_data‖ + λ‖W‖) on all training data, in float64, and max/min − 1 of the ‖W_l‖²."""
    model = network_of(config, data)
    prefix = "model."
    model.load_state_dict({k.removeprefix(prefix): v for k, v in state.tensors.items() if k.startswith(prefix)})
    full = FullBatch(model, data.train.images, data.train.labels, {})
    _, gradient = full.data_gradient()
    decay = config.weight_decay * full.point
    norms = [p.detach().square().sum().item() for p in full.parameters.values()]
    return ((gradient + decay).norm() / (gradient.norm() + decay.norm())).item(), max(norms) / min(norms) - 1


def at_rest(config: nc.RunConfig, record: dict[str, object], gradient: float, spread: float) -> bool:
    if config.weight_decay == 0:
        return record["train.loss_data"] <= LEVEL and record["train.accuracy"] == 1  # type: ignore[operator]
    return gradient <= GRADIENT and spread <= SPREAD


def chosen_rate(config: nc.RunConfig, data: nc.Dataset) -> float | None:
    """The largest rate at which some epochs learn something: the data term falls below the one of a constant output."""
    for rate in RATES:
        try:
            *_, last = epochs(replace(config, learning_rate=rate, schedule="constant", epochs=TRIED), data)
        except DivergedError:
            continue
        assert last.record is not None
        if last.record["train.loss_data"] < LEARNT:
            return rate
    return None


def trained(cell: Cell, data: nc.Dataset) -> dict[str, object]:
    """The cell's line: each round's end, and the curve."""
    start = time.perf_counter()
    config = config_of(cell)
    line: dict[str, object] = dict(zip(("seed", "network", "weight_decay", "start", "optimizer"), cell, strict=True))
    rate = chosen_rate(config, data)
    line |= {"learning_rate": rate, "rest": False, "rounds": []}
    if rate is None:
        return line | {"seconds": time.perf_counter() - start}
    config = replace(config, learning_rate=rate)
    rounds, curve, before, resume = [], [], 0, None
    try:
        for length in ROUNDS:
            config = replace(config, epochs=length)
            for state in epochs(config, data, resume=resume):
                if state.record is not None:
                    kept = {
                        key: state.record[f"train.{key}"] for key in ("loss", "loss_data", "nc1", "nc3", "accuracy")
                    }
                    curve.append({"epoch": before + state.epoch, **kept})
            before += length
            assert state.record is not None
            gradient, spread = relative_gradient(config, data, state)
            rounds.append({"epochs": before, "relative_gradient": gradient, "norm_spread": spread, **state.record})
            line["rest"] = at_rest(config, state.record, gradient, spread)
            if line["rest"]:
                break
            tensors = {
                name: torch.zeros_like(t) if "optimizer." in name else t.clone() for name, t in state.tensors.items()
            }
            resume = (tensors | {"epoch": torch.tensor(0)}, state.record)
    except DivergedError as error:
        line["diverged"] = str(error)
    return line | {"rounds": rounds, "curve": curve, "config": asdict(config), "seconds": time.perf_counter() - start}


def cell_of(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line[key] for key in ("seed", "network", "weight_decay", "start", "optimizer"))


def lines_in(out: Path) -> list[dict[str, Any]]:
    """The lines of all files in a folder, in the order of `cells`, each cell once."""
    found = {}
    for path in sorted(out.glob("*.jsonl")):
        for text in path.read_text().splitlines():
            line = json.loads(text)
            found[cell_of(line)] = line
    order = {cell: place for place, cell in enumerate(cells())}
    return [found[cell] for cell in sorted(found, key=order.__getitem__)]


#: The measures that are judged, as the paper has them.
JUDGED = ("nc1", "nc2_equinorm", "nc2_cosine", "nc3", "nc4")
FACTOR = 2


def verdicts(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """For each start: where λ = 0 lies, in every seed, against the cells with λ > 0, by the rule of the page."""
    ended = pd.DataFrame(
        [{**line, **{key: line["rounds"][-1][f"train.{key}"] for key in JUDGED}} for line in lines if line["rounds"]]
    )
    rows = []
    for names, cells in ended.groupby(["network", "optimizer", "start"], sort=False):
        seeds = [seed.set_index("weight_decay") for _, seed in cells.groupby("seed")]
        pairs = [(seed.loc[0.0], seed.drop(index=0.0)) for seed in seeds if 0.0 in seed.index and len(seed) > 1]
        row = dict(zip(("network", "optimizer", "start"), names, strict=True))
        row |= {"seeds": len(pairs), "at rest": f"{int(cells['rest'].sum())} of {len(cells)}"}
        for key in JUDGED:
            least = [(without[key], decays[key].min()) for without, decays in pairs]
            above = all(alone >= FACTOR * other and alone > other for alone, other in least)
            below = all(alone < other for alone, other in least)
            row[key] = "above" if above and pairs else "below" if below and pairs else "neither"
        rows.append(row)
    return pd.DataFrame(rows)


#: In these the cells of a row differ too, and the map has no rows for them.
OF_THE_CELL = {"learning_rate": 0.1, "epochs": 1}


def _numbers(record: dict[str, Any]) -> dict[str, Any]:
    """Without the norms of the layers, which are several in a cell."""
    return {key: value for key, value in record.items() if not isinstance(value, list)}


def draw(lines: list[dict[str, Any]]) -> None:
    """Draws a map of each network and optimiser, and prints its tables."""
    kinds = sorted({(line["network"], line["optimizer"]) for line in lines})
    print(verdicts(lines).to_string(index=False))
    for network, optimizer in kinds:
        told = [
            line for line in lines if (line["network"], line["optimizer"]) == (network, optimizer) and line["rounds"]
        ]
        rows = [
            {"run_id": str(number), **line["config"], **_numbers(line["rounds"][-1]), **OF_THE_CELL}
            for number, line in enumerate(told)
        ]
        table = map_table(pd.DataFrame(rows))
        seeds = sorted({line["seed"] for line in told})
        title = f"{network}, {optimizer}, {len(told)} cells, seeds {', '.join(map(str, seeds))}"
        note = "median over seeds at the end of the last round; in brackets: not at rest"
        with TemporaryDirectory() as folder:
            drawn = save_figure(map_figure(table, title=title, note=note), Path(folder))[0]
            Path(__file__).with_name(f"map-{network}-{optimizer}.png").write_bytes(drawn.read_bytes())
        for key in JUDGED:
            found = least_over(table, "weight_decay", key)
            print(f"\n{title}: {key}", found.to_string(index=False, float_format="{:.3g}".format), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell after these")
    parser.add_argument("--draw", action="store_true", help="draw what is there, and train nothing")
    arguments = parser.parse_args()
    if arguments.draw:
        lines = lines_in(arguments.out)
        Path(__file__).with_suffix(".jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return draw(lines)
    torch.set_num_threads(1)
    data = nc.load_dataset("mnist5k")
    arguments.out.mkdir(parents=True, exist_ok=True)
    done = {cell_of(line) for line in lines_in(arguments.out)}
    start = time.monotonic()
    for index, cell in enumerate(cells()):
        if index % arguments.workers != arguments.worker or cell in done:
            continue
        if time.monotonic() - start > 60 * arguments.minutes:
            break
        line = trained(cell, data)
        with (arguments.out / f"cells-{arguments.worker}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        last = line["rounds"][-1] if line["rounds"] else {}  # type: ignore[index]
        print(
            cell,
            line["learning_rate"],
            line["rest"],
            {
                k: last.get(k)
                for k in ("epochs", "relative_gradient", "norm_spread", "train.loss", "train.nc1", "train.nc3")
            },
            f"{line['seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
