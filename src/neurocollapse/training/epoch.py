"""Trains for an epoch: one run alone, or several stacked into one program."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from .._errors import DivergedError, NetworkError
from .augmentation import stacked
from .convolution import ConvolutionsAsProducts
from .precision import products_in
from .recording import Recording, is_recordable
from .run import Draw, Run, seeded
from .step import Loss, Moments, Pace, Weights, step


class Alone:
    """Trains one run, epoch by epoch."""

    def __init__(self, run: Run):
        def loss(_: Weights, images: Tensor, labels: Tensor) -> Tensor:
            return run.loss(run.model(images).to(run.dtype), labels) / len(labels)

        self._run = run
        decays = {name: run.tensor(decay) for name, decay in run.decays.items()}
        self._steps = _Steps(run, loss, run.weights, run.moments, decays)

    def epoch(self, epoch: int) -> float:
        """Trains for an epoch and returns the mean objective along it. Raises `DivergedError`."""
        run = self._run
        run.model.train()
        with seeded(run.config.seed, epoch, run.device):
            data_term = self._steps.take(run.draw(), run.pace(epoch), run.batches(epoch))
        return run.end(epoch, data_term.item())


class Together:
    """Trains several runs as one program, epoch by epoch.

    The runs share network, loss, optimiser, data set and batch size; each has its own seed, λ, learning rate and epoch.
    Their weights and moments become views of stacked tensors. Raises `NetworkError`, here or in the first epoch, for a
    network that `torch.func` cannot stack.
    """

    def __init__(self, runs: Sequence[Run]):
        first = runs[0]
        _check_stackable(first)

        def loss(of_one: Weights, images: Tensor, labels: Tensor) -> Tensor:
            outputs = functional_call(first.model, of_one, (images,))
            return first.loss(outputs.to(first.dtype), labels) / len(labels)

        self.runs = list(runs)
        weights: Weights = {}
        moments: Moments = {kind: {} for kind in first.moments}
        for name in first.weights:
            weights[name] = torch.stack([run.weights[name].detach() for run in runs])
            for run, own in zip(runs, weights[name], strict=True):
                run.weights[name].data = own
            weights[name].requires_grad_()
            for kind, of_kind in moments.items():
                of_kind[name] = torch.stack([run.moments[kind][name] for run in runs])
                for run, own in zip(runs, of_kind[name], strict=True):
                    run.moments[kind][name] = own
        decays = {name: first.tensor([run.decays[name] for run in runs]) for name in weights}
        self._steps = _Steps(first, vmap(loss), weights, moments, decays)

    def epoch(self, epochs: Sequence[int]) -> list[float | DivergedError]:
        """Trains each run for its own epoch; gives for each what `Alone.epoch` returns or raises."""
        first = self.runs[0]
        draws = [_draw(run, epoch) for run, epoch in zip(self.runs, epochs, strict=True)]
        draw = Draw(torch.stack([one.order for one in draws]), stacked([one.augmentation for one in draws]))
        each = [run.pace(epoch) for run, epoch in zip(self.runs, epochs, strict=True)]
        pace = Pace(*(torch.stack([getattr(one, name) for one in each]) for name in ("rate", "decay", "count")))
        first.model.train()
        try:
            with ConvolutionsAsProducts():
                data_terms = self._steps.take(draw, pace, first.batches(epochs[0])).tolist()
        except RuntimeError as error:
            raise NetworkError(
                f"{first.config.network} cannot be trained stacked ({' '.join(str(error).split())}); train its runs "
                f"in processes of their own (engine processes)"
            ) from error
        return [_end(*ended) for ended in zip(self.runs, epochs, data_terms, strict=True)]


def _check_stackable(run: Run) -> None:
    """Raises `NetworkError` for a network with buffers or frozen parameters."""
    frozen = [name for name, p in run.model.named_parameters() if not p.requires_grad]
    if others := frozen + [name for name, _ in run.model.named_buffers()]:
        raise NetworkError(
            f"{run.config.network} has frozen parameters, or buffers like those of batch normalisation "
            f"({', '.join(others[:3])}), and cannot be trained stacked; train its runs in processes of their own "
            f"(engine processes)"
        )


def _draw(run: Run, epoch: int) -> Draw:
    with seeded(run.config.seed, epoch, run.device):
        return run.draw()


def _end(run: Run, epoch: int, data_term: float) -> float | DivergedError:
    try:
        return run.end(epoch, data_term)
    except DivergedError as error:
        return error


class _Steps:
    """Takes the steps of an epoch, for one run or several stacked; `run` is one of them."""

    def __init__(self, run: Run, loss: Loss, weights: Weights, moments: Moments, decays: Mapping[str, Tensor]):
        self._run, self._loss = run, loss
        self._weights, self._moments, self._decays = weights, moments, decays
        # A recorded step reads and writes these tensors, so they stay at one address while the batches stay the same.
        self._batches: list[slice] = []
        self._draw: Draw | None = None
        self._pace: Pace | None = None
        self._total = torch.zeros_like(next(iter(decays.values())))
        self._next = torch.zeros(1, dtype=torch.long, device=run.device)

    def take(self, draw: Draw, pace: Pace, batches: list[slice]) -> Tensor:
        """Takes a step for each batch. Returns the mean data term over samples, each at the weights of its step."""
        if batches != self._batches:
            self._batches, self._draw, self._pace = batches, None, None
            self._within = torch.arange(batches[0].stop, device=self._run.device)
            recordable = is_recordable(self._run.config, self._run.device)
            self._recording = Recording(self._take_next, self._run.device) if recordable else None
        if self._draw is None or self._pace is None:
            self._draw, self._pace = draw, pace
        else:
            for mine, its in zip(self._draw.tensors + self._pace.tensors, draw.tensors + pace.tensors, strict=True):
                mine.copy_(its)
        self._total.zero_()
        recorded = 0
        if self._recording is not None:
            recorded = sum(places.stop - places.start == len(self._within) for places in self._batches)
            self._next.zero_()
            self._recording.repeat(recorded)
        for index in range(recorded, len(self._batches)):
            self._take(self._batches[index], pace.at(index))
        return self._total / len(self._run.train_split.labels)

    def _take_next(self) -> None:
        assert self._pace is not None
        self._take(self._next * len(self._within) + self._within, self._pace.at(self._next))
        self._next.add_(1)

    def _take(self, places: slice | Tensor, pace: Pace) -> None:
        assert self._draw is not None
        config = self._run.config
        images, labels = self._run.batch(self._draw, places)
        with products_in(config.precision, self._run.device):
            values = step(
                self._loss,
                self._weights,
                self._moments,
                images,
                labels,
                pace=pace,
                decays=self._decays,
                optimizer=config.optimizer,
                momentum=config.momentum,
            )
        self._total.add_(values * labels.shape[-1])
