"""A Lightning callback that measures neural collapse."""

from collections.abc import Collection, Iterable
from typing import Any

from .._errors import InputError

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
from .loops import Probe


class NeuralCollapseCallback(Callback):
    """Measures neural collapse after every k-th training epoch, and logs the numbers with `log_dict`.

    Every process measures its part of the data, and all log the same numbers. The module runs without the trainer's
    precision; pass `autocast_dtype` if that matters. Measuring does not change the training.

    Args:
        every_k_epochs: k.
        loader: the data: "train" or "val" for the trainer's loader, or a loader. Each sample is measured once, in the
            data set's order, whatever the sampler.
        model: the name of the submodule that maps inputs to outputs; by default the module itself.
        head: the name of the classifier head in the model; by default the linear layer whose output is the model's.
        prefix: the prefix of the logged names.
        subset: measures only this many samples of every class.
        keys: the keys of `neurocollapse.METRICS` to log; by default all.
        options: further arguments of `neurocollapse.measure_model`, such as `strategy`, `weight_decay`, `tokens` and
            `autocast_dtype`.

    Raises:
        ValueError: for an unknown key or loader; while measuring, as `measure_model` does.
        TypeError: for an unknown option.

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
        """The last measurement; None before the first."""
        return self.probe.measurement

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures and logs, if this epoch is due."""
        if not self.probe.is_due(trainer.current_epoch + 1):
            return
        model = pl_module if self.model is None else pl_module.get_submodule(self.model)
        # all processes have the same numbers already, but without sync_dist Lightning warns
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
