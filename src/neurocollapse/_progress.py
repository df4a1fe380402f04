"""Shows progress on the standard error: lines, and bars with the time left. It loads rich at the first use."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from ._errors import printable

if TYPE_CHECKING:
    import rich.console
    import rich.progress

T = TypeVar("T")


def console_of(**options: Any) -> "rich.console.Console":
    """Returns a console that prints text as it is: words in [brackets] or :colons:, but escapes made visible."""
    from rich.console import Console
    from rich.text import Text

    class PlainConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)

    return PlainConsole(soft_wrap=True, highlight=False, markup=False, emoji=False, **options)


class Progress:
    """Shows lines, bars and a status while work goes on.

    Args:
        wanted: whether to show anything; None shows it in a terminal and in a notebook.
    """

    def __init__(self, wanted: bool | None = None):
        self.wanted = wanted

    @cached_property
    def console(self) -> "rich.console.Console":
        """The console, for rich's own widgets. It prints nothing if no progress is wanted."""
        console = console_of(stderr=True)
        shows = console.is_terminal or console.is_jupyter if self.wanted is None else self.wanted
        console.quiet = not shows
        return console

    def say(self, line: str) -> None:
        """Prints a line, above the bars if there are any."""
        self.console.print(line)

    @contextmanager
    def status(self, what: str) -> Iterator[None]:
        """Shows that something is being done, without an estimate of the time."""
        with self.console.status(what):
            yield

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """Yields the items and shows a bar that counts them; no bar if there are none."""
        from rich.progress import track

        yield from track(items, what, total, console=self.console, disable=total == 0)

    @contextmanager
    def bars(self, *columns: str) -> Iterator["rich.progress.Progress"]:
        """Shows rich's bars: name, bar, the columns, such as "epoch {task.completed}", and the time left."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            *(TextColumn(column) for column in columns),
            TimeRemainingColumn(),
            console=self.console,
            speed_estimate_period=600,  # epochs of a large data set come minutes apart
        ) as bars:
            yield bars


def duration(seconds: float) -> str:
    """Returns a duration as text: `45 s`, `3 min 20 s`, `2 h 5 min`.

    >>> duration(200.0)
    '3 min 20 s'
    """
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
