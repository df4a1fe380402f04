"""Neural collapse in the loggers of a Lightning trainer, by one callback."""

import argparse
import tempfile
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from neurocollapse.integrations.lightning import NeuralCollapseCallback

C, p = 4, 16


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(p, 64), nn.ReLU(), nn.Linear(64, C))

    def forward(self, inputs):
        return self.network(inputs)

    def training_step(self, batch, _):
        inputs, labels = batch
        return nn.functional.cross_entropy(self(inputs), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-3)


def main(epochs: int, every: int) -> None:
    torch.manual_seed(0)
    labels = torch.arange(200) % C
    inputs = torch.randn(C, p)[labels] + torch.randn(200, p)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=32, shuffle=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=CSVLogger(folder),
            callbacks=[NeuralCollapseCallback(every, weight_decay=5e-3)],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            log_every_n_steps=1,
        )
        trainer.fit(Classifier(), loader)
        (written,) = Path(folder).rglob("metrics.csv")
        names, *rows = [line.split(",") for line in written.read_text(encoding="utf-8").splitlines()]

    shown = ["epoch", "nc/nc1", "nc/nc2_etf", "nc/nc3", "nc/weight_norms.0", "nc/weight_norms.1"]
    print(f"The trainer logged {sum(name.startswith('nc/') for name in names)} numbers under nc/, such as:")
    print("  ".join(f"{name:>17}" for name in shown))
    for row in rows:
        print("  ".join(f"{float(row[names.index(name)]):17.4g}" for name in shown))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--every", type=int, default=10, help="measure after so many epochs")
    options = parser.parse_args()
    main(options.epochs, options.every)
