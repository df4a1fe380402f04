"""A callback for the Trainer of Transformers that measures neural collapse."""

import math
from collections.abc import Collection, Iterable
from typing import Any, Self

from .._errors import InputError, checks_arguments

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError(
        "neurocollapse.integrations.transformers needs Transformers; pip install 'neurocollapse[transformers]'"
    ) from error

from torch import nn
from torch.utils.data import IterableDataset

from ..metrics import Measurement
from ..sweeps import Recorder
from .loops import FirstBatches, Probe, Subject


@checks_arguments
class NeuralCollapseCallback(TrainerCallback):
    """Measures neural collapse after every k-th epoch, or at every evaluation, and logs with the trainer's `log`.

    The numbers are then in `state.log_history` and wherever the trainer reports to. They are also among the metrics of
    an evaluation, as `eval_nc/nc1`, so that `metric_for_best_model="nc/nc1"` finds them; between measurements these are
    the last ones. Callbacks do not know their trainer, so attach it: `NeuralCollapseCallback().attach(trainer)`,
    instead of `Trainer(callbacks=...)`. In a process group every process measures its part of the data. Inputs take
    the precision of the model's parameters. Measuring does not change the training.

    Everything is tried on one batch before the training, and an error raised. An error later is a warning, and the
    numbers are missing.

    Args:
        every_k_epochs: k, or None to measure at every evaluation.
        loader: the data: "train" or "eval" for the trainer's loader, or a loader. "eval" at an evaluation is the data
            that are evaluated. Each sample is measured once, in the
            data set's order, whatever the sampler.
        head: the name of the classifier head; by default the linear layer whose output is the model's.
        prefix: the prefix of the logged names.
        subset: measures only this many samples of every class.
        keys: the keys of `neurocollapse.METRICS` to log; by default all.
        strict: raise every error while measuring, which ends the training.
        recorder: a `neurocollapse.Recorder`, which gets every measurement, with all keys; the first process writes.
        options: further arguments of `neurocollapse.measure_model`, such as `tokens`, `strategy`, `weight_decay` and
            `autocast_dtype`.

    Raises:
        ValueError: for an unknown key or loader; when the training starts, as `measure_model` does.
        TypeError: for an unknown option.
        RuntimeError: if training starts and no trainer is attached.

    Warns:
        CaptureWarning: a measurement failed, or what `measure_model` warns of.

    >>> callback = NeuralCollapseCallback(every_k_epochs=2, loader="eval", keys=["nc1", "nc3"])
    """

    def __init__(
        self,
        every_k_epochs: int | None = 1,
        loader: str | Iterable[Any] = "train",
        *,
        head: str | None = None,
        prefix: str = "nc/",
        subset: int | None = None,
        keys: Collection[str] | None = None,
        strict: bool = False,
        recorder: Recorder | None = None,
        **options: Any,
    ):
        if isinstance(loader, str) and loader not in ("train", "eval"):
            raise InputError(f"loader must be 'train', 'eval' or a loader, got {loader!r}")
        every = 1 if every_k_epochs is None else every_k_epochs
        self.probe = Probe(every, keys, prefix, strict, {"head": head, "subset": subset, **options}, recorder)
        self.loader, self.at_evaluation = loader, every_k_epochs is None
        self.trainer: Trainer | None = None
        self.epoch = 0

    @property
    def measurement(self) -> Measurement | None:
        """The last measurement; None before the first."""
        return self.probe.measurement

    def attach(self, trainer: Trainer) -> Self:
        """Adds this callback to a trainer, which gives the data and logs the numbers."""
        self.trainer = trainer
        callbacks = trainer.callback_handler.callbacks
        if self in callbacks:
            callbacks.remove(self)
        # First, so that callbacks that stop early see the numbers. To log also clears the wish of others to log.
        callbacks.insert(0, self)
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **kwargs: Any
    ) -> None:
        """Checks that a trainer is attached, and tries everything on one batch of the data that it will measure."""
        trainer = self._attached()
        self.probe.is_monitored((args.metric_for_best_model or "").removeprefix("eval_"))
        # Counted, since state.epoch is a share of the steps, of which data without a length have no known number.
        self.epoch = int((state.epoch or 0) + 1e-6)
        if not self.at_evaluation:
            self.probe.try_out(lambda: (model, self._loader()))
        elif args.eval_strategy != "no":
            data = trainer.eval_dataset
            for each in data if isinstance(data, dict) else [None]:
                loader = self._loader(trainer.get_eval_dataloader(each))
                self.probe.try_out(lambda loader=loader: (model, loader))  # type: ignore[misc]

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **kwargs: Any
    ) -> None:
        """Measures and logs, if this epoch is due."""
        self.epoch += 1
        if not self.at_evaluation and self.probe.is_due(self.epoch):
            self._measure(lambda: (model, self._loader()))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Says in the recorded run that it has ended."""
        if self.probe.recorder is not None and state.is_world_process_zero:
            self.probe.recorder.finish()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        metrics: dict[str, float] | None = None,
        eval_dataloader: Iterable[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Measures and logs, if every evaluation is measured, and adds the numbers to those of the evaluation."""
        trainer, values = self._attached(), self.probe.last
        named = metrics or {}
        before = next((name.removesuffix("runtime") for name in named if name.endswith("_runtime")), "eval_")
        monitor = "eval_" + (args.metric_for_best_model or "").removeprefix("eval_")
        is_monitored = monitor.startswith(f"{before}{self.probe.prefix}")
        if self.at_evaluation:
            values = self._measure(lambda: (model, self._loader(eval_dataloader)))
        elif not trainer.is_in_train:
            return
        elif not values and is_monitored:
            values = self._measure(lambda: (model, self._loader()))
        if metrics is not None:
            metrics |= {f"{before}{name}": value for name, value in values.items()}
            if is_monitored:
                metrics.setdefault(monitor, math.nan)  # the trainer would stop for a number that is not there

    def _measure(self, subject: Subject) -> dict[str, float]:
        trainer = self._attached()
        epoch = math.ceil((trainer.state.epoch or 0) - 1e-6) if self.at_evaluation else self.epoch
        values = self.probe(subject, epoch, writes=trainer.is_in_train and trainer.is_world_process_zero())
        if values:
            trainer.log(values)
        return values

    def _loader(self, evaluated: Iterable[Any] | None = None) -> Iterable[Any]:
        trainer = self._attached()
        if not isinstance(self.loader, str):
            return self.loader
        if self.loader == "train":
            found = trainer.callback_handler.train_dataloader
            found = trainer.get_train_dataloader() if found is None else found
            most = trainer.args.max_steps * trainer.args.gradient_accumulation_steps
            if most > 0 and isinstance(found.dataset, IterableDataset):
                return FirstBatches(found, most)  # the data may have no end
            return found
        if evaluated is not None:
            return evaluated
        if isinstance(trainer.eval_dataset, dict):
            raise InputError(
                f"the trainer has {len(trainer.eval_dataset)} data sets for evaluation; pass loader= one of them"
            )
        return trainer.get_eval_dataloader()

    def _attached(self) -> Trainer:
        if self.trainer is None:
            raise InputError(
                "the callback does not know its trainer; call NeuralCollapseCallback(...).attach(trainer) instead of "
                "passing it as callbacks="
            )
        return self.trainer
