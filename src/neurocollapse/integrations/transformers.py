"""A callback for the Trainer of Transformers that measures neural collapse."""

from collections.abc import Collection, Iterable
from typing import Any, Self

from .._errors import InputError

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError(
        "neurocollapse.integrations.transformers needs Transformers; pip install 'neurocollapse[transformers]'"
    ) from error

from torch import nn

from ..metrics import Measurement
from .loops import Probe


class NeuralCollapseCallback(TrainerCallback):
    """Measures neural collapse after every k-th epoch, or at every evaluation, and logs with the trainer's `log`.

    The numbers are then in `state.log_history` and wherever the trainer reports to. Callbacks do not know their
    trainer, so attach it: `NeuralCollapseCallback().attach(trainer)`, instead of `Trainer(callbacks=...)`. In a process
    group every process measures its part of the data. Measuring does not change the training.

    Args:
        every_k_epochs: k, or None to measure at every evaluation.
        loader: the data: "train" or "eval" for the trainer's loader, or a loader. Each sample is measured once, in the
            data set's order, whatever the sampler.
        head: the name of the classifier head; by default the linear layer whose output is the model's.
        prefix: the prefix of the logged names.
        subset: measures only this many samples of every class.
        keys: the keys of `neurocollapse.METRICS` to log; by default all.
        options: further arguments of `neurocollapse.measure_model`, such as `tokens`, `strategy`, `weight_decay` and
            `autocast_dtype`.

    Raises:
        ValueError: for an unknown key or loader; while measuring, as `measure_model` does.
        TypeError: for an unknown option.
        RuntimeError: if training starts and no trainer is attached.

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
        **options: Any,
    ):
        if isinstance(loader, str) and loader not in ("train", "eval"):
            raise InputError(f"loader must be 'train', 'eval' or a loader, got {loader!r}")
        every = 1 if every_k_epochs is None else every_k_epochs
        self.probe = Probe(every, keys, prefix, {"head": head, "subset": subset, **options})
        self.loader, self.at_evaluation = loader, every_k_epochs is None
        self.trainer: Trainer | None = None

    @property
    def measurement(self) -> Measurement | None:
        """The last measurement; None before the first."""
        return self.probe.measurement

    def attach(self, trainer: Trainer) -> Self:
        """Adds this callback to a trainer, which gives the data and logs the numbers."""
        self.trainer = trainer
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Checks that a trainer is attached."""
        self._attached()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **kwargs: Any
    ) -> None:
        """Measures and logs, if this epoch is due."""
        # state.epoch is a ratio of numbers of steps, so not quite an integer
        if not self.at_evaluation and self.probe.is_due(round(state.epoch or 0)):
            self._measure(model)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **kwargs: Any
    ) -> None:
        """Measures and logs, if every evaluation is measured."""
        if self.at_evaluation:
            self._measure(model)

    def _measure(self, model: nn.Module) -> None:
        trainer = self._attached()
        if not isinstance(self.loader, str):
            loader = self.loader
        elif self.loader == "train":
            loader = trainer.callback_handler.train_dataloader or trainer.get_train_dataloader()
        elif isinstance(trainer.eval_dataset, dict):
            raise InputError(
                f"the trainer has {len(trainer.eval_dataset)} data sets for evaluation; pass loader= one of them"
            )
        else:
            loader = trainer.get_eval_dataloader()
        trainer.log(self.probe(model, loader))

    def _attached(self) -> Trainer:
        if self.trainer is None:
            raise RuntimeError(
                "the callback does not know its trainer; call NeuralCollapseCallback(...).attach(trainer) instead of "
                "passing it as callbacks="
            )
        return self.trainer
