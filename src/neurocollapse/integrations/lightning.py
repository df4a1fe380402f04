"""A Lightning callback that measures neural collapse."""

import math
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.data import IterableDataset

from .._errors import InputError, checks_arguments, did_you_mean

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    try:  # Lightning under its older name
        from pytorch_lightning import Callback, LightningModule, Trainer
    except ImportError as error:
        raise ImportError(
            "neurocollapse.integrations.lightning needs Lightning; pip install 'neurocollapse[lightning]'"
        ) from error

from ..metrics import Measurement
from ..sweeps import Recorder
from .loops import FirstBatches, Probe, Subject


@checks_arguments
class NeuralCollapseCallback(Callback):
    """Measures neural collapse after every k-th training epoch, and logs the numbers with `log_dict`.

    Every process measures its part of the data, and all log the same numbers. Inputs take the precision of the module's
    parameters; for mixed precision pass `autocast_dtype`. Measuring does not change the training.

    Everything is tried on one batch before the training, and an error raised. An error later is a warning, and the
    numbers are missing. `EarlyStopping`, `ModelCheckpoint` and schedulers may monitor a number. It is then measured
    before the training too, and during a validation that ends an epoch, and its last value is kept.

    Args:
        every_k_epochs: k.
        loader: the data: "train" or "val" for the trainer's loader, or a loader. Each sample is measured once, in the
            data set's order, whatever the sampler.
        model: the name of the submodule that maps inputs to outputs; by default the module itself.
        head: the name of the classifier head in the model; by default the linear layer whose output is the model's.
        prefix: the prefix of the logged names.
        subset: measures only this many samples of every class.
        keys: the keys of `neurocollapse.METRICS` to log; by default all.
        strict: raise every error while measuring, which ends the training.
        recorder: a `neurocollapse.Recorder`, which gets every measurement, with all keys; the first process writes.
        options: further arguments of `neurocollapse.measure_model`, such as `strategy`, `weight_decay`, `tokens` and
            `autocast_dtype`.

    Raises:
        ValueError: for an unknown key or loader; when the training starts, as `measure_model` does.
        TypeError: for an unknown option.

    Warns:
        CaptureWarning: a measurement failed, or what `measure_model` warns of.

    >>> trainer = Trainer(callbacks=[NeuralCollapseCallback(every_k_epochs=5, keys=["nc1", "nc3"])], logger=False)
    """

    def __init__(
        self,
        every_k_epochs: int = 1,
        loader: str | Iterable[Any] = "train",
        *,
        model: str | None = None,
        head: str | None = None,
        prefix: str = "nc/",
        subset: int | None = None,
        keys: Collection[str] | None = None,
        strict: bool = False,
        recorder: Recorder | None = None,
        **options: Any,
    ):
        if isinstance(loader, str) and loader not in ("train", "val"):
            raise InputError(f"loader must be 'train', 'val' or a loader, got {loader!r}")
        self.probe = Probe(every_k_epochs, keys, prefix, strict, {"head": head, "subset": subset, **options}, recorder)
        self.loader, self.model = loader, model
        self._measured: int | None = None  # the last epoch that was

    @property
    def measurement(self) -> Measurement | None:
        """The last measurement; None before the first."""
        return self.probe.measurement

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tries everything on one batch; measures the data if a monitor goes by a number, so that there is one."""
        subject, self._measured = self._subject(trainer, pl_module), None
        self.probe.try_out(subject)
        if self._is_monitored(trainer):
            values = self.probe.measure(subject)
            trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures and logs at the end of a due epoch if a monitor goes by a number: it may look after this."""
        if trainer.state.fn == "fit" and trainer.is_last_batch and self._is_monitored(trainer):
            self._measure(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures and logs, if this epoch is due and was not measured with the validation."""
        self._measure(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says in the recorded run that it has ended."""
        if self.probe.recorder is not None and trainer.is_global_zero:
            self.probe.recorder.finish()

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not self.probe.is_due(trainer.current_epoch + 1):
            return
        if self._measured != trainer.current_epoch:
            self._measured = trainer.current_epoch
            # all processes have the same numbers already, but without sync_dist Lightning warns
            values = self.probe(
                self._subject(trainer, pl_module), trainer.current_epoch + 1, writes=trainer.is_global_zero
            )
            pl_module.log_dict(values, sync_dist=True, batch_size=1)

    def _is_monitored(self, trainer: Trainer) -> bool:
        """Whether a callback or a scheduler goes by one of the numbers."""
        monitors = [getattr(each, "monitor", None) for each in (*trainer.callbacks, *trainer.lr_scheduler_configs)]
        return any(list(map(self.probe.is_monitored, monitors)))

    def _subject(self, trainer: Trainer, pl_module: LightningModule) -> Subject:
        def found() -> tuple[nn.Module, Iterable[Any]]:
            try:
                return pl_module.get_submodule(self.model or ""), self._loader(trainer)
            except AttributeError:
                known = did_you_mean(str(self.model), dict(pl_module.named_modules()))
                raise InputError(f"the module has no part {self.model!r}{known}; see its named_modules()") from None

        return found

    def _loader(self, trainer: Trainer) -> Iterable[Any]:
        if not isinstance(self.loader, str):
            return self.loader
        if self.loader == "train":
            found = trainer.train_dataloader
        else:
            _load_validation(trainer)
            found = trainer.val_dataloaders
        if isinstance(found, list | tuple) and len(found) == 1:
            (found,) = found
        if found is None or isinstance(found, list | tuple | dict):
            there = "no loader" if found is None else f"{len(found)} loaders"
            raise InputError(f"the trainer has {there} under {self.loader!r}; pass loader= the one to measure")
        most = _most_batches(trainer) if self.loader == "train" else sum(trainer.num_val_batches)
        if isinstance(getattr(found, "dataset", None), IterableDataset) and most < math.inf:
            return FirstBatches(found, int(most))  # the data may have no end
        return found


def _most_batches(trainer: Trainer) -> int | float:
    """Returns the number of batches in an epoch of training, or an upper bound."""
    steps = trainer.max_steps * trainer.accumulate_grad_batches if trainer.max_steps > 0 else math.inf
    return min(trainer.num_training_batches, steps)


def _load_validation(trainer: Trainer) -> None:
    """Loads the data of validation now, as Lightning does before the first validation, which may be epochs away."""
    if trainer.val_dataloaders is None and trainer.enable_validation:
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        trainer.training = True
