"""Watch neural collapse in a plain PyTorch loop: one call, every few epochs, on training and on held-out data."""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import neurocollapse as nc

C, p = 5, 20


def mixture(per_class: int, seed: int) -> TensorDataset:
    """Gaussian classes that overlap."""
    centers = 0.8 * torch.randn(C, p, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(C).repeat(per_class)
    noise = torch.randn(len(labels), p, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(centers[labels] + noise, labels)


def main(epochs: int, every: int) -> None:
    torch.manual_seed(0)
    train = DataLoader(mixture(100, seed=1), batch_size=50, shuffle=True)
    test = DataLoader(mixture(40, seed=2), batch_size=50)
    model = nn.Sequential(nn.Linear(p, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, C))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-3)

    print("epoch   nc1 train    nc1 test    nc2_etf        nc3   accuracy train, test")
    for epoch in range(1, epochs + 1):
        for inputs, labels in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        if epoch % every == 0:
            # The model is then in its own mode again. Held-out samples are compared with the means of the training set.
            m = nc.measure_model(model, train)
            held_out = nc.measure_model(model, test, means=m.means)
            print(
                f"{epoch:5}  {m['nc1']:10.3e}  {held_out['nc1']:10.3e}  {m['nc2_etf']:9.3f}  {m['nc3']:9.3f}   "
                f"{m['accuracy']:8.1%}, {held_out['accuracy']:.1%}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--every", type=int, default=10, help="measure after so many epochs")
    options = parser.parse_args()
    main(options.epochs, options.every)
