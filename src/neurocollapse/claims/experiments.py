"""The runs that claims are judged by. Their seeds start at 100; no such run was made before the rules were written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..sweeps import Sweep
from ..training import RunConfig

_SEEDS = range(100, 105)

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


_LAMBDAS = (0.0, 1e-4, DECAY, 1e-3, 2e-3)

_MLP = RunConfig(network="mlp", depth=4, width=128, epochs=100)

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
    base = RunConfig(dataset=dataset, epochs=100)
    sweep = Sweep(base, {"weight_decay": (0.0, 1e-4, DECAY), "seed": _SEEDS[:3]})
    return Setting(dataset, f"{words}, the five-layer convnet, 100 epochs", {"decay": sweep})


QUICK = (MNIST5K,)
FULL = (MNIST5K, _full("mnist", "all 60,000 MNIST digits"), _full("cifar10", "all 50,000 images of CIFAR-10"))
