"""The recipes of `reproduce`: what the runs of the experiment share, and the values of λ that it compares."""

from dataclasses import dataclass

from .config import RunConfig


@dataclass(frozen=True)
class Recipe:
    """A configuration, and the values of λ of Eq. 1 that it is trained with."""

    config: RunConfig
    weight_decays: tuple[float, ...]


#: `paper` is the authors' public code in the units of Eq. 1. With C = 10 classes nn.MSELoss is 2/C times the data term,
#: so its learning rate 0.067 is 0.067 · 2/C, and its decays w of 1e-4 and 5e-4 are λ = w · C/2.
RECIPES = {
    "default": Recipe(RunConfig(), (0.0, 5e-4, 1e-3)),
    "paper": Recipe(
        RunConfig.of_version(
            2, initialization="default", learning_rate=0.0134, batch_size=128, schedule="steps", epochs=350
        ),
        (0.0, 5e-4, 2.5e-3),
    ),
}
