"""One pass over the training data: of a run alone, or of several stacked into one program."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from ..networks import NetworkError
from .augmentation import stacked
from .precision import products_in
from .recording import is_recordable, repeat
from .run import DivergedError, Draw, Run, seeded
from .step import Loss, Moments, Pace, Weights, step


def run_epoch(run: Run, epoch: int) -> float:
    """Train a run for an epoch; the mean objective along it. Raises `DivergedError`."""

    def loss(_: Weights, images: Tensor, labels: Tensor) -> Tensor:
        return run.loss(run.model(images).to(run.dtype), labels) / len(labels)

    decays = {name: run.tensor(decay) for name, decay in run.decays.items()}
    run.model.train()
    with seeded(run.config.seed, epoch, run.device):
        data_term = _pass(run, loss, run.weights, run.moments, run.draw(), run.pace(epoch), decays)
    return run.objective(epoch, data_term.item())


def run_epochs_together(runs: Sequence[Run], epochs: Sequence[int]) -> list[float | DivergedError]:
    """Train several runs for an epoch as one program; of each what `run_epoch` returns or raises.

    They are of one network, loss, optimiser, data set and batch size; the seed, λ, the learning rate and the epoch are
    each run's own. Raises `NetworkError` for a network that `torch.func` cannot stack.
    """
    first = runs[0]
    check_stackable(first)
    weights = {name: torch.stack([run.weights[name].detach() for run in runs]) for name in first.weights}
    for weight in weights.values():
        weight.requires_grad_()
    moments = {
        kind: {name: torch.stack([run.moments[kind][name] for run in runs]) for name in of_kind}
        for kind, of_kind in first.moments.items()
    }
    decays = {name: first.tensor([run.decays[name] for run in runs]) for name in weights}
    draws = [_draw(run, epoch) for run, epoch in zip(runs, epochs, strict=True)]
    draw = Draw(torch.stack([one.order for one in draws]), stacked([one.augmentation for one in draws]))
    each = [run.pace(epoch) for run, epoch in zip(runs, epochs, strict=True)]
    pace = Pace(*(torch.stack([getattr(one, name) for one in each]) for name in ("rate", "decay", "count")))
    first.model.train()

    def loss(of_one: Weights, images: Tensor, labels: Tensor) -> Tensor:
        return first.loss(functional_call(first.model, of_one, (images,)).to(first.dtype), labels) / len(labels)

    try:
        data_terms = _pass(first, vmap(loss), weights, moments, draw, pace, decays)
    except RuntimeError as error:
        raise NetworkError(
            f"{first.config.network} cannot be trained stacked ({' '.join(str(error).split())}); train its runs in "
            f"processes of their own"
        ) from error
    for index, run in enumerate(runs):
        with torch.no_grad():
            for name, weight in run.weights.items():
                weight.copy_(weights[name][index])
            for kind, of_kind in run.moments.items():
                for name, moment in of_kind.items():
                    moment.copy_(moments[kind][name][index])
    return [_objective(*ended) for ended in zip(runs, epochs, data_terms.tolist(), strict=True)]


def check_stackable(run: Run) -> None:
    """`NetworkError` for a network that is more than the weights that train."""
    frozen = [name for name, p in run.model.named_parameters() if not p.requires_grad]
    if others := frozen + [name for name, _ in run.model.named_buffers()]:
        raise NetworkError(
            f"{run.config.network} has frozen parameters, or buffers as those of batch normalisation "
            f"({', '.join(others[:3])}), and cannot be trained stacked; train its runs in processes of their own"
        )


def _draw(run: Run, epoch: int) -> Draw:
    with seeded(run.config.seed, epoch, run.device):
        return run.draw()


def _pass(
    run: Run,
    loss: Loss,
    weights: Weights,
    moments: Moments,
    draw: Draw,
    pace: Pace,
    decays: Mapping[str, Tensor],
) -> Tensor:
    """A step for each batch; the mean of the data term over the samples, each at the weights of its step."""
    total = torch.zeros_like(pace.rate[..., 0])

    def take(places: slice | Tensor, pace: Pace) -> None:
        images, labels = run.batch(draw, places)
        with products_in(run.config.precision, run.device):
            values = step(
                loss,
                weights,
                moments,
                images,
                labels,
                pace=pace,
                decays=decays,
                optimizer=run.config.optimizer,
                momentum=run.config.momentum,
            )
        total.add_(values * labels.shape[-1])

    batches = run.batches()
    recorded = 0
    if is_recordable(run.config, run.device):
        size = batches[0].stop
        recorded = sum(places.stop - places.start == size for places in batches)
        next_one = torch.zeros(1, dtype=torch.long, device=run.device)
        within = torch.arange(size, device=run.device)

        def take_next() -> None:
            take(next_one * size + within, pace.at(next_one))
            next_one.add_(1)

        repeat(take_next, recorded, run.device)
    for index in range(recorded, len(batches)):
        take(batches[index], pace.at(index))
    return total / len(run.train_split.labels)


def _objective(run: Run, epoch: int, data_term: float) -> float | DivergedError:
    try:
        return run.objective(epoch, data_term)
    except DivergedError as error:
        return error
