"""Neural collapse measured by a callback of Lightning."""

from collections.abc import Collection, Iterable
from typing import Any

from .._errors import InputError

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    try:  # the same under its older name
        from pytorch_lightning import Callback, LightningModule, Trainer
    except ImportError as error:
        raise ImportError(
            "neurocollapse.integrations.lightning needs Lightning; pip install 'neurocollapse[lightning]'"
        ) from error

from ..metrics import Measurement
from .loops import Probe


class NeuralCollapseCallback(Callback):
    """Measure at the end of every k-th training epoch, and log with `log_dict`, in the trainer's own loggers.

    Every process measures its part of the data, and all log the same numbers. The module is run as it is, without the
    trainer's precision: pass `autocast_dtype` where that matters. Training goes on as if it had not been measured.

    Args:
        every_k_epochs: k.
        loader: the data, of the "train" or the "val" loader of the trainer, or of a loader of one's own. Samples come
            in the data set's order and each once, whatever the sampler.
        model: the name of the part of the module that maps inputs to outputs; by default the module itself.
        head: the name of the classifier head in it; by default the linear layer whose output is the model's.
        prefix: what the logged names begin with.
        subset: measure this many samples of every class only.
        keys: of `neurocollapse.METRICS`, those to log; by default all that there are.
        options: of `neurocollapse.measure_model`, such as `strategy`, `weight_decay`, `tokens` and `autocast_dtype`.

    Raises:
        ValueError: there is no such key, or no such loader; while it measures, all that `measure_model` raises.
        TypeError: there is no such option.

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
        **options: Any,
    ):
        if isinstance(loader, str) and loader not in ("train", "val"):
            raise InputError(f"loader must be 'train', 'val' or a loader, got {loader!r}")
        self.probe = Probe(every_k_epochs, keys, prefix, {"head": head, "subset": subset, **options})
        self.loader, self.model = loader, model

    @property
    def measurement(self) -> Measurement | None:
        """The last measurement, None before the first."""
        return self.probe.measurement

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.probe.is_due(trainer.current_epoch + 1):
            return
        model = pl_module if self.model is None else pl_module.get_submodule(self.model)
        # all processes have the same numbers, and Lightning wants to be told how to make one of them
        pl_module.log_dict(self.probe(model, self._loader(trainer)), sync_dist=True, batch_size=1)

    def _loader(self, trainer: Trainer) -> Iterable[Any]:
        if not isinstance(self.loader, str):
            return self.loader
        found = trainer.train_dataloader if self.loader == "train" else trainer.val_dataloaders
        if isinstance(found, list | tuple) and len(found) == 1:
            (found,) = found
        if found is None or isinstance(found, list | tuple | dict):
            there = "no loader" if found is None else f"{len(found)} loaders"
            raise InputError(f"the trainer has {there} under {self.loader!r}; pass loader= the one to measure")
        return found
