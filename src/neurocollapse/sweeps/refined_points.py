"""Refines a run's network to a critical point, which is saved beside the run so that the descent can be stopped."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from .._errors import InputError, RunError
from .._files import atomic_path, check_opens, in_one_line, irregular
from ..theory import TheoryTable, check_evaluates, check_theory_applies, table_of
from ..training import RefinementState, refine
from .files import unreadable
from .folder import RunFolder
from .theory_tables import objective_of_run

FILE = "refined.safetensors"

#: Iterations of L-BFGS between two updates of the slopes.
_ROUND = 20

#: A killed process loses at most this much of the descent.
_SAVE_SECONDS = 5.0


class Refinement:
    """The descent of one run's network, from its last weights or from where an earlier descent stopped.

    The point is kept in the run's folder as refined.safetensors: the network's parameters in float64, the iterations so
    far, and the digest of the weights from which the descent started. A network to which the theory does not apply is
    refused at once, unless `force` is set.
    """

    def __init__(self, folder: RunFolder, *, data_dir: Path | None = None, device: str = "cpu", force: bool = False):
        self.path, self.force = folder.path / FILE, force
        self.objective = objective_of_run(folder, data_dir=data_dir, device=device)
        check_evaluates(self.objective)
        check_theory_applies(self.objective, force=force)
        self.started_from = folder.weights_digest
        self.iterations = self._load()
        #: the last state of the descent
        self.state: RefinementState | None = None

    def _load(self) -> int:
        """Moves to the kept point and returns its iterations; 0 if there is none, or if it started at other weights."""
        if not self.path.exists():
            return 0
        own = self.objective.parameters
        try:
            if kind := irregular(self.path):
                raise InputError(f"it is {kind}, not a file")
            check_opens(self.path)
            with safetensors.safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
            if metadata.get("begun_from") != self.started_from:
                return 0
            if wrong := [name for name in own if name not in kept or kept[name].shape != own[name].shape]:
                raise InputError(f"it has no tensor {wrong[0]!r} of this network's shape")
            self.objective.move_to(torch.cat([kept[name].flatten() for name in own]))
            return int(metadata["iterations"])
        except OSError as error:
            raise unreadable(self.path, error) from error
        except Exception as error:
            raise RunError(f"{self.path} is damaged ({in_one_line(error)}); delete it to refine again") from error

    def descend(self, iterations: int) -> Iterator[RefinementState]:
        """Runs more iterations and yields the state after each round; if stopped in between, it saves the last one."""
        saved, unsaved = time.monotonic(), None
        self.state = None
        try:
            for state in refine(self.objective, max_iterations=iterations, round_iterations=min(_ROUND, iterations)):
                self.state = unsaved = state
                if time.monotonic() - saved > _SAVE_SECONDS:
                    self._save(state)
                    saved, unsaved = time.monotonic(), None
                yield state
        finally:
            if unsaved is not None:
                self._save(unsaved)

    def _save(self, state: RefinementState) -> None:
        tensors = {name: value.contiguous() for name, value in self.objective.split(state.point.cpu()).items()}
        metadata = {"iterations": str(self.iterations + state.iteration), "begun_from": self.started_from}
        with atomic_path(self.path) as temporary:
            temporary.write_bytes(safetensors.torch.save(tensors, metadata=metadata))

    def table(self) -> TheoryTable:
        """Returns the theory table at the point that the descent has reached, with a note on the ReLUs at their kinks.

        λ‖W_l‖² and the last layer's laws hold for every choice of slopes at the kinks, so at a critical point they do
        although ‖∇L‖, which takes ReLU'(0) = 0, stays away from zero.
        """
        table = table_of(self.objective, force=self.force)
        if self.state is None:
            return table
        slopes = {"‖∇L‖ with slopes": self.state.subgradient_norm, "kinks": float(self.state.kinks)}
        note = (
            f"{self.state.status}: with slopes between 0 and 1 for {self.state.kinks} ReLUs at their kink the gradient "
            f"is {self.state.subgradient_norm:.1e}; ‖∇L‖ takes 0 for all of them"
        )
        return replace(table, facts={**table.facts, **slopes}, notes=(note, *table.notes))
