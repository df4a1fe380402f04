"""Theory beside measurement while a network trains: the central path, quasi-interpolation and Theorem 2.3, by epoch."""

import argparse

import torch
from torch import nn

import neurocollapse as nc

DECAY = 5e-3


def main(epochs: int, every: int) -> None:
    data = nc.load_dataset("gaussian").train
    torch.manual_seed(0)
    classes = int(data.labels.max()) + 1
    model = nc.build_network("mlp", (16,), classes, depth=3, width=32, bias=True)
    # The classifier's bias in a group of its own, so that it does not decay: then the theorem can hold.
    weights = [p for name, p in model.named_parameters() if name != "classifier.bias"]
    groups = [{"params": weights, "weight_decay": DECAY}, {"params": [model.classifier.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    targets = nn.functional.one_hot(data.labels).float()

    print("epoch  L(W_LS)   L − L(W_LS)  ε       its spread  Eq. 3    Σ_c W^c")
    for epoch in range(1, epochs + 1):
        for batch in torch.randperm(len(targets)).split(50):
            optimizer.zero_grad()
            # half of the sum over classes, so that the optimiser's decay is λ of Eq. 1
            (classes / 2 * nn.functional.mse_loss(model(data.images[batch]), targets[batch])).backward()
            optimizer.step()
        if epoch % every == 0:
            table = nc.verify(model, [(data.images, data.labels)], weight_decay=optimizer)  # its groups say what decays
            residuals = {row.name: row.residual for row in table}
            f = table.facts
            print(
                f"{epoch:5}  {f['L(W_LS)']:.2e}  {f['L − L(W_LS)']:.2e}     {f['sqi_gap']:.4f}  "
                f"{f['sqi_gap_spread']:.4f}      {residuals['‖W^c‖², Eq. 3']:.1e}  {residuals['‖Σ_c W^c‖']:.1e}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--every", type=int, default=20, help="verify after so many epochs")
    options = parser.parse_args()
    main(options.epochs, options.every)
