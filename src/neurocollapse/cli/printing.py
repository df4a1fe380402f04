"""Prints tables for people, JSON for programs, and messages beside them."""

import math
from typing import TYPE_CHECKING, Any

from .._progress import console_of

if TYPE_CHECKING:
    import pandas as pd

# It is so wide that no table is cut short, since rich would assume 80 columns in a pipe.
out_console = console_of(width=1000)
messages = console_of(stderr=True)


def rows(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Returns the rows for JSON, with missing values as null."""
    import pandas as pd

    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()} for row in frame.to_dict("records")
    ]


def shown(value: Any) -> str:
    """Formats a value for a table: four digits for a float, and empty for None and NaN."""
    if isinstance(value, float):
        if value.is_integer() and value < 1e9:  # also epochs, which are floats if one of them is missing
            return f"{value:.0f}"
        return "" if math.isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)


def print_frame(frame: "pd.DataFrame", title: str) -> None:
    """Prints a data frame as a table under a title."""
    import pandas as pd
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for place, column in enumerate(frame):
        table.add_column(str(column), justify="left" if place == 0 else "right", no_wrap=True)
    for row in frame.itertuples(index=False):
        table.add_row(*("" if pd.isna(cell) else str(cell) for cell in row))
    out_console.print(table, crop=False)
