"""Train the runs of docs/full-data.md on part of CIFAR-10: python docs/cifar.py DATA OUT [--table].

With --table it trains nothing, and writes the runs that have finished into docs/cifar-part.csv.
"""

import argparse
from pathlib import Path

import neurocollapse as nc

HERE = Path(__file__).parent

#: Images a class, network and λ, in the order of training.
CELLS = (
    *((1000, "convnet", decay) for decay in (1e-4, 0.0, 5e-4)),
    *((200, network, decay) for network in ("convnet", "vgg11") for decay in (1e-4, 0.0, 5e-4)),
    *((1000, "vgg11", decay) for decay in (1e-4, 0.0)),
)


def config_of(per_class: int, network: str, weight_decay: float) -> nc.RunConfig:
    return nc.RunConfig.of_version(
        2,
        dataset="cifar10",
        per_class=per_class,
        network=network,
        width=128,  # of vgg11: p = 128, its first layer has 16 channels and stride 1
        bias="none",
        loss="square",
        weight_decay=weight_decay,
        initialization="default",
        optimizer="muon",
        learning_rate=0.1,
        momentum=0.9,
        schedule="linear",
        batch_size=128,
        precision="float32",
        epochs=100,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if not given.table:
        for cell in CELLS:
            nc.train(config_of(*cell), out=given.out, data_dir=given.data)
        return
    frame = nc.runs(given.out)
    last = frame[frame.status == "finished"].groupby("run_id").tail(1)
    keys = ["loss_data", "accuracy", "nc1", "nc2_equinorm", "nc2_cosine", "nc3", "nc4"]
    columns = [f"train.{key}" for key in keys] + ["test.accuracy", "relative_gradient", "norm_spread"]
    table = last.set_index(["per_class", "network", "weight_decay"])[columns].sort_index()
    table.to_csv(HERE / "cifar-part.csv", float_format="%.4g")
    print(table.T.to_string(float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
