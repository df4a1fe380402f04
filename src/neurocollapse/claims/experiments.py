"""The runs that claims are judged by, of seeds from 100 on: none was made before the rules were written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..sweeps import Sweep
from ..training import RunConfig

_SEEDS = range(100, 105)

#: Seeds for rules that came after the runs of the seeds above.
_NEW_SEEDS = range(200, 205)

#: λ of the experiments that vary something else.
DECAY = 5e-4


@dataclass(frozen=True)
class Setting:
    """A data set and a network, and the sweeps on them, by name."""

    name: str
    words: str
    experiments: dict[str, Sweep]

    def __iter__(self) -> Iterator[RunConfig]:
        """Yields every run once."""
        return iter(dict.fromkeys(config for sweep in self.experiments.values() for config in sweep))


#: The defaults that the runs were made with.
_DEFAULTS = 2

_LAMBDAS = (0.0, 1e-4, DECAY, 1e-3, 2e-3)

_MLP = RunConfig.of_version(_DEFAULTS, network="mlp", depth=4, width=128, epochs=100)

# Random labels take more epochs: 600 epochs of 50 digits a class have as many steps as 67 of all digits.
_FEW = replace(_MLP, per_class=50, epochs=600)

# With layers of norm 4 the gradients of the cross-entropy are too large for the default learning rate.
_CROSS_ENTROPY = replace(_MLP, loss="cross_entropy", learning_rate=0.05, epochs=200)


def _sweep(base: RunConfig, **axes: Sequence[Any]) -> Sweep:
    return Sweep(base, {**axes, "seed": _SEEDS})


MNIST5K = Setting(
    "mnist5k",
    "4,500 MNIST digits, a four-layer mlp of width 128",
    {
        "decay": _sweep(_MLP, weight_decay=(0.0, 1e-4, 2.5e-4, DECAY, 1e-3, 2e-3)),
        "bias": _sweep(_MLP, bias=("free", "decayed", "all"), weight_decay=_LAMBDAS),
        "labels": _sweep(_FEW, label_noise=(0.0, 0.5, 1.0), weight_decay=_LAMBDAS),
        "cross-entropy": _sweep(_CROSS_ENTROPY, weight_decay=(0.0, 1e-5, 1e-4, DECAY, 2e-3)),
        "imbalance": _sweep(
            replace(_MLP, imbalance_ratio=100.0), imbalance=("step", "exponential"), weight_decay=_LAMBDAS
        ),
    },
)


def _full(dataset: str, words: str) -> Setting:
    base = RunConfig.of_version(_DEFAULTS, dataset=dataset, epochs=100)
    sweep = Sweep(base, {"weight_decay": (0.0, 1e-4, DECAY), "seed": _SEEDS[:3]})
    return Setting(dataset, f"{words}, the five-layer convnet, 100 epochs", {"decay": sweep})


#: Runs are compared at their first record with a data term of at most this. With SGD every λ below gets there.
MATCHED = {"square": 2e-3, "cross_entropy": 5e-3}

#: The epoch at which NC3 gets down to this says how fast a run collapses.
NC3_LEVEL = 0.5

_COUPLED = (5e-5, 1e-4, 2.5e-4, DECAY, 1e-3)

#: A free bias, without which nc0 tends to 1/√C under the square loss.
_LOSSES = {"square": replace(_MLP, bias="free"), "cross-entropy": replace(_CROSS_ENTROPY, bias="free")}


def _optimizers(base: RunConfig) -> dict[str, Sweep]:
    """Four optimizers; λ of decoupled decay is such that decay alone shrinks the weights as fast as SGD's does."""
    adaptive = replace(base, learning_rate=1e-3)
    speed = base.learning_rate / (1 - base.momentum)  # over λ
    return {
        optimizer: Sweep(
            of,
            {
                "optimizer": (optimizer,),
                "weight_decay": [float(f"{factor * decay:.3g}") for decay in _COUPLED],
                "seed": _NEW_SEEDS,
            },
        )
        for optimizer, of, factor in (
            ("sgd", base, 1.0),
            ("sgdw", base, speed / base.learning_rate),
            ("adam", adaptive, 1.0),
            ("adamw", adaptive, speed / adaptive.learning_rate),
        )
    }


def _momenta(base: RunConfig) -> dict[str, Sweep]:
    """Momenta with the learning rate times 1 − β, so that a step moves as far along the flow; to the same time."""
    axes = {"weight_decay": (2.5e-4, DECAY, 1e-3, 1.5e-3, 2e-3), "seed": _NEW_SEEDS}
    epochs = round(base.epochs * base.learning_rate / (1 - base.momentum) / 0.25)
    return {
        f"momentum {momentum:g}": Sweep(
            replace(base, momentum=momentum, learning_rate=round(0.25 * (1 - momentum), 9), epochs=epochs), axes
        )
        for momentum in (0.0, 0.5, 0.9)
    }


DECAYS = Setting(
    "mnist5k-optimizers",
    "the same digits and mlp with a free bias, four optimizers and three momenta",
    {
        f"{loss}, {name}": sweep
        for loss, base in _LOSSES.items()
        for name, sweep in (_optimizers(base) | _momenta(base)).items()
    },
)

QUICK = (MNIST5K,)
FULL = (MNIST5K, _full("mnist", "all 60,000 MNIST digits"), _full("cifar10", "all 50,000 images of CIFAR-10"), DECAYS)
