"""Tables and figure of docs/grid.md from a folder of runs: python docs/grid.py RUNS."""

import sys
from pathlib import Path

import pandas as pd

import neurocollapse as nc
from neurocollapse.figures import save_figure, trade_off_figure
from neurocollapse.tables import ORDERED_KEYS, SUMMARY_KEYS, final_records, number, summary

HERE = Path(__file__).parent


def markdown(frame: pd.DataFrame) -> str:
    """A GitHub table, the index its first column."""
    header = [frame.index.name or "", *map(str, frame.columns)]
    rows = [[str(index), *map(str, row)] for index, row in zip(frame.index, frame.to_numpy(), strict=True)]
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def verdict(final: pd.DataFrame, key: str) -> str:
    """Whether λ = 0 lies above every λ > 0: by every seed, in the means, or not."""
    without, decayed = final[final.weight_decay == 0], final[final.weight_decay > 0]
    if without[key].mean() <= decayed.groupby("weight_decay")[key].mean().max():
        return "does not hold"
    return "holds" if without[key].min() > decayed[key].max() else "in the means"


def main(runs: Path) -> None:
    frame = nc.runs(runs)
    final = final_records(frame)
    save_figure(trade_off_figure(frame), HERE, "grid")
    table = summary(frame, by=("network", "weight_decay"))
    table.to_csv(HERE / "grid.csv", index=False)
    sections = []
    for network, part in table[table.key.isin(SUMMARY_KEYS)].groupby("network"):
        text = part.assign(text=[number(m, d) for m, d in zip(part["mean"], part["deviation"], strict=True)])
        wide = text.pivot(index="key", columns="weight_decay", values="text").reindex(SUMMARY_KEYS)
        wide.columns = pd.Index([f"λ = {column:g}" for column in wide.columns])
        wide.index = pd.Index([key.removeprefix("train.") for key in wide.index], name="")
        sections.append(f"### {network}\n\n{markdown(wide)}")
    finished = final[final.status == "finished"]
    verdicts = pd.DataFrame(
        {
            network: {key.removeprefix("train."): verdict(part, key) for key in ORDERED_KEYS}
            for network, part in finished.groupby("network")
        }
    )
    sections.append(f"### The paper's ordering\n\n{markdown(verdicts)}")
    unfinished = final.loc[final.status != "finished", "run_id"].tolist()
    sections.append(f"Runs that did not finish: {', '.join(unfinished) or 'none'}.")
    print("\n\n".join(sections))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
