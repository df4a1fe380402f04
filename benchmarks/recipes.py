"""Compares the default recipe with the paper-like one in one run each: objective and NC1 reached, and time taken.

The two train in turn, epoch by epoch, on one thread, so that other load on the machine affects both alike.
usage: recipes.py [EPOCHS_OF_THE_DEFAULT EPOCHS_OF_THE_PAPER_LIKE]
"""

import argparse
from dataclasses import replace
from itertools import zip_longest

import torch

from neurocollapse.datasets import load_dataset
from neurocollapse.training import RunConfig, State, epochs

PAPER_LIKE = RunConfig.of_version(
    2,
    initialization="default",
    optimizer="sgd",
    learning_rate=0.067,
    schedule="steps",
    batch_size=128,
    weight_decay=5e-4,
)
DEFAULT = RunConfig(weight_decay=5e-4)


def main(length: int, paper_like_length: int) -> None:
    torch.set_num_threads(1)
    data = load_dataset("mnist5k")
    recipes = {
        f"default, {length} epochs": replace(DEFAULT, epochs=length),
        f"paper-like, {paper_like_length} epochs": replace(PAPER_LIKE, epochs=paper_like_length),
    }
    seconds = dict.fromkeys(recipes, 0.0)
    last: dict[str, State] = {}
    for states in zip_longest(*(epochs(config, data) for config in recipes.values())):
        for name, state in zip(recipes, states, strict=True):
            if state is not None:
                seconds[name] += state.seconds["train"]
                last[name] = state
    print(f"{'recipe':<28} {'train s':>8} {'objective':>10} {'NC1':>8} {'accuracy':>9} {'error 0 from':>13}")
    for name, state in last.items():
        record = state.record
        assert record is not None
        print(
            f"{name:<28} {seconds[name]:>8.0f} {record['train.loss']:>10.5f} {record['train.nc1']:>8.4f} "
            f"{record['train.accuracy']:>9.4f} {record['terminal_phase_start'] or 'never':>13}"
        )
    ours, theirs = seconds.values()
    print(f"time, paper-like / default: {theirs / ours:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "epochs", type=int, nargs="*", default=[30, 30], help="of the default and the paper-like recipe"
    )
    main(*parser.parse_args().epochs)
