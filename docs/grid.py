"""Makes the tables and the figure of docs/grid.md from a folder of runs: python docs/grid.py RUNS."""

import sys
from pathlib import Path

import pandas as pd
from figures import trade_off_figure

import neurocollapse as nc
from neurocollapse.reports import paper_ordering, save_figure, summary, wide
from neurocollapse.reports.summaries import SUMMARY_KEYS, final_records

HERE = Path(__file__).parent


def markdown(frame: pd.DataFrame) -> str:
    """A GitHub table, the index its first column."""
    header = [frame.index.name or "", *map(str, frame.columns)]
    rows = [[str(index), *map(str, row)] for index, row in zip(frame.index, frame.to_numpy(), strict=True)]
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(runs: Path) -> None:
    frame = nc.runs(runs)
    final = final_records(frame)
    save_figure(trade_off_figure(frame), HERE, "grid")
    table = summary(frame, by=("network", "weight_decay"))
    table.to_csv(HERE / "grid.csv", index=False)
    sections = []
    for network, part in table[table.key.isin(SUMMARY_KEYS)].groupby("network"):
        laid_out = wide(part).reindex(SUMMARY_KEYS)
        sections.append(f"### {network}\n\n{markdown(laid_out)}")
    verdicts = pd.DataFrame({network: paper_ordering(part) for network, part in frame.groupby("network")})
    sections.append(f"### The paper's ordering\n\n{markdown(verdicts)}")
    unfinished = final.loc[final.status != "finished", "run_id"].tolist()
    sections.append(f"Runs that did not finish: {', '.join(unfinished) or 'none'}.")
    print("\n\n".join(sections))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
