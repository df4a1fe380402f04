"""A store for each place whose features are captured, with the names of its samples."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ..._errors import InputError
from ...networks import Head
from .names import Names, Origin
from .samples import Rows
from .store import Budget, FeatureStore
from .subset import Quota
from .taps import InputOf

#: Takes the features, the labels and the head of a batch.
Sink = Callable[[Tensor, Tensor, Head | None], object]
#: A place whose rows are taken: the head's input, None; a layer's output, by name; or a layer's input.
Key = str | InputOf | None


class Stores:
    """A store for each place, which is made when its first features arrive."""

    def __init__(self, budget: Budget, folder: Path | None, expected: int | None, max_per_class: int | None):
        self.budget, self.folder, self.expected = budget, folder, None if max_per_class else expected
        self.max_per_class = max_per_class
        self.quotas: dict[Key, Quota] = {}
        self.by_place: dict[Key, FeatureStore] = {}
        self.names: dict[Key, Names] = {}
        self.num_rows = 0

    def keep(self, taken: dict[Key, Rows], origin: Origin, sink: Sink | None, head: Head | None) -> None:
        """Keeps a batch's rows of each place, or passes those of the only one to the sink."""
        if sink is not None and len(taken) > 1:
            raise InputError(f"a sink takes features of one place, but the layer gives {', '.join(map(str, taken))}")
        for key, rows in taken.items():
            features, labels, source = self._within_quota(key, rows)
            if not len(features):  # all ignored, or none wanted
                continue
            self.num_rows += len(features)
            names = self.names.setdefault(key, Names(kept=sink is None))
            names.add(source, origin)
            if sink is not None:
                with names.naming():
                    sink(features, labels, head)
                continue
            if key not in self.by_place:
                self.by_place[key] = FeatureStore(self.budget, self.folder, expected=self.expected)
            try:
                self.by_place[key].append(features, labels)
            except ValueError as error:
                raise InputError(f"{'the head' if key is None else f'layer {str(key)!r}'}: {error}") from error

    def _within_quota(self, key: Key, rows: Rows) -> Rows:
        if self.max_per_class is None:
            return rows
        wanted = self.quotas.setdefault(key, Quota(self.max_per_class))(rows.labels).to(rows.labels.device)
        return Rows(*(part[wanted] for part in rows))

    def close_on_error(self, kind: object, *_: object) -> None:
        """Releases memory and files, as the end of a context in which something was raised."""
        if kind is not None:
            for store in self.by_place.values():
                store.close()
