"""What the commands print: tables for people, JSON for programs, messages beside them."""

import math
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    import pandas as pd

# Without markup and emoji: paths may hold [brackets] and :colons:. So wide that no table is cut short: in a pipe rich
# would take 80 columns for all there are.
out_console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False, width=1000)
messages = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def rows(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """The rows for JSON, where what is missing is null."""
    import pandas as pd

    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()} for row in frame.to_dict("records")
    ]


def shown(value: Any) -> str:
    if isinstance(value, float):
        if value.is_integer() and value < 1e9:  # epochs too, which beside a missing one are floats
            return f"{value:.0f}"
        return "" if math.isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)


def print_frame(frame: "pd.DataFrame", title: str) -> None:
    import pandas as pd
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for place, column in enumerate(frame):
        table.add_column(str(column), justify="left" if place == 0 else "right", no_wrap=True)
    for row in frame.itertuples(index=False):
        table.add_row(*("" if pd.isna(cell) else str(cell) for cell in row))
    out_console.print(table, crop=False)
